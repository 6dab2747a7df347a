"""Handwritten digits, which need no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from training_flax.data.source import Found, Source

SPLIT = 1437


def digits(rest: str = "") -> Found:
    """Handwritten digits: 1,437 train and 360 test images of 32×32×3 pixels, 10 classes.

    The test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), as
    scikit-learn ships it: 1,797 images of 8×8 pixels with 17 grey levels. The last fifth in file order, which were
    written by other people than most of the first, are the test part here. Pixels are repeated to 32×32, and the
    grey channel to three, so that every network of both families takes them.

    Args:
        rest: what stands behind the colon of the data set's name: nothing.

    Raises:
        ValueError: something stands there.
    """
    if rest:
        raise ValueError(f"data set 'digits' takes nothing more; given {'digits:' + rest!r}")
    table = np.loadtxt(_file(), delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, 1).repeat(4, 2)[..., None], 3, -1)
    labels = table[:, -1].astype(np.int32)
    return Found(
        _source(images[:SPLIT], labels[:SPLIT]),
        _source(images[SPLIT:], labels[SPLIT:]),
        tuple(map(str, range(10))),
    )


def _file() -> Path:
    """The table within scikit-learn, 64 pixels and a label in each line: importing the library takes seconds."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _source(images: np.ndarray, labels: np.ndarray) -> Source:
    return Source(labels, lambda _: images.shape[1:3], images.__getitem__)
