"""Image files to arrays, and arrays of any size to one size."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from common_flax.errors import one_line


def read_image(file: str | IO[bytes], name: str) -> np.ndarray:
    """Decodes an image of any kind that Pillow reads: (height, width, 3) uint8.

    Grey becomes three equal channels. A palette gives its colours, CMYK its plain complement. What is transparent is
    blended over black. Of 16 bits the upper 8 stay. EXIF's orientation is undone. Of an animation the first frame
    counts.

    Args:
        file: a path, or an open file.
        name: what errors call it.

    Raises:
        ValueError: one line: it cannot be opened, is no image, is cut short or broken, has more than the 89 million
            pixels at which Pillow suspects an attack, or has pixels in floating point.
    """
    with _opened(file, name) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)


def read_size(file: str | IO[bytes], name: str) -> tuple[int, int]:
    """The (height, width) that `read_image` gives, from the header alone. Arguments and errors are the same."""
    with _opened(file, name) as image:
        width, height = image.size
        # Only of formats that keep it in the header: asking others decodes the image.
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(file: str | IO[bytes], name: str) -> Iterator[Image.Image]:
    limit = Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(file) as image:
            # Pillow itself refuses only twice as many, and warns below.
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name!r}: more than {limit:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name!r}: not an image that Pillow reads") from None
    except OSError as error:
        raise ValueError(f"{name!r}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # Pillow meets broken files with errors of many kinds
        raise ValueError(f"{name!r}: {one_line(error)}") from None


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("pixels in floating point; store them in 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() >= 2**16:
            raise ValueError("pixels beyond 16 bits; store them in 8 or 16 bits")
        return (grey >> 8).astype(np.uint8)[..., None].repeat(3, -1)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image.getchannel("A"))
        return np.asarray(black)
    return np.asarray(image.convert("RGB"))


def centre_crop(image: np.ndarray, size: int, ratio: float = 0.875) -> np.ndarray:
    """The middle of an image, as tests see it: (size, size, 3) uint8.

    As if the shorter side were resized to size / ratio, and size × size pixels cut from the middle (Krizhevsky et
    al. 2012, section 4.1: 224 of 256). Bilinear, smoothed where it shrinks.

    Args:
        image: (height, width, 3) uint8.
        size: height and width to give.
        ratio: the share of the shorter side to keep.
    """
    height, width = image.shape[:2]
    # Only what stays is resized: the rest of an image as thin as a thread would not fit into memory.
    side = min(height, width) * size / round(size / ratio)
    left, top = (width - side) / 2, (height - side) / 2
    return _resize(image, size, (left, top, left + side, top + side))


def random_resized_crop(image: np.ndarray, size: int, rng: np.random.Generator, min_area: float = 0.08) -> np.ndarray:
    """A random box of an image, stretched to one size, as training sees it: (size, size, 3) uint8.

    Szegedy et al. 2014 (arXiv:1409.4842), section 6: see `random_box`. Bilinear, smoothed where it shrinks.

    Args:
        image: (height, width, 3) uint8.
        size: height and width to give.
        rng: where chance comes from.
        min_area: the least share of the image's area to keep.
    """
    top, left, height, width = random_box(image.shape[0], image.shape[1], rng, min_area)
    box = np.ascontiguousarray(image[top : top + height, left : left + width])
    return _resize(box, size, (0, 0, width, height))


def random_box(height: int, width: int, rng: np.random.Generator, min_area: float) -> tuple[int, int, int, int]:
    """A random box inside an image, by torchvision's law: (top, left, height, width).

    Its area is uniform from `min_area` to 1 of the image's, its width / height log-uniform from 3/4 to 4/3. After ten
    boxes that do not fit it is the largest in the middle that has an allowed shape.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(image: np.ndarray, size: int, box: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))
