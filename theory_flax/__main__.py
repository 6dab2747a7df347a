"""The claims of the theory from the command line: python -m theory_flax NAME --out DIR."""

import sys
import time
from collections.abc import Sequence
from importlib import import_module

import jax

from common_flax.backend import check_backend
from common_flax.checks import one_of
from common_flax.command_line import parse_options, write_to_any_terminal
from theory_flax.base.figures import save_figure
from theory_flax.base.options import Claim, Options, meant_for
from theory_flax.base.results import save_result
from training_flax import RunError, keep_compiled_programs

CLAIMS = (
    "gradient_identity",
    "shattering",
    "degradation",
    "identity_mapping",
    "nesting",
    "feature_reuse",
    "architectures",
)


def find(name: str) -> Claim:
    """The claim called `name`, from its folder; its libraries are loaded only now."""
    experiment = import_module(f"theory_flax.{name}.experiment")
    figure = import_module(f"theory_flax.{name}.figure")
    return Claim(experiment.measure, figure.draw, figure.summary, experiment.USES)


def run(options: Options) -> None:
    """Runs one claim, or all of them; each leaves NAME.json and NAME.png."""
    one_of("claim", options.claim, (*CLAIMS, "all"))
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
    """Measures one claim, writes what came out and says it."""
    start = time.perf_counter()
    print(f"{name}:", flush=True)
    result = claim.measure(options, lambda line: print(f"  {line}", flush=True))
    seconds = time.perf_counter() - start
    about = {"claim": name, "quick": options.quick, "data": options.data, "seconds": round(seconds, 1)}
    save_result(result, options.out / f"{name}.json", **about, jax=jax.__version__)
    save_figure(claim.draw(result), options.out / f"{name}.png")
    for line in claim.summary(result):
        print(f"  {line}")
    print(f"  {options.out / name}.json and .png after {seconds:.0f} s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; gives the exit code: 2 for what cannot be done."""
    description = "Runs a claim of the theory, and draws it.\n\nClaims: " + ", ".join((*CLAIMS, "all"))
    try:
        run(parse_options(Options, arguments, prog="python -m theory_flax", description=description))
    except (ValueError, RunError) as error:
        print(f"theory_flax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    write_to_any_terminal()
    sys.exit(main(sys.argv[1:]))
