"""Weights of classes in the loss, for data in which some classes have few images."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def weights_of_classes(
    given: str | Sequence[float] | None, labels: np.ndarray, names: Sequence[str]
) -> tuple[float, ...] | None:
    """Returns a weight for each class; None if none are given.

    "balanced" stands for n / (k · n_c) for n images of k classes, n_c of them in the class, as in scikit-learn. Where
    an image may have several classes it is (n - n_c) / n_c, by which images with and without a class weigh the same, as
    PyTorch's BCEWithLogitsLoss says of its `pos_weight`.

    Args:
        given: "balanced", or the weights themselves.
        labels: (images,) integers of the train split, or (images, classes) of 0 and 1.
        names: the names of the classes.

    Raises:
        ValueError: there are not as many numbers as classes; or a class without images is to be balanced, or one that
            all images have beside others.
    """
    if given is None:
        return None
    if given == "balanced":
        counts = np.bincount(labels, minlength=len(names)) if labels.ndim == 1 else labels.sum(0, dtype=int)
        if labels.ndim == 2 and (everywhere := counts == len(labels)).any():
            name = names[int(everywhere.argmax())]
            raise ValueError(f"class_weights 'balanced' need images without each class; all have {name!r}")
        if not counts.all():
            raise ValueError(
                f"class_weights 'balanced' need images of each class; {names[int(counts.argmin())]!r} has none"
            )
        if labels.ndim == 2:
            return tuple(((len(labels) - counts) / counts).tolist())
        return tuple((len(labels) / (len(names) * counts)).tolist())
    if len(given) != len(names):
        raise ValueError(f"class_weights must be {len(names)} numbers, one for each class; given {len(given)}")
    return tuple(map(float, given))


def relative_weights(weights: Sequence[float], targets: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns the weights (classes,) divided by the mean weight of the batch's targets, over all devices.

    A mean of losses with these weights is PyTorch's weighted mean: Σ w·loss / Σ w over the images. An image of mixed
    targets counts with the mean of its classes' weights. All are 0 if no target has a weight.

    Args:
        weights: of the classes.
        targets: (batch, classes) shares.
        axis_name: the mapped axis that the batch is sharded over, if any.
    """
    each = jnp.asarray(weights, targets.dtype)
    mean = (targets @ each).mean()
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    return jnp.where(mean > 0, each / jnp.where(mean > 0, mean, 1), 0)
