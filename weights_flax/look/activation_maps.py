"""Places of an image that speak for a class: class activation maps (Zhou 2016) and Grad-CAM (Selvaraju 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from weights_flax.look.features import features, stage_count

Classes = int | Sequence[int] | np.ndarray | jax.Array | None


def class_activation_map(
    model: Any, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None
) -> jax.Array:
    """Computes M_c(h, w) = Σ_k w_kc f_k(h, w) from the last map f (Zhou 2016, arXiv:1512.04150, equation 2).

    w are the classifier's weights. The mean of M_c over all pixels, plus the class's bias, is the logit of class c:
    M_c(h, w) is the part that a pixel has in the logit. The network runs in evaluation.

    Args:
        model: a `ResNet`, `PlainNet` or `DenseNet`, which classify the mean of their last map.
        variables: {"params", "batch_stats"} of it.
        images: (batch, height, width, channels).
        classes: one class for all images, or (batch,) one for each; None takes the class of the largest logit.

    Returns:
        (batch, height, width) of the last stage's map, float32 or wider.

    Raises:
        ValueError: the model is of another kind, or does not have these classes.
    """
    count = stage_count(model)
    if not model.classifies_mean:
        raise ValueError(
            f"a class activation map needs a network that classifies the mean of a map; {type(model).__name__} does "
            "not: use grad_cam"
        )
    stage = f"stage{count - 1}"
    given = None if classes is None else _one_each(classes, len(images), model)
    x = features(model, variables, images, stop_at=stage)[stage]
    x = model.apply(variables, x, method="last_map")
    chosen = model.apply(variables, x, method=_classify).argmax(-1) if given is None else given
    kernel = variables["params"][model.torch_head]["kernel"]
    dtype = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    return jnp.einsum("bhwk,kb->bhw", x.astype(dtype), kernel.astype(dtype)[:, chosen])


def grad_cam(
    model: Any, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None, *, stage: int = -1
) -> jax.Array:
    """Computes relu(Σ_k α_k f_k(h, w)) from a stage's map f (Selvaraju 2017, arXiv:1610.02391, equations 1 and 2).

    α_k is the mean over all pixels of ∂logit/∂f_k. The map of the last stage is taken behind its last normalisation and
    activation, where it is pooled. For the last stage of networks that classify the mean of that map, the result is
    relu(M) / pixels, where M is the class activation map. The network runs in evaluation.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet`.
        variables, images, classes: as in `class_activation_map`.
        stage: the stage of the map, counted from 0, or from -1 backwards. In a VGG the map is behind the max pool.

    Returns:
        (batch, height, width) of that map, float32 or wider, at least 0.

    Raises:
        ValueError: the model is of another kind, or does not have the stage or the classes.
    """
    count = stage_count(model)
    if not -count <= stage < count:
        raise ValueError(f"stage must be from {-count} to {count - 1}; given {stage!r}")
    index = stage % count
    given = None if classes is None else _one_each(classes, len(images), model)
    x = features(model, variables, images, stop_at=f"stage{index}")[f"stage{index}"]
    if index == count - 1:
        x = model.apply(variables, x, method="last_map")

    def logit_of(x: jax.Array) -> jax.Array:
        logits = model.apply(variables, x, index, method=_go_on)
        chosen = logits.argmax(-1) if given is None else given
        # Logits depend only on the map of their own image, so that the gradient of the sum holds each image's gradient.
        return jnp.take_along_axis(logits, chosen[:, None], -1).sum()

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    weights = jax.grad(logit_of)(x).astype(dtype).mean((1, 2))
    return nn.relu(jnp.einsum("bhwk,bk->bhw", x.astype(dtype), weights))


def _classify(bound: Any, x: jax.Array) -> jax.Array:
    return bound.classify(bound.pool(x))


def _go_on(bound: Any, x: jax.Array, index: int) -> jax.Array:
    """Computes logits from the map of stage `index`; for the last stage, from the result of `last_map`."""
    count = stage_count(bound)
    for following in range(index + 1, count):
        x = bound.stage(x, following)
    return _classify(bound, bound.last_map(x) if index < count - 1 else x)


def _one_each(classes: Any, batch: int, model: Any) -> jax.Array:
    """Returns (batch,) classes."""
    if not isinstance(classes, jax.core.Tracer):  # values under a transformation cannot be checked
        given = np.asarray(classes)
        if not np.issubdtype(given.dtype, np.integer) or not np.all((given >= 0) & (given < model.num_classes)):
            raise ValueError(f"classes must be integers from 0 to {model.num_classes - 1}; given {classes!r}")
    chosen = jnp.asarray(classes)
    if chosen.shape not in ((), (batch,)):
        raise ValueError(f"classes must be one, or one for each of {batch} images; given shape {chosen.shape}")
    return jnp.broadcast_to(chosen, batch)
