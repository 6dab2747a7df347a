"""Cost of prediction from files beside the bare forward pass: `python -m benchmarks.predict --weights FILE IMAGES`.

The same network runs by `FileStream` (files decoded, predictions fetched) and as a jitted forward pass that repeats one
batch in memory, in turn, in one process. Prints one line of JSON. On a shared machine the time of the cores is more
reliable than that of the clock.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tyro.conf import Positional

from benchmarks.command_line import compared, run_benchmark
from training_flax import build_model, normalise
from training_flax.files.listing import find_images
from training_flax.inference.classifier import Classifier
from training_flax.inference.predict import FileStream
from training_flax.inference.transform import View
from weights_flax import load_model
from weights_flax.io.archs import published_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Options:
    """Compares the speed of prediction from files with that of the bare forward pass."""

    images: Positional[tuple[str, ...]]
    """Image files and folders."""
    weights: str | None = None
    """A file of weights; without one the weights are random."""
    arch: str = "resnet20"
    """The architecture without --weights."""
    batch_size: int = 64
    workers: int | None = None
    """The number of threads that decode images."""
    rounds: int = 10
    """The images are divided among the rounds, in whole batches."""


def note(speeds: dict, cpu: dict, side: str, images: int, start: tuple[float, float]) -> None:
    speeds[side].append(images / (time.perf_counter() - start[0]))
    cpu[side] += (time.process_time() - start[1]) / images


def main(options: Options) -> None:
    paths = find_images(options.images, ())
    if options.weights:
        model, variables, _ = load_model(options.weights)
    else:
        model = build_model(options.arch)
        example = np.zeros((1, 32, 32, 3), np.float32)
        variables = model.init(jax.random.key(0), example, train=False)
    size = published_size(model)
    view = View((size, size))
    classifier = Classifier(model, variables, MEAN, STD, None, options.batch_size, len(paths))
    classifier.compile(view.shape)
    bare = jax.jit(lambda variables, images: model.apply(variables, normalise(images, MEAN, STD), train=False))
    batch = next(iter(FileStream(classifier, paths[: classifier.batch_size], view))).images
    on_device = jax.device_put((dict(variables), batch))
    jax.block_until_ready(bare(*on_device))
    speeds: dict[str, list[float]] = {"predict": [], "bare forward pass": []}
    cpu = dict.fromkeys(speeds, 0.0)
    waits = np.zeros(2)
    for number in range(options.rounds):
        share = paths[number :: options.rounds]
        share = share[: len(share) // classifier.batch_size * classifier.batch_size]
        start = (time.perf_counter(), time.process_time())
        stream = FileStream(classifier, share, view, options.workers)
        seen = sum(len(batch.paths) for batch in stream)
        note(speeds, cpu, "predict", seen, start)
        waits += (stream.waited_for_network, stream.waited_for_images)
        start = (time.perf_counter(), time.process_time())
        for _ in range(seen // classifier.batch_size):
            jax.block_until_ready(bare(*on_device))
        note(speeds, cpu, "bare forward pass", seen, start)
    result = {
        "network": Path(options.weights).name if options.weights else options.arch,
        "images": len(paths),
        "pixels": size,
        "batch_size": classifier.batch_size,
        "workers": options.workers,
        **compared(speeds),
        **{f"{side}, ms of a core an image": round(1e3 * c / options.rounds, 3) for side, c in cpu.items()},
        "waited for the network, s": round(float(waits[0]), 2),
        "waited for images, s": round(float(waits[1]), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run_benchmark("benchmarks.predict", main, Options)
