"""Contents of a file of weights, and the architectures that it fits, wholly or but for the classifier."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from flax.traverse_util import flatten_dict

from layers_flax import Network, block_counts, variables_by_shape
from layers_flax.model.torch_names import QUICKLY_TRACED, torch_name, torch_shape
from weights_flax.formats.tensors import Tensor
from weights_flax.io.archs import ARCHS, describe
from weights_flax.io.blocks import network_of
from weights_flax.names.recognise import Naming

Shapes = dict[str, tuple[int, ...]]
Fit = tuple[str, dict[str, Any]]  # an architecture and its options
SHOWN = (  # options of a network that no constructor makes
    *("stage_sizes", "block_sizes", "block", "growth_rate", "stem_type", "stem_width", "width", "shortcut", "groups"),
    *("width_per_group", "bottleneck_width", "compression", "bottleneck_stride", "padding", "batch_norm"),
)
TRACED = 8  # architectures that are compared tensor by tensor
MOST_TRACED = 240  # blocks of these, but for the first
DEFAULT_CLASSES = 1000  # of a file without a classifier, as for ImageNet


def fitting(
    naming: Naming, tensors: Mapping[str, Tensor], *, inner: bool = False, but_for_head: bool = False
) -> list[Fit]:
    """Returns the architectures whose names and shapes are those of `tensors`, each with its options.

    Args:
        naming: the origin of the file's names.
        tensors: under torchvision's names, as `recognise` gives them.
        inner: compare only the tensors of the network's own modules.
        but_for_head: and of these without the classifier.
    """
    shapes = shapes_of(tensors)
    fit = []
    for arch, constructor in ARCHS.items():
        default = constructor()
        seen = inside(default, shapes) if inner or but_for_head else shapes
        options = default.torch_options(seen)
        if options is None:
            continue
        options = {name: value for name, value in options.items() if getattr(default, name) != value}
        if head := seen.get(f"{default.torch_head}.bias"):
            options = {"num_classes": head[0], **options}
        options |= naming.options
        try:
            if _has_shapes(constructor(**options), seen, but_for_head):
                fit.append((arch, options))
        except (ValueError, TypeError, ZeroDivisionError):
            continue  # the architecture cannot have these options
    return fit


def built(naming: Naming, tensors: Mapping[str, Tensor], *, but_for_head: bool = False) -> Network | None:
    """Builds the network of known blocks whose names and shapes its own modules among `tensors` have, if there is one.

    Args:
        naming, tensors, but_for_head: as in `fitting`.
    """
    shapes = shapes_of(tensors)
    model = network_of(shapes, classes_of(tensors), **naming.options)
    try:
        return model if model is not None and _has_shapes(model, inside(model, shapes), but_for_head) else None
    except (ValueError, TypeError, ZeroDivisionError):
        return None


def _has_shapes(model: Network, shapes: Shapes, but_for_head: bool) -> bool:
    wanted = torch_shapes(model, image_channels(model, shapes))
    return without_head(model, wanted) == without_head(model, shapes) if but_for_head else wanted == shapes


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shapes of tensors by their names, without counts of batches."""
    return {name: value.shape for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def torch_shapes(model: Network, channels: int = 3) -> Shapes:
    """Names and shapes of a network's tensors in PyTorch; nothing is computed."""
    return {
        torch_name(path, model.torch_module): torch_shape(leaf.shape)
        for path, leaf in flatten_dict(variables_by_shape(model, (32, 32, channels))).items()
    }


def classes_of(tensors: Mapping[str, Tensor]) -> int:
    """The number of classes of the classifier among `tensors`; 1000, as for ImageNet, where there is none."""
    heads = dict.fromkeys(f"{constructor().torch_head}.bias" for constructor in ARCHS.values())
    shape = next((tensors[name].shape for name in heads if name in tensors), ())
    return shape[0] if shape and shape[0] else DEFAULT_CLASSES


def is_inside(model: Network, name: str) -> bool:
    """Tells if a tensor's name is that of a network's own modules: of its stem, its stages, or its classifier."""
    kind: Any = type(model)
    own = _modules(kind) or {_module(each) for each in torch_shapes(model)}  # a family that has no constructor
    return _module(name) in own


def inside(model: Network, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tensors of a network's own modules."""
    return {name: shape for name, shape in shapes.items() if is_inside(model, name)}


def without_head(model: Network, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tensors that are not the classifier's, by PyTorch's names."""
    return {name: shape for name, shape in shapes.items() if not name.startswith(f"{model.torch_head}.")}


def image_channels(model: Network, shapes: Shapes) -> int:
    """The channels of the images that a file's first convolution sees; 3 where the file has none."""
    kernel = shapes.get(torch_name(("params", model.first_conv, "kernel"), model.torch_module), ())
    return kernel[1] if len(kernel) == 4 else 3


def nearest(naming: Naming, tensors: Mapping[str, Tensor]) -> tuple[Network, str, list[str]] | None:
    """Returns the network that has most in common with a file, and where they differ.

    Nothing but names and shapes is compared. Classifiers do not count.

    Args:
        naming, tensors: as in `fitting`.

    Returns:
        The network; the first difference in words, in the order of the file; and the names that the network lacks. None
        stands for a file that has nothing in common with any.
    """
    shapes = shapes_of(tensors)
    counts = _blocks_of(shapes)
    rivals: list[tuple[float, Network]] = []
    for constructor in ARCHS.values():
        model = _as_wide(constructor, shapes)
        if sum(model.stage_sizes) <= max(QUICKLY_TRACED, len(shapes)):
            sizes = zip_longest(model.stage_sizes, counts, fillvalue=0)
            rivals.append((sum(abs(ours - theirs) for ours, theirs in sizes), model))
    rivals = sorted(rivals, key=lambda rival: rival[0])[:TRACED]
    if (own := network_of(shapes, classes_of(tensors), **naming.options)) is not None:
        rivals.insert(0, (0, own))
    best: tuple[float, Network, Shapes, Shapes] | None = None
    blocks = 0
    for _, model in rivals:
        seen = without_head(model, inside(model, shapes))
        blocks += sum(model.stage_sizes)
        if not seen or (blocks > MOST_TRACED and best is not None):
            continue
        try:
            wanted = without_head(model, torch_shapes(model, image_channels(model, seen)))
        except (ValueError, ZeroDivisionError):
            continue  # too narrow for the architecture's groups
        same = sum(wanted.get(name) == shape for name, shape in seen.items())
        share = (same + len(wanted.keys() & seen.keys()) / 4) / len(wanted.keys() | seen.keys())
        if share and (best is None or share > best[0]):
            best = share, model, wanted, seen
    if best is None:
        return None
    _, model, wanted, seen = best
    lacks = [name for name in seen if name not in wanted]
    for name, shape in seen.items():
        if name not in wanted:
            return model, f"{name} {shape}, which it lacks", lacks
        if wanted[name] != shape:
            return model, f"{name} {shape}, which is {wanted[name]} there", lacks
    missing = min(wanted.keys() - seen.keys(), key=_numbers)
    return model, f"{missing} {wanted[missing]}, which the file lacks", lacks


def named(arch: str, options: Mapping[str, Any]) -> str:
    """Writes an architecture, or a class, with its options as a call."""
    shown = {name: value.__name__ if isinstance(value, type) else repr(value) for name, value in options.items()}
    return f"{arch}({', '.join(f'{name}={value}' for name, value in shown.items())})"


def called(model: Any) -> str:
    """Writes a network as the call that makes it, of its constructor or, where none makes it, of its class."""
    arch, options = describe(model)
    classes = {"num_classes": model.num_classes}
    if arch is not None:
        return named(arch, classes | options)
    default = {each.name: each.default for each in fields(model)}
    shown = {name: getattr(model, name) for name in SHOWN if name in default and getattr(model, name) != default[name]}
    return named(type(model).__name__, {**shown, **classes})


def _blocks_of(shapes: Shapes) -> tuple[int, ...]:
    """Blocks of each stage of a ResNet or a DenseNet, or the number of a VGG's convolutions."""
    counts = block_counts(shapes, r"layer(\d+)\.(\d+)\.", first=0)
    counts = counts or block_counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.", first=1)
    return counts or (sum(len(shape) == 4 for shape in shapes.values()),)


def _as_wide(constructor: Callable[..., Network], shapes: Shapes) -> Network:
    """Builds an architecture with the width or the growth rate that a file's first block shows."""
    last = shapes.get("layer1.0.conv3.weight")
    kernel = shapes.get("layer1.0.conv1.weight", ())
    growth = shapes.get("features.denseblock1.denselayer1.conv2.weight")
    size = {
        "width": last[0] // 4 if last else kernel[0] if kernel else None,
        "growth_rate": growth[0] if growth else None,
    }
    default = constructor()
    options: dict[str, Any] = {name: value for name, value in size.items() if value and hasattr(default, name)}
    return default.clone(**options) if options and not hasattr(default, "batch_norm") else default


def _numbers(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _module(name: str) -> str:
    return re.sub(r"\d+", "#", name.partition(".")[0])


@lru_cache(maxsize=16)
def _modules(kind: type[Network]) -> frozenset[str]:
    """The outermost modules of a family's networks under PyTorch, whatever their numbers."""
    smallest: dict[Any, Network] = {}
    for model in sorted((constructor() for constructor in ARCHS.values()), key=lambda model: sum(model.stage_sizes)):
        if type(model) is kind:
            smallest.setdefault(getattr(model, "block", None), model)
    return frozenset(_module(name) for model in smallest.values() for name in torch_shapes(model))
