"""Random damages to finished and unfinished runs, read by every door: right results, or one line.

python tests/helpers/damaged_runs.py FOLDER [--damages N] [--first I]
"""

import argparse
import collections
import hashlib
import os
import random
import shutil
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import short_runs
from PIL import Image

from training_flax import restore
from training_flax.inference import command as predict_command
from training_flax.run import comparison
from training_flax.runtime.signals import RunError
from weights_flax import __main__ as weights_command, load_model

TWICE = 0.2  # share of trials with a second damage


class Refused(Exception):
    """The one line with which a door refuses a run."""


def change(path: Path, draw: random.Random) -> str:
    """Changes a file in a random way."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(max(len(data), 1))

    def with_another_byte(mask: int) -> bytes:
        return data[:place] + bytes(byte ^ mask for byte in data[place : place + 1]) + data[place + 1 :]

    kinds: dict[str, Callable[[], bytes]] = {
        "a byte is another": lambda: with_another_byte(draw.randint(1, 255)),
        "a bit is another": lambda: with_another_byte(1 << draw.randrange(8)),
        "a block is zero": lambda: data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :],
        "a block is missing": lambda: data[:place] + data[place + draw.randint(1, 512) :],
        "a block comes twice": lambda: data[: place + 512] + data[place:],
        "cut": lambda: data[:place],
        "longer": lambda: data + draw.randbytes(draw.randint(1, 1000)),
        "empty": lambda: b"",
        "noise": lambda: draw.randbytes(len(data)),
        "without its last line": lambda: b"".join(bytes(data).splitlines(keepends=True)[:-1]),
        "lines in another order": lambda: b"".join(draw.sample(lines := bytes(data).splitlines(True), len(lines))),
    }
    kind = draw.choice(list(kinds))
    path.write_bytes(kinds[kind]())
    return kind


def replace(path: Path, draw: random.Random, other: Path, run: Path) -> str:
    """Puts something else in the place of a file or a folder, or takes it away."""

    def removed() -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def folder() -> None:
        removed()
        path.mkdir()

    def pipe() -> None:
        removed()
        os.mkfifo(path)

    def loop() -> None:
        removed()
        path.symlink_to(path.name)

    def of_another_run() -> None:
        source = other / path.relative_to(run)
        if not source.exists():  # names of arrays' files are random
            beside = sorted(entry for entry in source.parent.glob("*")) if source.parent.exists() else []
            source = draw.choice(beside) if beside else other / "config.json"
        removed()
        shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)

    def of_this_run() -> None:
        like = [each for each in path.parent.iterdir() if each != path and each.is_dir() == path.is_dir()]
        same = [each for each in like if each.suffix == path.suffix] or like or [path]
        (source := draw.choice(same)).rename(kept := path.with_name("kept"))
        if source != path:
            path.rename(source)
        kept.rename(path)

    def twice() -> None:
        name = str(int(path.name) + draw.choice((1, 100))) if path.name.isdigit() else f"{path.name} copy"
        shutil.copytree(path, path.with_name(name)) if path.is_dir() else shutil.copyfile(path, path.with_name(name))

    kind = draw.choice([removed, folder, pipe, loop, of_another_run, of_this_run, twice])
    kind()
    return kind.__name__.replace("_", " ")


def damage(run: Path, draw: random.Random, other: Path) -> str:
    """Damages a run at random, and tells how."""
    tops = [path for path in sorted(run.iterdir()) if path.name != ".lock"]
    below = sorted((run / "checkpoints").rglob("*")) if (run / "checkpoints").is_dir() else []
    steps = [path for path in below if path.parent.name == "checkpoints"]
    path = draw.choice(draw.choice([group for group in (tops, tops, below, steps) if group]))
    regular = path.is_file() and not path.is_symlink()
    how = change(path, draw) if regular and draw.random() < 0.6 else replace(path, draw, other, run)
    return f"{path.relative_to(run)}: {how}"


class Doors:
    """All ways to read a run, each with a result that can be compared."""

    def __init__(self, folder: Path):
        self.folder, self.image = folder, folder / "image.png"
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(self.image)
        self.all: dict[str, Callable[[Path], Hashable]] = {
            "restore": lambda run: digest(restore(run)[1]),
            "restore last": lambda run: digest(restore(run, which="last")[1]),
            "load_model": lambda run: digest(load_model(run).variables),
            "load_model last": lambda run: digest(load_model(run, which="last").variables),
            "export": self.export,
            "predict": lambda run: said(predict_command.main, str(self.image), "--run", str(run), "--json"),
            "compare": lambda run: said(comparison.main, str(run), "--out", str(folder / "compare.png")),
            "--eval-only": lambda run: answered(short_runs.train(run, "--eval-only"))[-1:],
            "train": self.train,
        }

    def export(self, run: Path) -> Hashable:
        out = self.folder / "exported.pth"
        said(weights_command.main, "export", "--run", str(run), "--format", "torch", "--out", str(out))
        return hashlib.sha256(out.read_bytes()).hexdigest()

    def train(self, run: Path) -> Hashable:
        told = "metrics.jsonl" in "".join(answered(short_runs.train(run)))  # what it has lost
        found = short_runs.results(run, metrics=not told)
        left = short_runs.left_behind(run)
        return (
            hashlib.sha256(repr(found[:-1]).encode()).hexdigest(),
            "lost, and told" if told else repr(found[-1]),
            *left,
        )


def digest(variables: Any) -> str:
    """A hash of all arrays and their names."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(variables))
    total = hashlib.sha256()
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        total.update(path.encode() + leaf.tobytes())
    return total.hexdigest()


