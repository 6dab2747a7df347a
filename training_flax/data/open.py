"""Data sets by name: the only module that knows all kinds of data sets."""

from collections.abc import Callable
from pathlib import Path

from common_flax.checks import check_pixels, check_positive, one_of
from training_flax.data.built_in import digits, fake
from training_flax.data.dataset import Dataset
from training_flax.data.folder import folder
from training_flax.data.source import Sources, as_dataset
from training_flax.data.tfds import prepared

KINDS: dict[str, Callable[..., Sources]] = {"digits": digits, "fake": fake, "folder": folder, "tfds": prepared}
"""The reader of each kind of data set, a function of the text after the first colon of the data set's name."""


def open_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    strict: bool = False,
    image_size: int | None = None,
    default_image_size: int = 32,
) -> Dataset:
    """Opens the data set called `name`.

    A data set is held in memory if all its images have the same size (`image_size`, unless that is None) and each split
    has at most 1 GiB of pixels. Any other is streamed.

    Args:
        name: "digits", "fake:HxWxC:CLASSES[:TRAIN]", "folder:PATH" or "tfds:NAME[:VERSION][:SLICE]"; see docs/data.md.
        data_dir: folder of the prepared data sets of TFDS; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        train_split, test_split: the splits to take: of TFDS, as TFDS spells them, or folders in PATH. Left out, their
            usual names are looked for.
        strict: a file among the images of a folder that is no image is an error, and not passed over.
        image_size: height and width that networks see; None is the images' own size.
        default_image_size: the size for `image_size=None` if the images differ in size.

    Raises:
        ValueError: there is no such data set, or it cannot be read; one line with the reason and the place.
    """
    kind, _, rest = name.partition(":")
    one_of("data set", kind, KINDS)
    if image_size is not None:
        check_positive("image_size", image_size)
        check_pixels("image_size", image_size, image_size)
    check_positive("default_image_size", default_image_size)
    if data_dir is not None and kind != "tfds":
        raise ValueError(f"data_dir is where data sets of TFDS are, and {name!r} is none; given {str(data_dir)!r}")
    chosen = dict(train_split=train_split, test_split=test_split)
    for option, value in chosen.items():
        if value is not None and kind not in ("folder", "tfds"):
            raise ValueError(f"{option} is for 'folder:PATH' and 'tfds:NAME'; {name!r} has its own; given {value!r}")
    if strict and kind != "folder":
        raise ValueError(f"strict is for 'folder:PATH'; {name!r} has no files that are passed over; given {strict}")
    if kind == "tfds":
        sources = prepared(rest, data_dir, **chosen)
    else:
        sources = folder(rest, **chosen, strict=strict) if kind == "folder" else KINDS[kind](rest)
    return as_dataset(name, sources, image_size, default_image_size)
