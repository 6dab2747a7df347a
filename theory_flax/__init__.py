"""The theory of residual and dense networks, run: every claim a function, a figure and a test."""

from theory_flax.gradient_identity import (
    GradientIdentity,
    GradientProfile,
    PathLengths,
    gradient_identity,
    gradient_identity_of,
    gradient_profile,
    path_lengths,
    relative_error,
)
from theory_flax.unroll import Unrolled, unroll

__all__ = [
    "GradientIdentity",
    "GradientProfile",
    "PathLengths",
    "Unrolled",
    "gradient_identity",
    "gradient_identity_of",
    "gradient_profile",
    "path_lengths",
    "relative_error",
    "unroll",
]
