"""One training step of one network, timed: `python -m benchmarks.speed --arch resnet50 --batch-size 8`.

Prints one line of JSON: seconds to compile, XLA's temporary memory, the median time of a step, images a second. A step
is forward, backward and an SGD-with-momentum update, BatchNorm in train mode, the old state's memory given on; images
are random, of the size the architecture was published for.
"""

import argparse
import json
import resource
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training_flax import ARCHS, build_model, init_state, make_train_step


def measure(arch: str, batch_size: int, steps: int) -> dict:
    """Times `steps` steps after a first one that is not counted."""
    model = build_model(arch)
    pixels = 224 if model.num_classes == 1000 else 32
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch_size, pixels, pixels, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, model.num_classes, batch_size), jnp.int32)
    optimiser = optax.sgd(0.1, momentum=0.9)
    state = jax.jit(partial(init_state, model, optimiser))(jax.random.key(0), images[:1])
    start = time.perf_counter()
    step = jax.jit(make_train_step(model, optimiser), donate_argnums=0).lower(state, images, labels).compile()
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, images, labels)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[1:]))
    return {
        "arch": arch,
        "batch_size": batch_size,
        "seconds": round(seconds, 4),
        "images_per_second": round(batch_size / seconds, 2),
        "compile_seconds": round(compile_seconds, 1),
        "temp_mb": round(step.memory_analysis().temp_size_in_bytes / 1e6),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", choices=ARCHS, required=True, metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
