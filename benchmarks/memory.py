"""Memory of a training step by depth, with and without `remat`, and what that costs: `python -m benchmarks.memory`.

Memory is XLA's temporary memory, known once a step is compiled. Time is of a few steps in turn, in one process. Prints
a JSON line for each.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import linen as nn

from benchmarks.command_line import check_known, fail, listed
from benchmarks.memory_page import write_page
from benchmarks.ours import compiled_facts
from layers_flax import count_parameters
from training_flax import build_model, compiler_options, init_state, make_train_step
from weights_flax import ARCHS

SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    depth: str = "densenet264,densenet_bc_250_24"
    """Densely connected networks, of which a quarter to all of the layers are compiled."""
    price: str = "densenet121,densenet_bc_100_12,resnet50,resnet56"
    """Networks that are trained with and without `remat`."""
    batch_size: int = 8
    rounds: int = 5
    write: bool = False
    """Write docs/memory.md and its figure."""


def main(options: Options) -> None:
    dense = [name for name in ARCHS if name.startswith("densenet")]
    check_known("benchmarks.memory", "depth", options.depth, dense)
    check_known("benchmarks.memory", "price", options.price, ARCHS)
    if options.batch_size < 1 or options.rounds < 1:
        fail(
            "benchmarks.memory",
            f"--batch-size and --rounds must be at least 1; given {options.batch_size} and {options.rounds}",
        )
    depths, prices = [], []
    for arch in listed(options.depth):
        for share in SHARES:
            whole = build_model(arch)
            model = whole.clone(block_sizes=tuple(max(1, round(share * size)) for size in whole.block_sizes))
            row: dict[str, Any] = {"arch": arch, "layers": sum(model.block_sizes), "batch": options.batch_size}
            row["gradient_mb"] = 4e-6 * count_parameters(model)
            for name, remat in (("default", False), ("remat", True)):
                row[name] = compile_step(model.clone(remat=remat), options.batch_size)[1]
            print(json.dumps(row), flush=True)
            depths.append(row)
    for arch in listed(options.price):
        row = {"arch": arch, "batch": options.batch_size} | price(build_model(arch), options)
        print(json.dumps(row), flush=True)
        prices.append(row)
    for fit in (line_of(depths, arch, name) for arch in listed(options.depth) for name in ("default", "remat")):
        print(json.dumps(fit), flush=True)
    if options.write:
        write_page(depths, prices, line_of)


def compile_step(model: nn.Module, batch: int) -> tuple[Callable[..., Any], dict[str, float], Any]:
    """The compiled step of `training_flax`, seconds and memory, and shapes of its arguments."""
    pixels = 32 if model.stem_kind == "cifar" else 224
    optimiser = optax.sgd(0.1, momentum=0.9)
    images = jax.ShapeDtypeStruct((batch, pixels, pixels, 3), jnp.float32)
    state = jax.eval_shape(lambda: init_state(model, optimiser, jax.random.key(0), jnp.zeros((1, *images.shape[1:]))))
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    start = time.perf_counter()
    program = jax.jit(make_train_step(model, optimiser), donate_argnums=0).lower(state, images, labels)
    step = program.compile(compiler_options=compiler_options(remat=model.remat))
    return step, compiled_facts(step, start), images


def price(model: nn.Module, options: Options) -> dict[str, Any]:
    """Times and memory of both, in turn; the price is the median ratio of the rounds."""
    steps, states, facts, images = {}, {}, {}, None
    optimiser = optax.sgd(0.1, momentum=0.9)
    for name, remat in (("default", False), ("remat", True)):
        made = model.clone(remat=remat)
        steps[name], facts[name], images = compile_step(made, options.batch_size)
        states[name] = init_state(made, optimiser, jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.standard_normal(images.shape), jnp.float32), jnp.arange(options.batch_size) % 10
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], *batch))
            if number > 0:  # the first touches memory for the first time
                seconds[name].append(time.perf_counter() - start)
    ratios = [again / plain for again, plain in zip(seconds["remat"], seconds["default"], strict=True)]
    return facts | {"times as long": median(ratios), "least": min(ratios), "most": max(ratios)}


def line_of(rows: Sequence[dict[str, Any]], arch: str, name: str) -> dict[str, Any]:
    """The straight line nearest to memory over layers, and how far the points are from it, in parts of the largest.

    Without the gradient of the parameters, of which there are as many as the square of the layers.
    """
    layers = np.array([row["layers"] for row in rows if row["arch"] == arch])
    megabytes = np.array([row[name]["temp_mb"] - row["gradient_mb"] for row in rows if row["arch"] == arch])
    slope, start = np.polyfit(layers, megabytes, 1)
    off = np.abs(megabytes - slope * layers - start).max() / megabytes.max()
    return {"arch": arch, "of": name, "mb a layer": slope, "mb of none": start, "off the line": off}


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.memory"))
