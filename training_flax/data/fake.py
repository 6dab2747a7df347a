"""Noise in place of images, for measurements of speed."""

import re

import numpy as np

from common_flax.checks import check_pixels
from training_flax.data.source import Source, Sources

TRAIN, TEST = 1024, 256  # images
MOST_CLASSES, MOST_IMAGES = 10**6, 5 * 10**7


def fake(rest: str) -> Sources:
    """Makes images of noise: uniform bytes, seeded by split and index; class sizes differ by one image at most.

    Args:
        rest: "HxWxC:CLASSES" or "HxWxC:CLASSES:TRAIN": height, width and channels (1 or 3) of the images, number of
            classes, number of train images (default 1,024). There are 256 test images.

    Raises:
        ValueError: `rest` has another form, or numbers beyond all data sets.
    """
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([13]):([1-9]\d*)(?::([1-9]\d*))?", rest)):
        raise ValueError(
            f"fake data are 'fake:HxWxC:CLASSES' or 'fake:HxWxC:CLASSES:TRAIN' with 1 or 3 channels, "
            f"such as 'fake:224x224x3:1000'; given {'fake:' + rest!r}"
        )
    numbers = [number or str(TRAIN) for number in match.groups()]
    if max(map(len, numbers)) > 9 or int(numbers[3]) > MOST_CLASSES or int(numbers[4]) > MOST_IMAGES:
        raise ValueError(f"fake data have at most {MOST_CLASSES:,} classes and {MOST_IMAGES:,} images; given {rest!r}")
    height, width, channels, classes, train = map(int, numbers)
    check_pixels("an image of fake data", height, width)
    shape = (height, width, channels)
    splits = _noise(0, train, shape, classes), _noise(1, TEST, shape, classes)
    return Sources(*splits, tuple(map(str, range(classes))))


def _noise(seed: int, examples: int, shape: tuple[int, int, int], classes: int) -> Source:
    labels = (np.arange(examples) % classes).astype(np.int32)

    def read(index: int) -> np.ndarray:
        return np.random.default_rng((seed, index)).integers(0, 256, shape, np.uint8)

    return Source(labels, lambda _: shape[:2], read)