def said(main: Callable[[list[str]], int], *arguments: str) -> tuple[str, ...]:
    """The lines that a command prints; raises Refused if it refuses in one line."""
    return answered(short_runs.said_by(lambda: main(list(arguments))))


def answered(outcome: short_runs.Outcome) -> tuple[str, ...]:
    if outcome.code == 2 and len(outcome.error) == 1 and "error: " in outcome.error[0]:
        raise Refused(outcome.error[0])
    if outcome.code or "Traceback" in "".join(outcome.error):
        raise AssertionError(f"exit code {outcome.code}, {len(outcome.error)} lines: {outcome.error[-3:]}")
    return tuple(outcome.out)


def result(door: Callable[[Path], Hashable], run: Path) -> tuple[str, Hashable]:
    """Returns "right" and what a door reads, "refused" and its line, or "wrong" and what happened."""
    try:
        return "right", door(run)
    except (ValueError, RunError, Refused) as error:
        return ("wrong" if "\n" in str(error) else "refused"), str(error)
    except BaseException as error:
        return "wrong", f"{type(error).__name__}: {str(error)[:300]}"


class Damages:
    """Damaged copies of runs, and the results that their doors may have.

    Args:
        folder: a new folder for all of them.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        short_runs.share_programs()
        self.copy, self.doors = folder / "run", Doors(folder)
        self.runs = {name: folder / name / "run" for name in ("finished", "unfinished", "other")}
        for name, options in (("finished", ()), ("other", ("--seed", "1"))):
            short_runs.train(self.runs[name], *options)
        shutil.copytree(self.runs["finished"], self.runs["unfinished"])
        for name in ("summary.json", "confusion.png", *short_runs.WEIGHTS):
            (self.runs["unfinished"] / name).unlink()
        shutil.rmtree(self.runs["unfinished"] / "checkpoints/12")
        self.right = {name: self._right(name) for name in ("finished", "unfinished")}

    def _right(self, name: str) -> dict[str, set[Hashable]]:
        """The results of each door for a whole run; for an unfinished one also those of fewer checkpoints or lines."""
        allowed: dict[str, set[Hashable]] = collections.defaultdict(set)
        for door, read in self.doors.all.items():
            self._fresh(name)
            allowed[door].add(read(self.copy))
        self._fresh(name)
        (self.copy / "metrics.jsonl").unlink()
        allowed["train"].add(self.doors.train(self.copy))
        assert len({weights for weights, *_ in allowed["train"]}) == 1
        if name == "unfinished":
            lines = (self.runs[name] / "metrics.jsonl").read_bytes().splitlines(keepends=True)
            for count in range(len(lines)):
                self._fresh(name)
                (self.copy / "metrics.jsonl").write_bytes(b"".join(lines[:count]))
                allowed["compare"].add(self.doors.all["compare"](self.copy))
            self._fresh(name)
            shutil.rmtree(self.copy / "checkpoints/8")
            for door in self.doors.all.keys() - {"compare", "train"}:
                allowed[door].add(self.doors.all[door](self.copy))
        return allowed

    def _fresh(self, name: str) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.runs[name], self.copy)

    def trial(self, seed: int, tally: collections.Counter[str]) -> list[str]:
        """Damages a run, and reads it by all doors; returns what was wrong."""
        draw = random.Random(seed)
        name = draw.choice(("finished", "unfinished"))
        self._fresh(name)
        how = [damage(self.copy, draw, self.runs["other"])]
        if draw.random() < TWICE:
            with suppress(OSError):  # the first damage may hinder the second
                how.append(damage(self.copy, draw, self.runs["other"]))
        problems = []
        for door, read in self.doors.all.items():
            with short_runs.watched(lambda trial=f"{seed}: {name}, {how}, {door}": trial):
                verdict, found = result(read, self.copy)
            if verdict == "right" and found not in self.right[name][door]:
                verdict, found = "wrong", f"other numbers: {str(found)[:300]}"
            tally[f"{door}: {verdict}"] += 1
            if verdict == "wrong":
                problems.append(f"{seed}: {name}, {'; '.join(how)} | {door} | {found}".replace(str(self.copy), "RUN"))
        return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    options = parser.parse_args()
    damages, tally, wrong = Damages(options.folder.resolve()), collections.Counter(), 0
    for seed in range(options.first, options.first + options.damages):
        problems = damages.trial(seed, tally)
        wrong += len(problems)
        if problems:
            print(*problems, sep="\n", flush=True)
        if (seed + 1 - options.first) % 100 == 0:
            print(f"{seed + 1 - options.first} damages, {wrong} problems", flush=True)
    print(*(f"{name} {count}" for name, count in sorted(tally.items())), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
