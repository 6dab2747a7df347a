"""The theory of residual and dense networks, run: every claim a function, a figure and a test."""

from common_flax import __version__
from theory_flax.architectures.claim import Architecture, Layer, Row, Shortcut, Stage, by_stage, shortcuts
from theory_flax.architectures.trace import architecture
from theory_flax.base.unroll import Unrolled, unroll
from theory_flax.degradation.claim import Degradation, Training, degradation
from theory_flax.feature_reuse.claim import (
    PUBLISHED,
    Published,
    Reuse,
    Supervision,
    of_same_depth,
    reuse_of,
    supervision,
)
from theory_flax.gradient_identity.claim import (
    GradientIdentity,
    GradientProfile,
    PathLengths,
    gradient_identity,
    gradient_identity_of,
    gradient_profile,
    path_lengths,
    relative_error,
)
from theory_flax.identity_mapping.claim import IdentityMapping, identity_mapping, layer_responses
from theory_flax.nesting.claim import Fits, distance_bound, fit_families, gain_bound, reach
from theory_flax.shattering.claim import Shattering, autocorrelation, line, shattering
from theory_flax.shattering.fully_connected import FullyConnected, GradientCorrelation, gradient_correlations
from theory_flax.shattering.laws import theorem_correlation, wide_correlation

__all__ = [
    "PUBLISHED",
    "Architecture",
    "Degradation",
    "Fits",
    "FullyConnected",
    "GradientCorrelation",
    "GradientIdentity",
    "GradientProfile",
    "IdentityMapping",
    "Layer",
    "PathLengths",
    "Published",
    "Reuse",
    "Row",
    "Shattering",
    "Shortcut",
    "Stage",
    "Supervision",
    "Training",
    "Unrolled",
    "__version__",
    "architecture",
    "autocorrelation",
    "by_stage",
    "degradation",
    "distance_bound",
    "fit_families",
    "gain_bound",
    "gradient_correlations",
    "gradient_identity",
    "gradient_identity_of",
    "gradient_profile",
    "identity_mapping",
    "layer_responses",
    "line",
    "of_same_depth",
    "path_lengths",
    "reach",
    "relative_error",
    "reuse_of",
    "shattering",
    "shortcuts",
    "supervision",
    "theorem_correlation",
    "unroll",
    "wide_correlation",
]
