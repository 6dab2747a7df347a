"""Speed of inference with folded BatchNorms: `python -m benchmarks.fold --arch densenet121 --batch 1`.

The network and the folded network, both compiled, run in turn in one process on the same random images. Prints a line
of JSON: median seconds a batch of each, the median of the rounds' ratios with their spread, and the relative difference
of the logits.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command_line import run_benchmark
from weights_flax import build_model, fold_batch_norm
from weights_flax.io.archs import published_size


@dataclass(frozen=True)
class Options:
    """Compares the speed of a network with that of its folded version."""

    arch: str = "resnet50"
    batch: int = 8
    rounds: int = 15
    seconds: float = 0.5
    """Time of each network in a round; at least one batch."""


def main(options: Options) -> None:
    model = build_model(options.arch)
    pixels = published_size(model)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((options.batch, pixels, pixels, 3)), jnp.float32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    networks = {"network": (model, variables), "folded": fold_batch_norm(model, variables)}
    runs: dict[str, Callable[[], jax.Array]] = {
        name: partial(jax.jit(network.apply).lower(values, images).compile(), values, images)
        for name, (network, values) in networks.items()
    }
    logits = {name: np.asarray(run()) for name, run in runs.items()}
    seconds = {name: [time_of(run, options.seconds)] for name, run in runs.items()}
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name].append(time_of(run, options.seconds))
    ratios = np.divide(seconds["network"][1:], seconds["folded"][1:])
    difference = np.abs(logits["folded"] - logits["network"]).max() / np.abs(logits["network"]).max()
    result = {
        **vars(options),
        **{f"{name}, seconds": round(float(np.median(times[1:])), 4) for name, times in seconds.items()},
        "ratio": round(float(np.median(ratios)), 3),
        "spread of the ratio": [round(float(share), 3) for share in np.quantile(ratios, [0.1, 0.9])],
        "relative difference": float(difference),
    }
    print(json.dumps(result))


def time_of(run: Callable[[], jax.Array], least: float) -> float:
    """Returns seconds a call, over as many calls as take `least` seconds together."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < least:
        run().block_until_ready()
        count += 1
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    run_benchmark("benchmarks.fold", main, Options)
