"""Errors of the disk at every file call of a short run: the same command goes on afterwards, and ends as if unbroken.

python tests/helpers/failing_calls.py FOLDER [--sample N] [--modes MODE…] [--part I/N]
"""

import argparse
import collections
import errno
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import short_runs
from file_calls import FileCalls, Group, Manner

LINES = 6  # on stderr, at most


class Mode(NamedTuple):
    """The calls that fail, and the run that they belong to: a new one, or one that goes on from its checkpoints."""

    group: Group
    error: int
    manner: Manner
    goes_on: bool = False


MODES = {
    "full-once": Mode(Group.CHANGES, errno.ENOSPC, Manner.ONCE),
    "full": Mode(Group.CHANGES, errno.ENOSPC, Manner.ALWAYS),
    "error-once": Mode(Group.CHANGES, errno.EIO, Manner.ONCE),
    "error": Mode(Group.CHANGES, errno.EIO, Manner.ALWAYS),
    "half": Mode(Group.WRITE, errno.ENOSPC, Manner.HALF),
    "half-then-full": Mode(Group.WRITE, errno.ENOSPC, Manner.HALF_THEN_ALWAYS),
    "read-only": Mode(Group.CHANGES, errno.EROFS, Manner.ALWAYS, goes_on=True),
    "reading-once": Mode(Group.READ, errno.EIO, Manner.ONCE, goes_on=True),
    "reading": Mode(Group.READ, errno.EIO, Manner.ALWAYS, goes_on=True),
}


class Trials:
    """Runs in which one call fails.

    Args:
        folder: a new folder for all of them.
    """

    def __init__(self, folder: Path):
        self.folder, self.stopped = folder, folder / "stopped"
        short_runs.share_programs()
        short_runs.train(folder / "whole")  # compiles, and starts programs that could not start later
        self.expected = short_runs.results(folder / "whole")
        shutil.copytree(folder / "whole", self.stopped)
        for path in [
            *self.stopped.glob("*.json"),
            *self.stopped.glob("*.safetensors"),
            self.stopped / "checkpoints/12",
        ]:
            if path.name != "config.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.calls = FileCalls(folder)

    def count(self, mode: Mode) -> int:
        """The number of calls that can fail."""
        run = self._begin("count", mode)
        self.calls.fail(run, 0, mode.group, mode.error)
        short_runs.train(run)
        count = self.calls.count
        self.calls.let_pass()
        shutil.rmtree(run)
        return count

    def _begin(self, name: str, mode: Mode) -> Path:
        run = self.folder / name
        if mode.goes_on:
            shutil.copytree(self.stopped, run)
        return run

    def fail(self, mode: Mode, number: int) -> tuple[str, list[str]]:
        """Lets call `number` fail, then runs the same command; returns the call, and what was wrong."""
        run = self._begin(f"fails at {number}", mode)
        self.calls.fail(run, number, mode.group, mode.error, mode.manner)
        problems = list(self._first(run))
        failed = self.calls.failed
        self.calls.let_pass()
        problems += list(self._again(run))
        shutil.rmtree(run, ignore_errors=True)
        return failed.replace(str(run), "RUN"), problems

    def _first(self, run: Path) -> Iterator[str]:
        try:
            outcome = short_runs.train(run)
        except BaseException as error:
            yield f"{type(error).__name__}: {str(error)[:200]}"
            return
        finally:
            short_runs.settle()
        complaints = [line for line in outcome.error if line.startswith("train.py: error: ")]
        if (outcome.code, len(complaints)) not in ((0, 0), (2, 1)):
            yield f"exit code {outcome.code} with {complaints}"
        if len(outcome.error) > LINES:
            yield f"{len(outcome.error)} lines, such as {[line[:200] for line in outcome.error[:3]]}"

    def _again(self, run: Path) -> Iterator[str]:
        try:
            outcome = short_runs.train(run)
            if outcome.code:  # lines on stderr may be of threads whose process would have ended
                yield f"again: exit code {outcome.code}, {outcome.error[-1:]}"
            elif short_runs.results(run) != self.expected:
                yield "again: other results"
            elif left := short_runs.left_behind(run):
                yield f"again: left behind {left[:3]}"
        except BaseException as error:
            yield f"again: {type(error).__name__}: {str(error)[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, help="number of calls of each mode; all without it")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--part", default="1/1", help="the part of all calls that this process takes, such as 1/2")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    trials = Trials(options.folder.resolve())
    wrong = 0
    for name in options.modes:
        mode = MODES[name]
        numbers = list(range(part, trials.count(mode) + 1, parts))
        if options.sample is not None:
            numbers = sorted(random.Random(name).sample(numbers, min(options.sample, len(numbers))))
        kinds: collections.Counter[str] = collections.Counter()
        for number in numbers:
            with short_runs.watched(lambda trial=f"{name}, call {number}": f"{trial}, {trials.calls.failed}"):
                failed, problems = trials.fail(mode, number)
            kinds[failed.split(" ")[0] or "none"] += 1
            wrong += bool(problems)
            for problem in problems:
                print(f"  {name}, call {number}, {failed}: {problem}", flush=True)
        print(f"{name}: {len(numbers)} calls, {dict(kinds)}", flush=True)
    print(f"{wrong} runs with problems")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
