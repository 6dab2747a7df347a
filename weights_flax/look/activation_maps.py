"""Where in an image a network finds a class: class activation maps (Zhou 2016) and Grad-CAM (Selvaraju 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from weights_flax.look.features import apply_part, features, stage_count

Classes = int | Sequence[int] | np.ndarray | jax.Array | None


def class_activation_map(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None
) -> jax.Array:
    """M_c(h, w) = Σ_k w_kc f_k(h, w), f the last map, w the classifier's weights (Zhou 2016, arXiv:1512.04150, eq. 2).

    The mean of M_c over all pixels, plus the class's bias, is the logit of c: each pixel's part in it. Evaluation is
    what is looked at.

    Args:
        model: a `ResNet`, `PlainNet` or `DenseNet`: networks that classify the mean of their last map.
        variables: {"params", "batch_stats"} of it.
        images: (batch, height, width, channels).
        classes: of every image, or (batch,) one of each; None is the class of the largest logit.

    Returns:
        (batch, height, width) of the last stage's map, float32 or wider.

    Raises:
        ValueError: the model is of another kind, or there are no such classes.
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
    x = apply_part(model, variables, "last_map", x)
    chosen = apply_part(model, variables, _classify, x).argmax(-1) if given is None else given
    kernel = variables["params"][model.torch_head]["kernel"]
    dtype = jnp.promote_types(jnp.result_type(x, kernel), jnp.float32)
    return jnp.einsum("bhwk,kb->bhw", x.astype(dtype), kernel.astype(dtype)[:, chosen])


def grad_cam(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None, *, stage: int = -1
) -> jax.Array:
    """relu(Σ_k α_k f_k(h, w)), α_k the mean over all pixels of ∂logit/∂f_k (Selvaraju 2017, arXiv:1610.02391, eq. 1-2).

    f is a stage's map; the last stage's is taken as the head pools it, normalised and activated. There, in networks
    that classify its mean, this is relu(M) / pixels, M the class activation map. Evaluation is what is looked at.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet`.
        variables, images, classes: as in `class_activation_map`.
        stage: whose map, counted from 0, or from -1 backwards. A VGG's lies behind the stage's max pool.

    Returns:
        (batch, height, width) of that map, float32 or wider, not negative.

    Raises:
        ValueError: the model is of another kind, or there is no such stage or class.
    """
    count = stage_count(model)
    if not -count <= stage < count:
        raise ValueError(f"stage must be from {-count} to {count - 1}; given {stage!r}")
    index = stage % count
    given = None if classes is None else _one_each(classes, len(images), model)
    x = features(model, variables, images, stop_at=f"stage{index}")[f"stage{index}"]
    if index == count - 1:
        x = apply_part(model, variables, "last_map", x)

    def logit_of(x: jax.Array) -> jax.Array:
        logits = apply_part(model, variables, _go_on, x, index)
        chosen = logits.argmax(-1) if given is None else given
        # An image's logits depend on its own map alone, so that the gradient of the sum is that of each.
        return jnp.take_along_axis(logits, chosen[:, None], -1).sum()

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    weights = jax.grad(logit_of)(x).astype(dtype).mean((1, 2))
    return nn.relu(jnp.einsum("bhwk,bk->bhw", x.astype(dtype), weights))


def _classify(bound: Any, x: jax.Array) -> jax.Array:
    return bound.classify(bound.pool(x))


def _go_on(bound: Any, x: jax.Array, index: int) -> jax.Array:
    """The map of stage `index`, the last one as it is pooled, to logits."""
    count = stage_count(bound)
    for following in range(index + 1, count):
        x = bound.stage(x, following)
    return _classify(bound, bound.last_map(x) if index < count - 1 else x)


def _one_each(classes: Any, batch: int, model: Any) -> jax.Array:
    """(batch,) classes. Values that a transformation traces cannot be checked."""
    if not isinstance(classes, jax.core.Tracer):
        given = np.asarray(classes)
        if not np.issubdtype(given.dtype, np.integer) or not np.all((given >= 0) & (given < model.num_classes)):
            raise ValueError(f"classes must be integers from 0 to {model.num_classes - 1}; given {classes!r}")
    found = jnp.asarray(classes)
    if found.shape not in ((), (batch,)):
        raise ValueError(f"classes must be one, or one for each of {batch} images; given shape {found.shape}")
    return jnp.broadcast_to(found, batch)
