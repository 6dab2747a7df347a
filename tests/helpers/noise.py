"""Pictures of noise and numbers for their changes, by a formula: the same with every library and version."""

import numpy as np

COUNT = 200
CROPS = (0.875, 0.9, 0.95, 0.96, 0.985, 1.0)  # shares of a picture, as timm's networks have them


def mixed(*numbers):
    """Returns 32 bits for whole numbers: SplitMix64, folded over them."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = (state ^ np.asarray(number, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state >> np.uint64(32)


def noise(index, shape):
    """Makes a picture (height, width, 3) uint8 of noise: every pixel is of any colour."""
    rows, columns, channels = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), np.arange(3), indexing="ij")
    return (mixed(index, rows, columns, channels) & np.uint64(255)).astype(np.uint8)


def whole(low, high, *numbers):
    """Draws a whole number from `low` to `high` - 1."""
    return low + int(mixed(*numbers)) % (high - low)


def share(*numbers):
    """Draws a number from 0 to 1, of 16 bits."""
    return (int(mixed(*numbers)) % 2**16 + 0.5) / 2**16


# Pictures of 9 to 60 pixels a side; each tenth is a square, and each tenth very wide or high.
SHAPES = [
    (
        (side := whole(9, 60, index, 1), side)
        if index % 10 == 0
        else (whole(9, 14, index, 1), whole(100, 200, index, 2))[:: 1 if index % 20 == 1 else -1]
        if index % 10 == 1
        else (whole(9, 60, index, 1), whole(9, 60, index, 2))
    )
    for index in range(COUNT)
]


def sizes(index):
    """Returns the size of a crop, and of the resized shorter side: margins are even and odd."""
    size = whole(4, 10, index, 3)
    return size, size + whole(0, 8, index, 4)


def _box(index):
    height, width = SHAPES[index]
    h, w = whole(1, height + 1, index, 5), whole(1, width + 1, index, 6)
    return whole(0, height - h + 1, index, 7), whole(0, width - w + 1, index, 8), h, w


BOXES = [_box(index) for index in range(COUNT)]  # top, left, height, width
FACTORS = [tuple(0.6 + 0.8 * share(index, 10 + change) for change in range(3)) for index in range(COUNT)]
# The share of CutMix and mixup, and the middle of CutMix's box.
SHARES = [
    (share(index, 20), whole(0, SHAPES[index][0], index, 21), whole(0, SHAPES[index][1], index, 22))
    for index in range(COUNT)
]
