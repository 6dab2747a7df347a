"""Photos and drawings of one handwritten digit, made to look like the images of the digits data set."""

import math

import numpy as np
from PIL import Image
from scipy import ndimage

CELLS, CELL = 8, 4  # the images are 8×8 cells of 4×4 pixels
SIDE = CELLS * CELL
FINER = 4  # strokes are drawn with 4×4 pixels for each pixel of the 32×32
FINE = SIDE * FINER
WIDEST = 18  # pixels: wider digits were squeezed
SHARE = 0.33  # of the 32×32 pixels is ink; the data set's digits have 0.25 to 0.39
LARGEST = 512  # pixels of the longer side that is looked at
COARSE = 32  # pixels of the longer side at which the ground is looked for
SPECK = 0.05  # of the largest stroke's pixels: smaller ones are dirt
FAINT = 24  # of 255: less contrast between ink and ground is none
ROUNDS = 3  # of making strokes thicker or thinner, each with a new box
NO_INK = "no ink is found on an even ground; a photo of one digit on paper is wanted"


def as_digit(image: np.ndarray) -> np.ndarray:
    """Finds the ink of one handwritten digit, and centres and scales it as in the digits data set.

    Those images were made from forms by NIST's preprocessing (Garris et al. 1994, NISTIR 5469): a digit's box fills the
    height of 32 black and white pixels, strokes are made equally thick, and each of the 8×8 values is the number of
    inked pixels in a block of 4×4. Here the ground may be lighter or darker than the ink, and unevenly lit: a wide
    median of the image is taken for it. The threshold between ink and ground is Otsu's (1979).

    Args:
        image: (height, width, 3) uint8.

    Returns:
        (32, 32, 3) uint8, light ink on black, with the data set's 17 grey levels. An image that is made of such blocks
        already is returned as it is.

    Raises:
        ValueError: there is no ink on an even ground.
    """
    if is_made_of_cells(image):
        return image
    drawn = _thickened(_scaled(_strokes(_contrast(_grey(image)))))
    left = (FINE - drawn.shape[1]) // 2
    whole = np.pad(drawn, ((0, 0), (left, FINE - drawn.shape[1] - left)))
    inked = whole.reshape(SIDE, FINER, SIDE, FINER).mean((1, 3)) >= 0.5
    cells = inked.reshape(CELLS, CELL, CELLS, CELL).sum((1, 3))
    grey = np.rint(cells * (255 / CELL**2)).astype(np.uint8)
    return grey.repeat(CELL, 0).repeat(CELL, 1)[..., None].repeat(3, -1)


def is_made_of_cells(image: np.ndarray) -> bool:
    """Returns True for a grey image of 32×32 pixels that repeats each of 8×8 values, as those of the data set do."""
    if image.shape[:2] != (SIDE, SIDE):
        return False
    cells = image[::CELL, ::CELL, :1]
    return bool((cells.repeat(CELL, 0).repeat(CELL, 1) == image).all())


def _grey(image: np.ndarray) -> np.ndarray:
    """Returns the luma, with at most `LARGEST` pixels a side."""
    grey = Image.fromarray(image).convert("L")
    scale = LARGEST / max(grey.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BOX)
    return np.asarray(grey, np.float64)


def _contrast(grey: np.ndarray) -> np.ndarray:
    """Returns how much darker each pixel is than the ground around it, or lighter if the ink is light."""
    step = math.ceil(max(grey.shape) / COARSE)
    coarse = ndimage.uniform_filter(grey, step, mode="nearest")[step // 2 :: step, step // 2 :: step]
    ground = ndimage.median_filter(coarse, 2 * (max(coarse.shape) // 3) + 1, mode="nearest")
    places = [(np.arange(side) - step // 2) / step for side in grey.shape]
    ground = ndimage.map_coordinates(ground, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    difference = ground - grey
    darker, lighter = np.maximum(difference, 0), np.maximum(-difference, 0)
    return darker if (darker**2).sum() >= (lighter**2).sum() else lighter


def _strokes(contrast: np.ndarray) -> np.ndarray:
    """Returns the ink's pixels, without dirt, cut to their box."""
    if contrast.max() < FAINT:
        raise ValueError(NO_INK)
    counts, edges = np.histogram(contrast, 256, (0, 256))
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    below = np.cumsum(counts)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    inked = contrast >= edges[1:][np.nanargmax(between)]
    if contrast[inked].mean() < FAINT:
        raise ValueError(NO_INK)
    pieces, _ = ndimage.label(inked, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    kept = np.isin(pieces, 1 + np.flatnonzero(sizes >= SPECK * sizes.max()))
    return _cut(kept)


def _cut(inked: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    return inked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _scaled(inked: np.ndarray) -> np.ndarray:
    """Returns the strokes scaled to the full height, and no wider than the data set's digits are."""
    height, width = inked.shape
    across = round(min(FINE * width / height, WIDEST * FINER))
    image = Image.fromarray(inked).convert("L")
    return np.asarray(image.resize((max(across, 1), FINE), Image.Resampling.BILINEAR)) >= 128


def _thickened(inked: np.ndarray) -> np.ndarray:
    """Returns the strokes, made thicker or thinner until their area is the data set's median."""
    for _ in range(ROUNDS):
        framed = np.pad(inked, FINE // 4)
        depth = ndimage.distance_transform_edt(framed) - ndimage.distance_transform_edt(~framed)
        level = np.sort(depth.ravel())[-round(SHARE * FINE**2)]
        inked = _scaled(_cut(depth >= level))
    return inked
