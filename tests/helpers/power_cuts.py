"""Loss of power at every file call of a short run, by recorded calls; in a sample of cases the run goes on.

python tests/helpers/power_cuts.py FOLDER [--again N]
"""

import argparse
import json
import random
import shutil
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import disk
import short_runs
from file_calls import Call, FileCalls, read_calls

from common_flax.check_sums import NAME

RUN = "run/"
SEEDS = 3  # states with some of the unsynced changes, for each call


@cache
def crc32(data: bytes) -> int:
    return zlib.crc32(data)


def is_whole(state: disk.Files, step: int) -> bool:
    """Returns True if a checkpoint has check sums, and all files as they were written."""
    folder = f"{RUN}checkpoints/{step}/"
    try:
        sums = json.loads(state.get(folder + NAME) or b"{}")
    except ValueError:
        return False
    contents = {name: state.get(folder + name) for name in sums}
    return bool(sums) and all(data is not None and crc32(data) == sums[name] for name, data in contents.items())


def steps(state: disk.Files) -> list[int]:
    """The steps of all checkpoints under their names, whole or not."""
    folder = f"{RUN}checkpoints/"
    names = [path[len(folder) :] for path in state if path.startswith(folder)]
    return sorted(int(name) for name in names if name.isdigit())


def wrong(state: disk.Files, final: disk.Files, promised: int) -> Iterator[str]:
    """Describes what must not be found after a loss of power.

    Args:
        state: the files that are left.
        final: the files of the finished run.
        promised: the newest checkpoint that was whole on the disk before; 0 for none.
    """
    for path, data in state.items():
        name = path.removeprefix(RUN)
        if data is None or "/" in name or name == ".lock" or any(part in name for part in short_runs.UNFINISHED):
            continue
        if not data:
            yield f"{name} is empty"
        elif name != "metrics.jsonl" and data != final[path]:
            yield f"{name} is not whole"
    newest = max([step for step in steps(state) if is_whole(state, step)], default=0)
    if newest < promised:
        yield f"checkpoint {promised} was whole, and {newest} is the newest now"
    for step in steps(state):
        if step > newest:
            yield f"checkpoint {step} is not whole"


def states(calls: list[Call], root: Path) -> Iterator[tuple[int, str, disk.Files]]:
    """Yields the number of calls, the kind of loss, and the files after it, for a loss after each call."""
    model = disk.Disk(root)
    for number, call in enumerate(calls, 1):
        model.apply(call)
        yield number, "dropped", model.dropped()
        yield number, "emptied", model.emptied()
        yield number, "kept", model.kept()
        for seed in range(SEEDS):
            yield number, f"some kept {seed}", model.any(random.Random(number * SEEDS + seed))


def go_on(state: disk.Files, folder: Path, expected: tuple) -> Iterator[str]:
    """Trains again with the files that are left, and describes what is not as in an unbroken run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk.write_files(state, folder)
    outcome = short_runs.train(folder / RUN)
    if outcome.code or outcome.error:
        yield f"exit code {outcome.code}: {outcome.error}"
    elif short_runs.results(folder / RUN) != expected:
        yield f"other results, after {[line for line in outcome.out if 'going on' in line]}"
    elif left := short_runs.left_behind(folder / RUN):
        yield f"left behind: {left[:3]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--again", type=int, default=0, help="number of cases in which the run goes on")
    options = parser.parse_args()
    folder = options.folder.resolve()
    (folder / "recorded").mkdir(parents=True)

    short_runs.share_programs()
    short_runs.train(folder / "first")  # compiles, and starts programs that could not start later
    file_calls = FileCalls(folder)
    with file_calls.recorded(folder / "recorded", folder / "log"):
        outcome = short_runs.train(folder / "recorded/run")
    assert outcome.code == 0, outcome
    expected, final = short_runs.results(folder / "recorded/run"), disk.read_files(folder / "recorded")
    assert expected == short_runs.results(folder / "first")

    calls, problems, promised, seen = list(read_calls(folder / "log")), [], 0, {}
    for number, kind, state in states(calls, folder / "recorded"):
        if kind == "dropped":
            promised = max([promised, *(step for step in steps(state) if is_whole(state, step))])
            last = state
        seen.setdefault(frozenset(state.items()), (number, kind, state))
        where = f"{kind} after call {number}, {' '.join(calls[number - 1][:1])} {Path(calls[number - 1].path).name}"
        problems += [f"{where}: {text}" for text in wrong(state, final, promised)]
    if state_at_end := {path for path in final if last.get(path, b"") != final[path]}:
        problems.append(f"not on the disk when the run has ended: {sorted(state_at_end)}")
    model = disk.Disk(folder / "recorded")
    for call in calls:
        model.apply(call)
    if model.kept() != final:
        problems.append("the recorded calls are not all that were made")

    again = random.Random(0).sample(list(seen.values()), min(options.again, len(seen)))
    for number, kind, state in again:
        problems += [f"{kind} after call {number}: {text}" for text in go_on(state, folder / "again", expected)]
    print(f"{len(calls)} calls, {len(seen)} states, {len(again)} of them trained on, {len(problems)} problems")
    print(*problems[:40], sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
