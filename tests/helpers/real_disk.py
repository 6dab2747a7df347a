"""Loss of power for real: a run on a file system in a file; copies of that file are what the disk had at a moment.

It needs root, loop devices and ext4. A copy while the run is stopped holds what the kernel has written so far.

python tests/helpers/real_disk.py FOLDER [--mount OPTIONS] [--moments N]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import short_runs

MEGABYTES = 64
STEPS = 120
AFTER = (0, 1, 4, 12)  # seconds after the end
BEGIN = "begins"


@contextmanager
def mounted(image: Path, place: Path, options: str) -> Iterator[Path]:
    """Mounts a file with a file system; raises CalledProcessError where that is not allowed."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,{options}", image, place], check=True, capture_output=True, text=True)
    try:
        yield place
    finally:
        for _ in range(50):  # a process that was killed may still hold it for a moment
            if subprocess.run(["umount", place], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)


def can_mount(folder: Path) -> bool:
    """Makes a file system in a file and mounts it."""
    if shutil.which("mkfs.ext4") is None or shutil.which("mount") is None or os.geteuid() != 0:
        return False
    try:
        make_disk(folder / "try.img")
        with mounted(folder / "try.img", folder / "try", "defaults"):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def make_disk(image: Path) -> None:
    """Makes a file with an empty file system."""
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)


def copy(image: Path, to: Path) -> None:
    """Copies a file without its holes."""
    subprocess.run(["cp", "--sparse=always", image, to], check=True)


def train_here(folder: Path) -> int:
    """Trains in a folder, after a word that everything is compiled; a process of its own."""
    short_runs.share_programs()
    short_runs.train(folder.parent / "compiled", steps=STEPS)
    print(BEGIN, flush=True)
    return short_runs.train(folder, steps=STEPS).code


def wrong_after(snapshot: Path, folder: Path, options: str, expected: tuple) -> Iterator[str]:
    """Mounts what a disk had, looks for empty files, and trains on."""
    with mounted(snapshot, folder / "snapshot", options) as disk:
        run = disk / "run"
        for path in run.rglob("*"):
            ours = path.name != ".lock" and not any(part in str(path) for part in short_runs.UNFINISHED)
            if ours and path.is_file() and path.stat().st_size == 0:
                yield f"{path.relative_to(disk)} is empty"
        outcome = short_runs.train(run, steps=STEPS)
        if outcome.code or outcome.error:
            yield f"exit code {outcome.code}, {outcome.error}"
        elif short_runs.results(run) != expected:
            yield f"other results, after {[line for line in outcome.out if 'going on' in line]}"
        elif left := short_runs.left_behind(run):
            yield f"left behind: {left[:3]}"


def cuts(folder: Path, options: str, moments: int, seconds: float) -> Iterator[tuple[str, Path]]:
    """Trains in a process of its own, and yields the moments and files of what the disk had at them."""
    image, taken = folder / "disk.img", []
    make_disk(image)
    with mounted(image, folder / "disk", options) as disk:
        command = [sys.executable, __file__, str(disk / "run"), "--train"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == BEGIN
            start = time.monotonic()
            for number in range(1, moments + 1):
                time.sleep(max(start + number * seconds / (moments + 1) - time.monotonic(), 0))
                process.send_signal(signal.SIGSTOP)
                copy(image, folder / f"{number}.img")
                process.send_signal(signal.SIGCONT)
                taken.append((f"{time.monotonic() - start:.1f} s after the start", folder / f"{number}.img"))
            assert process.wait(600) == 0
        end = time.monotonic()
        for later in AFTER:
            time.sleep(max(end + later - time.monotonic(), 0))
            copy(image, folder / f"after {later}.img")
            taken.append((f"{later} s after the end", folder / f"after {later}.img"))
    yield from taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", action="store_true", help="only train in the folder")
    parser.add_argument("--mount", default="defaults", help="options of mount")
    parser.add_argument("--moments", type=int, default=10, help="losses of power during the run")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.train:
        return train_here(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not can_mount(folder):
        print("mounting is not allowed")
        return 77
    short_runs.share_programs()
    short_runs.train(folder / "compiled", steps=STEPS)
    start = time.monotonic()
    short_runs.train(folder / "whole", steps=STEPS)
    seconds, expected, problems = time.monotonic() - start, short_runs.results(folder / "whole"), 0
    for moment, snapshot in cuts(folder, given.mount, given.moments, seconds):
        wrong = list(wrong_after(snapshot, folder, given.mount, expected))
        problems += len(wrong)
        print(f"{moment}: {'; '.join(wrong) or 'the same weights'}", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
