"""Data sets by name: the only module that knows all kinds of data sets."""

from collections.abc import Callable
from pathlib import Path

from common_flax.checks import check_pixels, check_positive, one_of
from training_flax.data.built_in import digits, fake
from training_flax.data.dataset import Dataset
from training_flax.data.folder import folder
from training_flax.data.held_out import Draw, with_parts
from training_flax.data.source import Sources, as_dataset
from training_flax.data.table import table
from training_flax.data.tfds import prepared
from training_flax.files.layout import NONE

KINDS: dict[str, Callable[..., Sources]] = {
    "digits": digits,
    "fake": fake,
    "folder": folder,
    "csv": table,
    "tfds": prepared,
}
"""The reader of each kind of data set, a function of the text after the first colon of the data set's name."""

GIVEN = ("arrays", "batches", "dataset")
"""Kinds of data that were passed to `fit(config, data=…)`, as config.json of a run names them; none can be opened."""


def check_data(what: str, name: str) -> None:
    """Raises ValueError, with the nearest match, unless `name` is that of a data set, or of data passed to `fit`."""
    if name.partition(":")[0] not in GIVEN:
        one_of(what, name.partition(":")[0], KINDS)


def open_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    validation_split: str | None = None,
    strict: bool = False,
    image_size: int | None = None,
    default_image_size: int = 32,
    draw: Draw | None = None,
) -> Dataset:
    """Opens the data set called `name`.

    A data set is held in memory if all its images have the same size (`image_size`, unless that is None) and each split
    has at most 1 GiB of pixels. Any other is streamed.

    Args:
        name: "digits", "fake:HxWxC:CLASSES[:TRAIN]", "folder:PATH", "csv:FILE" or "tfds:NAME[:VERSION][:SLICE]"; see
            docs/data.md.
        data_dir: folder of the prepared data sets of TFDS; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        train_split, test_split: the splits to take: of TFDS, as TFDS spells them, or folders in PATH. Left out, their
            usual names are looked for.
        validation_split: a folder in PATH for validation, or "none". Left out, val, valid or validation beside a test
            part.
        strict: a file among the images of a folder that is no image is an error, and not passed over.
        image_size: height and width that networks see; None is the images' own size.
        default_image_size: the size for `image_size=None` if the images differ in size.
        draw: shares and seed of the parts that are held out; None holds out a fifth for tests, by seed 0, of folders
            and tables without a test part.

    Raises:
        ValueError: there is no such data set, or it cannot be read; one line with the reason and the place.
    """
    kind, _, rest = name.partition(":")
    if kind in GIVEN:
        raise ValueError(
            f"data {name!r} were passed to fit(config, data=…), and are in no file: pass them again to go on, or to "
            "evaluate(model, variables, dataset)"
        )
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
    if validation_split not in (None, NONE) and kind != "folder":
        raise ValueError(f"validation_split is for 'folder:PATH', and {name!r} is none; given {validation_split!r}")
    if strict and kind != "folder":
        raise ValueError(f"strict is for 'folder:PATH'; {name!r} has no files that are passed over; given {strict}")
    if kind == "tfds":
        sources = prepared(rest, data_dir, **chosen)
    elif kind == "folder":
        sources = folder(rest, **chosen, validation_split=validation_split, strict=strict)
    elif kind == "csv":
        sources = table(rest, validated=validation_split != NONE)
    else:
        sources = KINDS[kind](rest)
    return as_dataset(name, with_parts(name, sources, draw or Draw()), image_size, default_image_size)
