"""Weights by name: those that torchvision and timm publish for the networks built here.

published.json is read out of the libraries' own tables by tests/golden/make_published.py, addresses too.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from common_flax.checks import one_of
from common_flax.files import user_path
from weights_flax.formats.open import WeightsFile, open_weights
from weights_flax.io.download import DIGITS, NotFetched, download, sha256_of

CACHE = "WEIGHTS_FLAX_CACHE"  # the variable of the environment that moves the folder
NAME = re.compile(r"(torchvision|timm):")
WRITTEN = re.compile(r"(?:(torchvision|timm)[./])?([\w.]+)")  # a name in another form, or without its library


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A set of weights that a library publishes.

    Attributes:
        name: with the library before it, "torchvision:ResNet50_Weights.IMAGENET1K_V2".
        arch: the architecture here.
        address: of the file.
        sha256: the first eight digits of its hash; None where only the server tells it, with the file.
        mean, std: of each channel, for pixels from 0 to 1.
        image_size: height and width of its images.
        crop, crop_rule, interpolation: of its test images, see `training_flax.data.decode.centre_crop`.
        top1, top5: accuracy on ImageNet's validation images in percent; None where the library tells none.
        licence: of the weights; None where the library tells none.
    """

    name: str
    arch: str
    address: str
    sha256: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    crop: float
    crop_rule: str
    interpolation: str
    top1: float | None
    top5: float | None
    licence: str | None

    @property
    def file(self) -> str:
        """The name of its file in the cache: torch.hub's, or that of the weights."""
        if self.sha256 is not None:
            return self.address.rpartition("/")[2]
        return f"{self.name.partition(':')[2]}{Path(self.address).suffix}"

    def card(self) -> dict[str, Any]:
        """Describes the network as a file's card does, see `save_weights`."""
        library, _, name = self.name.partition(":")
        seen = {"interpolation": self.interpolation, "crop": self.crop, "crop_rule": self.crop_rule}
        licence = {} if self.licence is None else {"licence": self.licence}
        return {
            "arch": self.arch,
            "options": {},
            "num_classes": len(table().classes),
            "class_names": list(table().classes),
            "normalisation": {"mean": list(self.mean), "std": list(self.std)},
            "image_shape": [self.image_size, self.image_size, 3],
            "preprocessing": seen,
            **licence,
            "source": f"{library} {name}, {self.address}",
        }


class Library(msgspec.Struct, frozen=True):
    """A library whose tables were read; `licence` is that of its code."""

    version: str
    licence: str


class Table(msgspec.Struct, frozen=True):
    """The content of published.json.

    Attributes:
        libraries: by name.
        defaults: names without a choice of weights, "torchvision:resnet50", to those that the library takes for them.
        left_out: names of weights that no network can be evaluated with, and why.
        rows: in the order of `ARCHS`.
        classes: ImageNet's 1,000 names of classes, as torchvision spells them.
        notice: the licence of torchvision's tables, names of classes among them.
    """

    libraries: dict[str, Library]
    notice: str
    defaults: dict[str, str]
    left_out: dict[str, str]
    rows: tuple[Published, ...]
    classes: tuple[str, ...]


@cache
def table() -> Table:
    """Reads the table of what is published."""
    return msgspec.json.decode(Path(__file__).with_name("published.json").read_bytes(), type=Table)


def names() -> tuple[str, ...]:
    """Every name of published weights: those with a choice, and the shorter ones that stand for a default."""
    return (*(row.name for row in table().rows), *table().defaults)


def find(name: str) -> Published:
    """Returns the weights of a name.

    Raises:
        ValueError: nothing of this name is published; the nearest is named.
    """
    if name in table().left_out:
        raise ValueError(f"weights {name!r} are not in the table: {table().left_out[name]}")
    try:
        one_of("weights", name, reversed(names()))  # of equally near ones the newest version
    except ValueError as error:
        end = "" if str(error).endswith("?") else ";"
        raise ValueError(f"{error}{end} `python -m weights_flax list` prints all names") from None
    chosen = table().defaults.get(name, name)
    return next(row for row in table().rows if row.name == chosen)


