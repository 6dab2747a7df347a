"""The claims of the theory from the command line: python -m theory_flax NAME --out DIR."""

import time
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from importlib import import_module
from typing import Annotated, Any, Union

import jax
from tyro.conf import Suppress, subcommand

from common_flax.backend import check_backend
from common_flax.checks import one_of
from common_flax.command_line import parse_options, run_command, start_command
from common_flax.terminal import tell
from theory_flax.base.figures import save_figure
from theory_flax.base.options import ALWAYS, Claim, Options, meant_for
from theory_flax.base.results import save_result
from theory_flax.experiments.networks import data_name
from training_flax import RunError, keep_compiled_programs

# The claims, and the options that each of them uses besides --out and --quick.
CLAIMS = {
    "gradient_identity": {"arch", "run", "which", "data", "data_dir"},
    "shattering": {"arch", "run", "which", "data", "data_dir", "seeds"},
    "degradation": {"data", "data_dir", "seeds"},
    "identity_mapping": {"data", "data_dir", "seeds"},
    "nesting": {"data", "data_dir", "seeds"},
    "feature_reuse": {"arch", "run", "which", "data", "data_dir", "seeds"},
    "architectures": {"arch", "run", "which"},
}


def find(name: str) -> Claim:
    """Loads the claim called `name` from its folder."""
    experiment = import_module(f"theory_flax.{name}.experiment")
    figure = import_module(f"theory_flax.{name}.figure")
    return Claim(experiment.measure, figure.draw, figure.summary, frozenset(CLAIMS[name]))


def parse(arguments: Sequence[str]) -> Options:
    """Reads a command line, whose first word is a claim or "all"; errors as `parse_options`."""
    help_wanted = not {"-h", "--help"}.isdisjoint(arguments)
    names = (*CLAIMS, "all")
    if arguments and not help_wanted:
        one_of("claim", arguments[0], names)
    commands: Any = Union[tuple(_command(name, help_wanted) for name in names)]  # noqa: UP007
    description = "Runs a claim of the theory, and draws it."
    return parse_options(commands, arguments, prog="python -m theory_flax", description=description)


def _command(name: str, hide: bool) -> Any:
    """Makes the type of a sub-command; with `hide`, for the help, only with the options that the claim uses.

    Without `hide` all options are read, so that `meant_for` can name those that the claim does not use.
    """
    suppress: Any = Suppress
    hidden: list[Any] = [("claim", suppress[str], name)]
    if hide and name in CLAIMS:
        unused = [field for field in fields(Options) if field.name not in CLAIMS[name] | ALWAYS]
        hidden += [(field.name, suppress[field.type], field.default) for field in unused]
    kind = make_dataclass(name, hidden, bases=(Options,), frozen=True)
    line = import_module(f"theory_flax.{name}").__doc__ if name in CLAIMS else "All claims, one after the other."
    return Annotated[kind, subcommand(name, description=line)]


def run(options: Options) -> None:
    """Runs one claim, or all of them; each writes NAME.json and NAME.png."""
    claims = {name: find(name) for name in (CLAIMS if options.claim == "all" else (options.claim,))}
    meant = {name: meant_for(name, claim, options) for name, claim in claims.items()}
    try:
        check_backend()
        options.out.mkdir(parents=True, exist_ok=True)
        keep_compiled_programs()
        for name, claim in claims.items():
            show(name, claim, meant[name])
    except OSError as error:
        raise ValueError(f"out {str(options.out)!r} cannot be written: {error.strerror or error}") from None


def show(name: str, claim: Claim, options: Options) -> None:
    """Measures one claim, writes the result and its figure, and prints the summary."""
    start = time.perf_counter()
    tell(f"{name}:")
    result = claim.measure(options, lambda line: tell(f"  {line}"))
    seconds = time.perf_counter() - start
    about = {"claim": name, "quick": options.quick, "data": data_name(options), "seconds": round(seconds, 1)}
    save_result(result, options.out / f"{name}.json", **about, jax=jax.__version__)
    save_figure(claim.draw(result), options.out / f"{name}.png")
    for line in claim.summary(result):
        tell(f"  {line}")
    tell(f"  {options.out / name}.json and .png after {seconds:.0f} s")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 2 after an error that the user can correct."""
    return run_command("theory_flax", lambda: run(parse(arguments)), RunError)


if __name__ == "__main__":
    start_command(main)
