"""Image files to arrays, and images of any size to one size."""

import math
import struct
from collections.abc import Callable
from contextlib import nullcontext
from typing import IO, Any, TypeVar

import numpy as np
from PIL import ExifTags, Image

from common_flax.checks import MOST_PIXELS
from common_flax.files import open_regular
from training_flax.files.image_files import opened, without_metadata

T = TypeVar("T")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CROP_RULES = ("torchvision", "timm", "centred")
TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(file: str | IO[bytes], name: str) -> np.ndarray:
    """Decodes an image of the formats in `image_files`: (height, width, 3) uint8.

    Grey is repeated to three channels, palettes are replaced by their colours, and CMYK by its complement, without a
    colour profile. Transparent pixels are blended over black. 16 bits are cut to the upper 8. EXIF's orientation turns
    the image upright; nothing else of the metadata counts, and none of it is an error. Of an animation the first frame
    is read.

    Args:
        file: a path, or an open file.
        name: the file's name in error messages.

    Raises:
        ValueError: one line: the file cannot be opened, is no regular file, no image, cut short or broken, has more
            than the 89 million pixels at which Pillow suspects an attack, or has pixels in floating point.
    """

    def read(image: Image.Image) -> np.ndarray:
        turn = _turn(image)
        pixels = _rgb(image)
        return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))

    return _opened(file, name, read)


