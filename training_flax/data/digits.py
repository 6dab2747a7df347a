"""Handwritten digits, which need no download."""

from importlib.metadata import distribution

import numpy as np

from training_flax.data.source import Source, Sources

SPLIT = 1437


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
    train, test = _source(images[:SPLIT], labels[:SPLIT]), _source(images[SPLIT:], labels[SPLIT:])
    return Sources(train, test, tuple(map(str, range(10))))


def _source(images: np.ndarray, labels: np.ndarray) -> Source:
    return Source(labels, lambda _: images.shape[1:3], images.__getitem__)
