"""The part of an image that a network sees, its size and its channels."""

from dataclasses import dataclass

import numpy as np

from common_flax.checks import check_pixels, check_positive, one_of
from training_flax.data.decode import CROP_RULES, INTERPOLATIONS, centre_crop, with_channels

CROP = 0.875  # default share of the centre crop
PREPARATIONS = ("none", "digit")


@dataclass(frozen=True)
class View:
    """The transform from images of any size to a network's input.

    Attributes:
        size: (height, width) of the result. Images can be resized only if both are equal.
        channels: 1 or 3.
        crop: share of the shorter side that the centre crop keeps, before it is resized.
        keep: leave images unchanged that have the size already.
        interpolation, crop_rule: see `centre_crop`.
        preparation: "digit" makes a photo of a handwritten digit look like the digits data set first, see `as_digit`;
            or "none".

    Raises:
        ValueError: a size is not a positive integer or far too large, or another value is wrong.
    """

    size: tuple[int, int]
    channels: int = 3
    crop: float = CROP
    keep: bool = True
    interpolation: str = "bilinear"
    crop_rule: str = "torchvision"
    preparation: str = "none"

    def __post_init__(self) -> None:
        for side in self.size:
            check_positive("image_size", side)
        check_pixels("image_size", *self.size)
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be over 0 and at most 1; given {self.crop!r}")
        one_of("interpolation", self.interpolation, INTERPOLATIONS)
        one_of("crop_rule", self.crop_rule, CROP_RULES)
        one_of("preparation", self.preparation, PREPARATIONS)
        if self.channels not in (1, 3):
            raise ValueError(f"image files have 1 or 3 channels; the network sees {self.channels}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (height, width, channels) of the result."""
        return (*self.size, self.channels)

    def fit(self, image: np.ndarray, epoch: int = 0, index: int = 0) -> np.ndarray:
        """Transforms an image (height, width, 3) uint8 to `shape`, uint8; epoch and index are for `Reader`."""
        if self.preparation == "digit":
            from training_flax.inference.ink import as_digit  # with SciPy's filters, which take a third of a second

            image = as_digit(image)
        if not self.keep or image.shape[:2] != self.size:
            if self.size[0] != self.size[1]:
                given, seen = ("×".join(map(str, shape[:2])) for shape in (image.shape, self.size))
                raise ValueError(f"{given} pixels; the network sees {seen}, which is no square to resize to")
            chosen = dict(interpolation=self.interpolation, rule=self.crop_rule)
            image = centre_crop(image, self.size[0], self.crop, **chosen)
        return with_channels(image, self.channels)
