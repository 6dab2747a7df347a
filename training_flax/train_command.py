"""The command line of `train.py` and `python -m training_flax`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import jax

from common_flax.backend import check_backend
from common_flax.command_line import parse_options
from training_flax.config.config import TrainConfig
from training_flax.config.recipes import RECIPES, with_recipe
from training_flax.fit import evaluate_run, fit
from training_flax.run.plan import plan
from training_flax.runtime.compilation import keep_compiled_programs
from training_flax.runtime.distributed import join_processes
from training_flax.runtime.memory import keep_memory
from training_flax.runtime.signals import RunError, Stopped, stop_on_signals
from weights_flax.io.archs import FAMILIES


@dataclass(frozen=True)
class CommandLine(TrainConfig):
    """The options of a training run, and how this process takes part in it."""

    extend: bool = False
    """Let a run that is there already go on for more epochs or steps."""
    eval_only: bool = False
    """Evaluate the run in --out, or --weights, on the whole test part, and train nothing."""
    print_config: bool = False
    """Print all options as they are resolved, and train nothing."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, or "auto" on a Cloud TPU pod. Under SLURM, MPI and on GKE they find
    each other."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """Which of them this is, from 0."""

    @property
    def training(self) -> TrainConfig:
        """The options of the run alone."""
        return TrainConfig(**{option.name: getattr(self, option.name) for option in fields(TrainConfig)})


def describe() -> str:
    """What --help says above the options: what this does, and the architectures and recipes."""
    width = max(map(len, FAMILIES))
    families = [f"  {name:{width}}  {', '.join(arch.__name__ for arch in archs)}" for name, archs in FAMILIES.items()]
    recipes = [f"  {name:{width}}  {recipe.target}" for name, recipe in RECIPES.items()]
    lines = ["Trains a residual or densely connected network in JAX.", "", "Architectures:", *families]
    return "\n".join([*lines, "", "Recipes, and what they aim for:", *recipes])


def parse(arguments: Sequence[str], prog: str = "train.py") -> CommandLine:
    """The command line as a config.

    Raises:
        ValueError: what is wrong with it, in one line.
    """
    return parse_options(CommandLine, arguments, prog=prog, description=describe())


def run(options: CommandLine) -> None:
    """Does what the command line asks for."""
    if options.print_config:
        print(json.dumps(asdict(with_recipe(options.training)), indent=2, default=str))
        return
    keep_memory()
    keep_compiled_programs()
    if options.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    join_processes(options.coordinator, options.num_processes, options.process_id)
    check_backend()
    if options.eval_only:
        evaluate_run(options.training)
        return
    job = plan(options.training, extend=options.extend)
    with stop_on_signals() as stop:
        fit(job, stop=stop)


def main(arguments: Sequence[str], prog: str = "train.py") -> int:
    """Runs the command line; gives the exit code: 2 for what cannot be done, 128 + the signal's number if stopped."""
    name = prog.split()[-1]
    try:
        run(parse(arguments, prog))
    except (ValueError, RunError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        return 130  # before anything was begun
    return 0
