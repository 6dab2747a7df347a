"""Signals at many moments of a run, from its first import to its last close; then the same command once more.

python tests/helpers/signal_sweep.py --moments 60
"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from common_flax.signals import handled

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RUN = ["--arch", "resnet20", "--width", "4", "--data", "fake:8x8x3:4:64", "--batch-size", "16", "--ema", "0.9"]
# Lines of a run after which signals come, and how many seconds later at most; "" is the first import.
MOMENTS = [
    *(("", 4.0), ("run ", 0.5), ("compiling", 3.0), ("compiled", 0.3), ("epoch 1/", 0.1), ("epoch 2/", 0.3)),
    *(("epoch 5/", 0.2), ("last epoch", 0.1), ("last epoch", 1.0), ("test accuracy", 0.02), ("weights,", 0.3)),
]


@dataclass
class Trial:
    """A run that was sent signals, and what was left of it."""

    name: str
    code: int
    said: list[str]  # lines on stderr
    seconds: float  # from the first signal to the end
    before: int  # the newest checkpoint before the signal; -1 without one
    after: int

    def wrong(self) -> list[str]:
        """Returns what a user would complain about."""
        numbers = [int(number) for number in SIGNALS]
        wrong = [] if self.code in (0, *(128 + number for number in numbers)) else [f"exit code {self.code}"]
        if len(self.said) > 1 or (self.code != 0 and len(self.said) != 1):
            wrong.append(f"{len(self.said)} lines on stderr")
        if self.after < self.before:
            wrong.append(f"checkpoint {self.before} is lost")
        saved = re.search(r"after step (\d+), which is saved", "".join(self.said))
        if saved and int(saved[1]) != self.after:
            wrong.append(f"step {saved[1]} is not saved")
        return wrong


class Sweep:
    """Trials of one run, beside the same run left alone."""

    def __init__(self, folder: Path, steps: int = 40):
        self.folder, self.steps = folder, steps
        self.environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
        self.finish(folder / "whole")
        self.expected = weights(folder / "whole")

    def command(self, out: Path) -> list[str]:
        return [
            sys.executable,
            "-W",
            "error",
            str(ROOT / "train.py"),
            *RUN,
            "--steps",
            str(self.steps),
            "--out",
            str(out),
        ]

    def finish(self, out: Path) -> str:
        """Runs the command to its end, and returns its output."""
        done = subprocess.run(self.command(out), env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    def trial(self, name: str, line: str, delay: float, signals: list[int], gap: float) -> Trial:
        """Sends signals `delay` seconds after a line of the run, `gap` seconds apart."""
        out, pipe = self.folder / name, subprocess.PIPE
        # The child would inherit what nohup and shells ignore, but not a handler.
        with handled(signal.default_int_handler, *SIGNALS):
            process = subprocess.Popen(self.command(out), env=self.environment, stdout=pipe, stderr=pipe, text=True)
        seen, said = threading.Event(), []
        line = line.replace("last epoch", f"epoch {self.steps // 4}/")

        def read_lines():
            for printed in process.stdout:
                if printed.startswith(line):
                    seen.set()
            seen.set()

        readers = [threading.Thread(target=read_lines), threading.Thread(target=lambda: said.extend(process.stderr))]
        for reader in readers:
            reader.start()
        if line:
            seen.wait()
        else:
            wait_for_handler(process.pid)
        time.sleep(delay)
        before, start = newest(out), time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(gap)
        code = process.wait(timeout=120)
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()
        said = [text.rstrip("\n") for text in said if text.strip()]
        return Trial(name, code, said, time.monotonic() - start, before, newest(out))

    def check(self, trial: Trial) -> list[str]:
        """Returns what is wrong with a trial, and with the same command once more."""
        out, wrong = self.folder / trial.name, trial.wrong()
        printed = self.finish(out)
        if trial.after > 0 and trial.code and f"going on after step {trial.after} of" not in printed:
            wrong.append(f"does not go on after step {trial.after}")
        if weights(out) != self.expected:
            wrong.append("other weights")
        return wrong

    def draw(self, number: int, rng: random.Random) -> Trial:
        """Runs trial `number`: every other one is a double, of two signals that may differ."""
        line, most = MOMENTS[number % len(MOMENTS)]
        first, second = rng.choice(SIGNALS), rng.choice(SIGNALS)
        signals = [first, second] if rng.random() < 0.5 else [first]
        delay, gap = rng.uniform(0, most), rng.choice([0.0, 0.02, 0.3])
        names = "+".join(signal.Signals(each).name for each in signals)
        name = f"{number}-{line.strip(' ,/').replace(' ', '-').replace('/', '') or 'import'}+{delay:.2f}s-{names}"
        return self.trial(name, line, delay, signals, gap)


def weights(out: Path) -> list[str]:
    """Returns the check sums of a run's weights."""
    return [hashlib.sha256((out / f"{name}.safetensors").read_bytes()).hexdigest() for name in ("model", "model_ema")]


def newest(out: Path) -> int:
    """Returns the step of the newest checkpoint, -1 without one."""
    folder = out / "checkpoints"
    return (
        max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=-1) if folder.is_dir() else -1
    )


def wait_for_handler(process: int) -> None:
    """Waits until a process minds SIGTERM: before, it is Python that starts."""
    while True:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--moments", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    rng, failures = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Sweep(given.out or Path(temporary))
        for number in range(given.moments):
            trial = sweep.draw(number, rng)
            wrong = sweep.check(trial)
            failures += bool(wrong)
            print(f"{trial.name}: exit {trial.code} after {trial.seconds:.1f} s", end="")
            print(f", checkpoint {trial.before} → {trial.after}, {trial.said}", *wrong, sep="; WRONG: ", flush=True)
    print(f"{given.moments} moments, {failures} wrong")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