def read_size(file: str | IO[bytes], name: str) -> tuple[int, int]:
    """Returns the (height, width) of `read_image`'s result from the header alone; same arguments and errors."""

    def read(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        turned = _turn(image) in [TURNS[orientation] for orientation in (5, 6, 7, 8)]
        return (width, height) if turned else (height, width)

    return _opened(file, name, read)


def _opened(file: str | IO[bytes], name: str, read: Callable[[Image.Image], T]) -> T:
    """Opens an image and reads it; if that fails, once more without the metadata, which may be what is broken."""
    try:
        with opened(file, name) as image:
            return read(image)
    except ValueError as error:
        first = error
    try:
        with open_regular(file) if isinstance(file, str) else nullcontext(file) as source:
            stripped = without_metadata(source)
        if stripped is not None:
            with opened(stripped, name) as image:
                return read(image)
    except (ValueError, OSError):
        pass
    raise first


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns the turn that makes an image upright, by the metadata before its pixels; None if they name none."""
    if image.format == "TIFF":  # Pillow turns these by itself
        return None
    try:
        # PNG's own method would decode the pixels, to look for metadata behind them.
        orientation: Any = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata make Pillow raise many kinds of errors
        orientation = None
    if orientation is None:
        orientation = _orientation(image.info.get("exif"))
    return TURNS.get(orientation)


def _orientation(exif: Any) -> int | None:
    """Returns the orientation in a block of EXIF; Pillow gives up a block at some offsets that lead nowhere."""
    block = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    try:
        [start] = struct.unpack_from(f"{order}I", block, 4)
        [entries] = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", block, place)
            if tag == ExifTags.Base.Orientation and kind in (3, 4) and count == 1:
                return int(struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", block, place + 8)[0])
    except struct.error:  # the block is cut off
        pass
    return None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("pixels in floating point; store them in 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() >= 2**16:
            raise ValueError("pixels beyond 16 bits; store them in 8 or 16 bits")
        if isinstance(clear := image.info.get("transparency"), int):  # the one grey level that is transparent, of PNG
            grey = np.where(grey == clear, 0, grey)
        return (grey >> 8).astype(np.uint8)[..., None].repeat(3, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return np.asarray(black)
    return np.asarray(image.convert("RGB"))


def centre_crop(
    image: np.ndarray,
    size: int,
    ratio: float = 0.875,
    *,
    interpolation: str = "bilinear",
    rule: str = "torchvision",
) -> np.ndarray:
    """Returns the middle of an image, which a network sees in tests: (size, size, 3) uint8.

    The result is the same as resizing the shorter side to size / ratio, then cutting size × size pixels from the middle
    (Krizhevsky et al. 2012, section 4.1: 224 of 256), with a filter against aliasing.

    Args:
        image: (height, width, 3) uint8.
        size: height and width of the result.
        ratio: the share of the shorter side to keep.
        interpolation: one of `INTERPOLATIONS`.
        rule: one of `CROP_RULES`. "torchvision" resizes the shorter side to size / ratio, rounded, and cuts as its
            Resize and CenterCrop do: the longer side is rounded down to whole pixels, and the margins are whole.
            "timm" does the same, but rounds size / ratio down. "centred" keeps the middle exactly, which lies between
            pixels where margins are odd.
    """
    height, width = image.shape[:2]
    short = size / ratio
    # The quotient of a share that was itself a quotient, such as 224 / 232, may lie just under the whole number.
    short = math.floor(short + 1e-6) if rule == "timm" else round(short)
    if rule == "centred":
        side = min(height, width) * size / short
        left, top = (width - side) / 2, (height - side) / 2
        return _resize(image, size, (left, top, left + side, top + side), interpolation)
    resized = [int(short * side / min(height, width)) for side in (height, width)]
    top, left = (round((side - size) / 2) for side in resized)
    if interpolation == "bicubic" and math.prod(resized) <= MOST_PIXELS:
        # Values that overshoot are cut off between Pillow's two passes, whose order depends on the sizes.
        whole = Image.fromarray(image).resize((resized[1], resized[0]), INTERPOLATIONS[interpolation])
        return np.asarray(whole.crop((left, top, left + size, top + size)))
    # Only the crop is resized: a very thin image, resized as a whole, would not fit into memory.
    rows, columns = height / resized[0], width / resized[1]
    right, bottom = min((left + size) * columns, width), min((top + size) * rows, height)
    return _resize(image, size, (left * columns, top * rows, right, bottom), interpolation)


def random_resized_crop(
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    min_area: float = 0.08,
    *,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Cuts a random box out of an image and resizes it, for training: (size, size, 3) uint8.

    Szegedy et al. 2014 (arXiv:1409.4842), section 6: see `random_box`. Interpolation is as in `centre_crop`.
    """
    return resized_crop(image, random_box(image.shape[0], image.shape[1], rng, min_area), size, interpolation)


def resized_crop(image: np.ndarray, box: tuple[int, int, int, int], size: int, interpolation: str) -> np.ndarray:
    """Cuts a box (top, left, height, width) out of an image and resizes it: (size, size, 3) uint8."""
    top, left, height, width = box
    cut = np.ascontiguousarray(image[top : top + height, left : left + width])
    return _resize(cut, size, (0, 0, width, height), interpolation)


def random_box(height: int, width: int, rng: np.random.Generator, min_area: float) -> tuple[int, int, int, int]:
    """Draws a box inside an image, from torchvision's distribution: (top, left, height, width).

    The area is uniform from `min_area` to 1 of the image's area, and width / height is log-uniform from 3/4 to 4/3.
    If ten draws do not fit, the box is the largest central one with width / height from 3/4 to 4/3.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(image: np.ndarray, size: int, box: tuple[float, float, float, float], interpolation: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), INTERPOLATIONS[interpolation], box))


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Converts images (…, channels) uint8 to this number of channels: repeats grey, or takes the luma of colours.

    The luma is that of ITU-R BT.601, rounded as by Pillow, so that grey stays the same. Raises ValueError for other
    numbers of channels.
    """
    given = images.shape[-1]
    if given == channels:
        return images
    if (given, channels) == (1, 3):
        return images.repeat(3, -1)
    if (given, channels) == (3, 1):
        weighted = images.astype(np.uint32) * np.array([19595, 38470, 7471], np.uint32)
        return ((weighted.sum(-1, dtype=np.uint32, keepdims=True) + 2**15) >> 16).astype(np.uint8)
    raise ValueError(f"images must have {channels} channels; given {given}")
