"""What a network sees of an image: which part of it, at what size, in how many channels."""

from dataclasses import dataclass

import numpy as np

from common_flax.checks import check_positive
from training_flax.data.decode import centre_crop

CROP = 0.875  # where nothing else is said


@dataclass(frozen=True)
class View:
    """What a network sees of images of any size.

    Attributes:
        size: (height, width) to give. An image can be resized only where both are equal.
        channels: 1 or 3.
        crop: share of the shorter side that is cut out of the centre, to be resized.
        keep: leave images whole that have the size already.

    Raises:
        ValueError: a size is not a positive integer, the crop is no share, or files have no such channels.
    """

    size: tuple[int, int]
    channels: int = 3
    crop: float = CROP
    keep: bool = True

    def __post_init__(self) -> None:
        for side in self.size:
            check_positive("image_size", side)
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be over 0 and at most 1; given {self.crop!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"image files have 1 or 3 channels; the network sees {self.channels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what is given."""
        return (*self.size, self.channels)

    def fit(self, image: np.ndarray, epoch: int = 0, index: int = 0) -> np.ndarray:
        """What is seen of an image, (height, width, 3) uint8: `shape`, uint8. A `Reader` gives epoch and index too."""
        if not self.keep or image.shape[:2] != self.size:
            if self.size[0] != self.size[1]:
                given, seen = ("×".join(map(str, shape[:2])) for shape in (image.shape, self.size))
                raise ValueError(f"{given} pixels; the network sees {seen}, which is no square to resize to")
            image = centre_crop(image, self.size[0], self.crop)
        return with_channels(image, self.channels)


def with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images (…, channels) uint8 in as many channels as are asked for: grey in colour, or the luma of colours.

    Luma is that of ITU-R BT.601, rounded as Pillow does it, so that grey stays what it is.

    Raises:
        ValueError: neither can be done.
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
