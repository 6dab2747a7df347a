"""Tools beside the tests, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PATHS = os.pathsep.join(map(str, (HERE.parents[1], HERE)))


def succeeds(tool: str, *arguments: str | Path) -> None:
    """Runs a tool, and fails with what it says if it finds something."""
    command = [sys.executable, HERE / f"{tool}.py", *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": PATHS}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
