"""Memory and time of training steps with and without `remat`, by depth: `python -m benchmarks.memory`.

Memory is XLA's temporary memory, which compilation tells. Time is measured on a few steps in turn, in one process.
Prints a JSON line for each network.
"""

import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.command_line import check_known, fail, listed, run_benchmark
from benchmarks.memory_page import line_of, write_page
from benchmarks.ours import OPTIMIZER, compile_step
from layers_flax import count_parameters
from training_flax import build_model, init_state
from weights_flax import ARCHS
from weights_flax.io.archs import published_size

SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Options:
    """Measures the memory that `remat` saves, and the time that it costs."""

    depth: str = "densenet264,densenet_bc_250_24"
    """Densely connected networks, compiled with a quarter to all of their layers."""
    price: str = "densenet121,densenet_bc_100_12,resnet50,resnet56"
    """Networks to train with and without `remat`."""
    batch_size: int = 8
    rounds: int = 5
    write: bool = False
    """Write docs/memory.md and its figure."""


def main(options: Options) -> None:
    dense = [name for name in ARCHS if name.startswith("densenet")]
    check_known("benchmarks.memory", "depth", options.depth, dense)
    check_known("benchmarks.memory", "price", options.price, ARCHS)
    batch, rounds = options.batch_size, options.rounds
    if batch < 1 or rounds < 1:
        fail("benchmarks.memory", f"--batch-size and --rounds must be at least 1; given {batch} and {rounds}")
    depths, prices = [], []
    for arch in listed(options.depth):
        for share in SHARES:
            whole = build_model(arch)
            model = whole.clone(block_sizes=tuple(max(1, round(share * size)) for size in whole.block_sizes))
            row: dict[str, Any] = {"arch": arch, "layers": sum(model.block_sizes), "batch": batch}
            row["gradient_mb"] = 4e-6 * count_parameters(model)
            row |= {name: compile_step(made, shape_of(made, batch))[1] for name, made in variants(model).items()}
            print(json.dumps(row), flush=True)
            depths.append(row)
    for arch in listed(options.price):
        row = {"arch": arch, "batch": batch} | price(build_model(arch), options)
        print(json.dumps(row), flush=True)
        prices.append(row)
    for fit in (line_of(depths, arch, name) for arch in listed(options.depth) for name in ("default", "remat")):
        print(json.dumps(fit), flush=True)
    if options.write:
        write_page(depths, prices)


def variants(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the network without and with `remat`."""
    return {"default": model.clone(remat=False), "remat": model.clone(remat=True)}


def shape_of(model: nn.Module, batch: int) -> tuple[int, int, int, int]:
    """Returns the shape of a batch of images of the network's published size."""
    return batch, published_size(model), published_size(model), 3


def price(model: nn.Module, options: Options) -> dict[str, Any]:
    """Measures memory and time of both variants in turn; "times as long" is the median ratio of the rounds."""
    steps, states, facts = {}, {}, {}
    shape = shape_of(model, options.batch_size)
    for name, made in variants(model).items():
        steps[name], facts[name] = compile_step(made, shape)
        states[name] = init_state(made, OPTIMIZER, jax.random.key(0), jnp.zeros((1, *shape[1:])))
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.standard_normal(shape), jnp.float32), jnp.arange(options.batch_size) % 10
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], *batch))
            if number > 0:  # the first round allocates memory
                seconds[name].append(time.perf_counter() - start)
    ratios = [again / plain for again, plain in zip(seconds["remat"], seconds["default"], strict=True)]
    return facts | {"times as long": median(ratios), "least": min(ratios), "most": max(ratios)}


if __name__ == "__main__":
    run_benchmark("benchmarks.memory", main, Options)
