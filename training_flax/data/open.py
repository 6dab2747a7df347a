"""Data sets by their names: the one place that knows which kinds there are."""

from pathlib import Path

from common_flax.checks import check_positive, one_of
from training_flax.data.dataset import Dataset
from training_flax.data.source import as_dataset

DATASETS = ("digits", "fake", "folder", "tfds")
"""What may stand before the first colon of a data set's name."""


def open_dataset(
    name: str, *, data_dir: str | Path | None = None, image_size: int | None = None, default_image_size: int = 32
) -> Dataset:
    """The data set called `name`.

    A data set whose images all have one size, which is `image_size` where that is given, and whose parts have at most
    1 GiB of pixels each, comes whole in memory. Any other is streamed.

    Args:
        name: "digits", "fake:HxWxC:CLASSES[:TRAIN]", "folder:PATH" or "tfds:NAME[:VERSION]"; see docs/data.md.
        data_dir: where prepared data sets of TFDS are; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        image_size: height and width that networks shall see; None is the images' own size.
        default_image_size: what None means where sizes differ.

    Raises:
        ValueError: there is no such data set, or it cannot be read: one line that says what is wrong and where.
    """
    kind, _, rest = name.partition(":")
    one_of("data set", kind, DATASETS)
    if image_size is not None:
        check_positive("image_size", image_size)
    check_positive("default_image_size", default_image_size)
    if data_dir is not None and kind != "tfds":
        raise ValueError(f"data_dir is where data sets of TFDS are, and {name!r} is none; given {str(data_dir)!r}")
    # Each reader loads libraries that the others do without.
    if kind == "digits":
        from training_flax.data.digits import digits

        found = digits(rest)
    elif kind == "fake":
        from training_flax.data.fake import fake

        found = fake(rest)
    elif kind == "folder":
        from training_flax.data.folder import folder

        found = folder(rest)
    else:
        from training_flax.data.tfds import prepared

        found = prepared(rest, data_dir)
    return as_dataset(name, found, image_size, default_image_size)
