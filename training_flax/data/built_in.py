"""Data sets that need no files of the user's: handwritten digits, and noise for measurements of speed."""

import re
from importlib.metadata import distribution

import numpy as np

from common_flax.checks import check_pixels
from training_flax.data.source import Source, Sources

SPLIT = 1437  # train images of the digits
TRAIN, TEST = 1024, 256  # images of noise
MOST_CLASSES, MOST_IMAGES = 10**6, 5 * 10**7


def preparation_of(name: str) -> str:
    """Returns how photos become images like those of the data set called `name`, see `View`: "digit" or "none"."""
    return "digit" if name in ("digits", "dataset:digits") else "none"  # by name, or opened and passed to `fit`


def digits(rest: str = "") -> Sources:
    """Reads handwritten digits: 1,437 train and 360 test images of 32×32×3 pixels, 10 classes.

    The images are the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), as
    scikit-learn ships it: 1,797 images of 8×8 pixels with 17 grey levels. The test split here is the last fifth in
    file order, written by other people than most of the rest. Pixels are repeated to 32×32, and the grey channel to
    three, so that every network of both families takes them. Raises ValueError unless `rest`, the text after the colon
    in the name of the data set, is empty.
    """
    if rest:
        raise ValueError(f"data set 'digits' takes nothing more; given {'digits:' + rest!r}")
    # 64 pixels and a label in each line, read from the installed file: importing scikit-learn takes seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, 1).repeat(4, 2)[..., None], 3, -1)
    labels = table[:, -1].astype(np.int32)
    train, test = _held(images[:SPLIT], labels[:SPLIT]), _held(images[SPLIT:], labels[SPLIT:])
    return Sources(train, test, tuple(map(str, range(10))))


def _held(images: np.ndarray, labels: np.ndarray) -> Source:
    return Source(labels, lambda _: images.shape[1:3], images.__getitem__)


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
