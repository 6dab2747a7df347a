"""The command line of `train.py` and `python -m training_flax`."""

import json
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import NoReturn

import jax

from common_flax.backend import check_backend
from common_flax.command_line import parse_options, run_command, write_to_any_terminal
from common_flax.errors import one_line
from common_flax.signals import STOP, StopRequest, leave, stop_on_signals
from common_flax.terminal import complain, complaining, say
from training_flax.config.config import OLD_NAMES, TrainConfig
from training_flax.config.of_run import options_of_run
from training_flax.config.recipes import with_recipe
from training_flax.config.train_help import GROUPS, help_text, how_to_start
from training_flax.evaluate import evaluate_run
from training_flax.fit import fit
from training_flax.range_test import lr_range
from training_flax.run.plan import plan
from training_flax.runtime.compilation import keep_compiled_programs
from training_flax.runtime.distributed import join_processes
from training_flax.runtime.lost_processes import ProcessLost, watched
from training_flax.runtime.memory import keep_memory
from training_flax.runtime.signals import RunError, Stopped
from training_flax.runtime.terminal import orbax_hidden


@dataclass(frozen=True)
class CommandLine(TrainConfig):
    """The options of a training run, and of this process if several train together."""

    extend: bool = False
    """Let an existing run continue for more epochs or steps."""
    eval_only: bool = False
    """Evaluate the run in --out, or --weights, on the whole test split, and train nothing."""
    lr_range: bool = False
    """Take 100 steps, or --steps, at rising learning rates, and suggest one; writes lr_range.png and lr_range.json."""
    print_config: bool = False
    """Print all options, with those of the recipe, and train nothing."""
    verbose: bool = False
    """Show also what libraries tell of an error."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, or "auto" on a Cloud TPU pod. SLURM, MPI and GKE need none."""
    num_processes: int | None = None
    """Number of processes that train together."""
    process_id: int | None = None
    """Number of this process, from 0."""

    @property
    def training(self) -> TrainConfig:
        """The options of the run, without those of the command."""
        return TrainConfig(**{option.name: getattr(self, option.name) for option in fields(TrainConfig)})


def parse(arguments: Sequence[str], prog: str = "train.py") -> CommandLine:
    """Parses the command line, which may have old names of options; raises ValueError, one line, if it is wrong."""
    words = list(arguments)
    for old, new in OLD_NAMES.items():
        words = [re.sub(f"^--{old}(?==|$)", f"--{new.replace('_', '-')}", word) for word in words]
    return parse_options(CommandLine, words, prog=prog, description=help_text(), groups=GROUPS)


def run(options: CommandLine, stop: StopRequest) -> None:
    """Trains, evaluates or prints the config, as the options say."""
    if options.eval_only and options.extend:
        raise ValueError("eval_only trains nothing, and extend trains longer; give one of them")
    training = options.training
    # An evaluation takes only some of the run's; a range test refuses a run.
    if options.print_config or not (options.eval_only or options.lr_range):
        training = options_of_run(training, extend=options.extend)
    if options.print_config:
        say(*json.dumps(asdict(with_recipe(training)), indent=2, default=str).splitlines())
        return
    keep_memory()
    keep_compiled_programs()
    jax.config.update("jax_enable_x64", training.dtype == "float64")
    join_processes(options.coordinator, options.num_processes, options.process_id, show_all=options.verbose)
    others = watched()
    try:
        _run(options, training, stop)
    except Exception as error:
        if others is None or isinstance(error, Stopped):
            raise
        if others.explains(error):
            raise (error if isinstance(error, ProcessLost) else others.error()) from error
        others.leave_note(one_line(error))
        raise
    if others is not None:
        others.finished()


def _run(options: CommandLine, training: TrainConfig, stop: StopRequest) -> None:
    check_backend(x64=training.dtype == "float64")
    if options.eval_only:
        stop.unarmed = "in the evaluation; there is nothing to save"
        evaluate_run(training)
        return
    if options.lr_range:
        stop.unarmed = "in the range test; there is nothing to save"
        lr_range(training)
        return
    fit(plan(training, extend=options.extend), stop=stop)
    if stop.stop_signal >= STOP:
        complain(f"{signal.Signals(stop.stop_signal - STOP).name} came after the last step; the run is finished")


def main(
    arguments: Sequence[str], prog: str = "train.py", stop: StopRequest | None = None, hidden: ExitStack | None = None
) -> int:
    """Runs the command line.

    Args:
        arguments: the words after the program's name.
        prog: the program's name.
        stop: the request of `stop_on_signals` if the caller minds signals already; None has them minded from here on.
        hidden: hides Orbax until the caller closes it; None hides it within the call. Threads of Orbax may outlive it.

    Returns:
        The exit code: 2 after an error, 75 if another process died, 128 + the number of a signal that stopped the run,
        else 0.
    """
    name = prog.split()[-1]
    if not arguments:
        say(*how_to_start(prog), file=sys.stderr)
        return 2
    with ExitStack() as stack:
        request = stop or stack.enter_context(stop_on_signals())

        def command() -> None:
            options = parse(arguments, prog)
            if not options.verbose:
                (hidden or stack).enter_context(orbax_hidden())
            with complaining("weights_flax", name):
                run(options, request)

        try:
            return run_command(name, command, RunError)
        except Stopped as stopped:
            complain(f"{name}: {stopped}")
            return stopped.exit_code


def start(prog: str, stop: StopRequest) -> NoReturn:
    """Runs this process's command line, and ends the process with its exit code."""
    write_to_any_terminal()
    with ExitStack() as hidden:
        code = main(sys.argv[1:], prog, stop, hidden)
        # Processes that train together wait for each other, unless one has had an error.
        leave(code, at_once=code in (2, ProcessLost.exit_code) or not jax.distributed.is_initialized())
