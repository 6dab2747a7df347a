"""The command train.py as tests call it, and what it leaves."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


NETWORK = ["--arch", "resnet20", "--width", "4", "--batch-size", "32", "--schedule", "constant", "--warmup", "0"]
CORE_SECONDS = 20  # the longest time of a refusal


def contents(folder):
    """Returns all files of a folder, with their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in sorted(folder.rglob("*"))
    }


def refused(door, *arguments, **options):
    """Returns the one line of error when a command is refused or a run fails."""
    code, _, err = door(*arguments, **options)
    assert code == 2, err
    assert err.startswith("train.py: error: ")
    assert err.endswith("\n")
    # Where a folder has another form, three lines show the forms that are read.
    assert err.count("\n") == (4 if "Images are expected as one of:\n" in err else 1), err
    return err.removeprefix("train.py: error: ").rstrip("\n")


def truncate(path, by):
    path.write_bytes(path.read_bytes()[:-by])


FOUR = ["--steps", "4", "--out", "run"]
SIX = ["--steps", "6", "--extend", "--out", "run"]


def unfinished(run):
    """Makes the run look as if it had been killed before its end."""
    (run / "summary.json").unlink()


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 0xFF
    path.write_bytes(held)


def halve(path):
    truncate(path, path.stat().st_size // 2)
