"""The front door of one of several processes, which may be killed at a moment of its run.

python tests/helpers/dying_process.py MOMENT:NUMBER OPTIONS

MOMENT is "step", "evaluation", "checkpoint", "results", "error" (an error of its own in a step) or "none"; NUMBER
counts from 1. A process that is killed gets SIGKILL.
"""

import os
import signal
import sys

import short_runs  # noqa: F401  (a network of three blocks)

from training_flax import train_command
from training_flax.run.checkpoints import Checkpoints
from training_flax.run.loop import Loop
from training_flax.runtime.signals import RunError


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RunError("a fault of its own")


def at(owner, name, number, act, after=False):
    """Has the `number`-th call of a method act, before or after its own work."""
    method, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(True)
        if after:
            result = method(*args, **kwargs)
        if len(calls) == number:
            act()
        return result if after else method(*args, **kwargs)

    setattr(owner, name, counted)


moment, _, number = sys.argv[1].partition(":")
moments = {
    "step": lambda n: at(Loop, "stop_signal", n, die),
    "evaluation": lambda n: at(Loop, "check_stop", n, die),
    "checkpoint": lambda n: at(Checkpoints, "save", n, die, after=True),
    "results": lambda n: at(sys.modules["training_flax.fit"], "write_results", n, die),
    "error": lambda n: at(Loop, "stop_signal", n, fail),
    "none": lambda n: None,
}
moments[moment](int(number or 0))
sys.argv[1:] = sys.argv[2:]
with train_command.stop_on_signals() as stop:
    train_command.start("train.py", stop)
