"""What prediction from files costs beside the bare forward pass: `python -m benchmarks.predict --weights FILE IMAGES`.

The same network, by `FileStream` (files decoded, predictions fetched) and as a jitted forward pass over one batch in
memory, repeated, in turn, in one process. Prints one line of JSON. On a machine that others use too, the time of its
cores says more than that of the clock.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from tyro.conf import Positional

from training_flax import build_model, normalise
from training_flax.data.folder import find_images
from training_flax.inference.classifier import Classifier
from training_flax.inference.predict import FileStream
from training_flax.inference.transform import View
from weights_flax import load_model
from weights_flax.io.archs import published_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    images: Positional[tuple[str, ...]]
    """Files and folders."""
    weights: str | None = None
    """File of weights; left out, they are drawn."""
    arch: str = "resnet20"
    """Architecture, where no weights are given."""
    batch_size: int = 64
    workers: int | None = None
    """Threads that decode."""
    rounds: int = 10
    """In each round either side has its share of the images, in whole batches."""


def note(rates: dict, cpu: dict, side: str, images: int, start: tuple[float, float]) -> None:
    rates[side].append(images / (time.perf_counter() - start[0]))
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
    rates: dict[str, list[float]] = {"predict": [], "bare forward pass": []}
    cpu = dict.fromkeys(rates, 0.0)
    waits = np.zeros(2)
    for number in range(options.rounds):
        share = paths[number :: options.rounds]
        share = share[: len(share) // classifier.batch_size * classifier.batch_size]
        start = (time.perf_counter(), time.process_time())
        stream = FileStream(classifier, share, view, options.workers)
        seen = sum(len(found.paths) for found in stream)
        note(rates, cpu, "predict", seen, start)
        waits += (stream.waited_for_network, stream.waited_for_images)
        start = (time.perf_counter(), time.process_time())
        for _ in range(seen // classifier.batch_size):
            jax.block_until_ready(bare(*on_device))
        note(rates, cpu, "bare forward pass", seen, start)
    ratios = np.divide(rates["predict"], rates["bare forward pass"])
    print(
        json.dumps(
            {
                "network": Path(options.weights).name if options.weights else options.arch,
                "images": len(paths),
                "pixels": size,
                "batch_size": classifier.batch_size,
                "workers": options.workers,
                **{f"{side}, images/s": round(float(np.median(rate)), 1) for side, rate in rates.items()},
                "ratio": round(float(np.median(ratios)), 4),
                "spread of the ratio": [round(float(ratios.min()), 4), round(float(ratios.max()), 4)],
                **{f"{side}, ms of a core an image": round(1e3 * c / options.rounds, 3) for side, c in cpu.items()},
                "waited for the network, s": round(float(waits[0]), 2),
                "waited for images, s": round(float(waits[1]), 2),
            }
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