def cache_folder() -> Path:
    """The folder for downloads: that of `CACHE` in the environment, or "weights" in the user's cache folder."""
    chosen = os.environ.get(CACHE)
    return user_path(chosen) if chosen else platformdirs.user_cache_path("resnet-densenet-flax") / "weights"


def kept(row: Published, folder: Path | None = None) -> Path | None:
    """Returns the file of published weights, if it is on this machine and its hash is right; else None.

    It is one of the cache, whose name has the first digits of its hash; one that a user put there under the name
    without them; or one in torch.hub's cache.
    """
    return next((path for path in _places(row, folder or cache_folder()) if _is_whole(path, row)), None)


def fetched(row: Published, folder: Path | None = None) -> Path:
    """Returns the file of published weights, downloaded unless it is on this machine already, see `kept`.

    Args:
        row: the weights.
        folder: None is `cache_folder`.

    Raises:
        ValueError: it cannot be downloaded; one line, within ten seconds if there is no network, that tells which file
            to fetch by hand, and where to put it.
    """
    folder = folder or cache_folder()
    if (path := kept(row, folder)) is not None:
        return path
    target = folder / row.file
    try:
        return download(row.address, target, row.sha256)
    except NotFetched as error:
        damaged = f"; the file that is there has another hash than {row.sha256}" if target.is_file() else ""
        raise ValueError(
            f"weights {row.name!r} cannot be fetched: {error}{damaged}; fetch {row.address} by hand, and put it there "
            f"as {str(target)!r}"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"weights {row.name!r} cannot be kept: {error}; {CACHE}=FOLDER in the environment takes another folder"
        ) from None


def open_source(source: str | Path, *, which: str | None = None) -> WeightsFile:
    """Opens weights as `open_weights` does, and those of a name such as "timm:resnet50.a1_in1k" too.

    A name's card is the table's, with ImageNet's names of classes. A file or a folder of this machine may have such a
    name too, and comes first.

    Raises:
        ValueError: as `open_weights`; or no such weights are published, or they cannot be fetched.
    """
    name = str(source)
    here = os.path.exists(user_path(source))  # noqa: PTH110  any text is asked for, and a path's own raises errors
    if not here and NAME.match(name):
        row = find(name)
        file = open_weights(fetched(row), which=which)
        return replace(file, card=row.card(), said=())  # the table says it all
    if not here and (meant := _meant(name)):
        raise ValueError(f"weights {name!r}: there is no such file; did you mean {meant!r}?")
    return open_weights(source, which=which)


def published_as(path: Path) -> str | None:
    """Returns the name of the weights that are published under a file's name; None where there are none."""
    return next((row.name for row in table().rows if row.sha256 and row.file == path.name), None)


def _places(row: Published, folder: Path) -> Iterator[Path]:
    path = folder / row.file
    yield path
    if row.sha256 is None:
        pattern = f"{path.stem}-{'[0-9a-f]' * DIGITS}{path.suffix}"
        yield from sorted(folder.glob(pattern))
    else:
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
        yield Path(home).expanduser() / "hub" / "checkpoints" / row.file


def _is_whole(path: Path, row: Published) -> bool:
    """Tells if a file is there and has the hash of the table, or else that of its name."""
    if not path.is_file():
        return False
    expected = row.sha256 or (None if path.name == row.file else path.stem[-DIGITS:])
    try:
        found = path.stat()
        return expected is None or _hash_of(path, found.st_size, found.st_mtime_ns).startswith(expected)
    except OSError:  # in torch.hub's cache it may be another user's
        return False


@cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def _meant(name: str) -> str | None:
    """Returns the published name that somebody means who leaves out its library, or writes it as a path."""
    own = WRITTEN.fullmatch(name)
    return next(
        (each for each in names() if own and each.endswith(f":{own[2]}") and each.startswith(own[1] or "")), None
    )
