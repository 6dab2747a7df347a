"""Feature maps of a network, part by part, and their sizes."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from common_flax.checks import one_of
from layers_flax import Network, image_by_shape, variables_by_shape


@dataclass(frozen=True)
class FeatureInfo:
    """The size of a feature map.

    Attributes:
        name: "stem", "stage0", …: its name in `features`.
        channels, height, width: of the map.
        stride: pixels of the image from one pixel of the map to the next, along both axes.
    """

    name: str
    channels: int
    stride: int
    height: int
    width: int


def features(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, *, stop_at: str | None = None
) -> dict[str, jax.Array]:
    """Computes the output of each part of a network in evaluation.

    Under `jax.jit` the model and `stop_at` are static: `jax.jit(partial(features, model, stop_at="stage2"))`.

    Args:
        model: a `ResNet`, `PlainNet`, `VGG` or `DenseNet` with any options.
        variables: its {"params", "batch_stats"}.
        images: (batch, height, width, channels) of any size that the network accepts.
        stop_at: the name of the last output to compute.

    Returns:
        The outputs in the order of the network, in the model's compute type:

        - "stem": (batch, height, width, channels), the input of the first stage; for a VGG the images themselves.
        - "stage0", "stage1", …: (batch, height, width, channels), the output of each stage. A DenseNet's stage i > 0 is
          transition i and dense block i + 1; a VGG's ends with its max pool.
        - "pooled": the input of the classifier: (batch, channels), float32 or wider, the mean over the pixels of the
          last map, which a DenseNet or a pre-activation network normalises and activates before; for a VGG (batch,
          49 · channels), the 7×7 means of each channel.
        - "logits": (batch, num_classes), float32 or wider.

    Raises:
        ValueError: the model is of another kind, `stop_at` is none of the names, or the images do not fit.
    """
    stages = (f"stage{index}" for index in range(stage_count(model)))
    one_of("feature", stop_at, (None, "stem", *stages, "pooled", "logits"))

    def forward(bound: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs: dict[str, jax.Array] = OrderedDict()  # jit would sort a plain dict by name
        for name, value in outputs_of(bound, images):
            outputs[name] = value
            if name == stop_at:
                break
        return outputs

    outputs: Any = model.apply(variables, images, method=forward)
    return outputs


def feature_info(model: nn.Module, image_shape: Sequence[int] = (224, 224, 3)) -> tuple[FeatureInfo, ...]:
    """Returns the sizes of a network's maps from the stem to the last stage, as detection and segmentation need them.

    Uses shapes only: nothing is computed, and no memory is taken.

    Args:
        model: as in `features`.
        image_shape: (height, width, channels); strides and channels do not depend on height and width.

    Raises:
        ValueError: the model is of another kind, or the images are too small for it.
    """
    last = f"stage{stage_count(model) - 1}"
    # Each stride may round the size of a map. With images whose size all strides divide there is no rounding.
    even = 64 * 2 ** stage_count(model)
    variables = variables_by_shape(model, image_shape)
    maps, even_maps = (
        jax.eval_shape(partial(features, model, stop_at=last), variables, image_by_shape(shape))
        for shape in (image_shape, (even, even, *image_shape[2:]))
    )
    return tuple(
        FeatureInfo(name, x.shape[3], even // even_maps[name].shape[1], x.shape[1], x.shape[2])
        for name, x in maps.items()
    )


def stage_count(model: nn.Module) -> int:
    """Returns the number of stages. Raises ValueError if the model is of neither family."""
    return len(network(model).stage_sizes)


def network(model: nn.Module) -> Network:
    """Returns the model. Raises ValueError if it is of neither family."""
    if not isinstance(model, Network):
        raise ValueError(f"a model must be a ResNet, PlainNet, VGG or DenseNet; given {type(model).__name__}")
    return model


def outputs_of(bound: Any, images: jax.Array) -> Iterator[tuple[str, jax.Array]]:
    """Yields the outputs of a bound model's parts; each part runs when its output is requested.

    JAX's name for each operation begins with "stem", "stage0", … or "head".
    """
    with jax.named_scope("stem"):
        x = bound.stem(images)
    yield "stem", x
    for index in range(stage_count(bound)):
        with jax.named_scope(f"stage{index}"):
            x = bound.stage(x, index)
        yield f"stage{index}", x
    with jax.named_scope("head"):
        x = bound.pool(bound.last_map(x))
    yield "pooled", x
    with jax.named_scope("head"):
        x = bound.classify(x)
    yield "logits", x
