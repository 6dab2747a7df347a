"""Recognition of the source of a file's names, and translation into torchvision's names and layouts.

Networks that torchvision lacks, such as pre-activation networks, follow the same rules: `layers_flax.to_torch`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, reduce
from typing import Any, NamedTuple

from layers_flax import Network
from layers_flax.model.architecture import ARCHS
from layers_flax.model.torch_names import LEAVES, torch_axes, torch_name
from weights_flax.formats.tensors import Tensor
from weights_flax.names import keras
from weights_flax.names.flax_example import from_example
from weights_flax.names.transformers import from_children, from_transformers
from weights_flax.unread.networks import source_of

Tensors = Mapping[str, Tensor]
# Modules around others that change no name's meaning, wherever they stand in it: of DataParallel, torch.compile, FSDP,
# checkpointed activations, Opacus.
WRAPPERS = re.compile(
    r"(?:(?<=^)|(?<=[./]))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_module)\."
)
NOT_KNOWN = "its names are those of no known source"


class Naming(NamedTuple):
    """Names of one origin.

    Attributes:
        title: the origin.
        start: pattern of the name of a tensor of the first layer; TORCH and FLAX are those of all families.
        fits: tells if a file's names are of this origin.
        convert: returns a file's tensors under torchvision's names, in its layouts.
        options: constructor options that these weights need; with others a network would compute something else.
        alone: the names tell the network; no other one of others has them.
        unsaid: what the names do not tell all the same, and a config.json does.
    """

    title: str
    start: str
    fits: Callable[[Iterable[str]], bool]
    convert: Callable[[Tensors], dict[str, Tensor]]
    options: Mapping[str, Any] = {}
    alone: bool = False
    unsaid: str = ""

    @property
    def by_keras(self) -> bool:
        """Tells if the names are of Keras applications."""
        return self.title.startswith("Keras")


def recognise(tensors: Tensors) -> tuple[Naming, dict[str, Tensor]]:
    """Recognises the names of `tensors`; returns their origin, and the tensors under torchvision's names.

    Raises:
        ValueError: the names are of no origin listed here; the message shows the first ones.
    """
    tensors = {unwrapped(name): value for name, value in tensors.items()}
    prefix = common_prefix(tensors)
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    for naming in NAMINGS:
        if naming.fits(tensors):
            return naming, naming.convert(tensors)
    if _has_first_conv(tensors):  # what else it has or lacks is told when it is compared with a network
        return NAMINGS[-1], dict(tensors)
    if _has("params/")(tensors):
        return next(naming for naming in NAMINGS if naming.convert is _own_flax), _own_flax(tensors)
    other = source_of(tensors)
    shown = ", ".join(map(repr, list(tensors)[:4]))
    raise ValueError(f"{NOT_KNOWN}{f', but of {other}' if other else ''}; they begin with {shown}")


def unwrapped(name: str) -> str:
    """Returns a name without the modules that wrap others and change nothing."""
    return WRAPPERS.sub("", name)


def common_prefix(names: Iterable[str]) -> str:
    """Returns the longest prefix of modules that all names share."""
    names = list(names)
    first, last = min(names, default=""), max(names, default="")
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    words = re.match(r"(?:(?:model|net|network|backbone|encoder|state_dict|model_state_dict)[./])*", first[:size])
    return words.group() if words else ""


def _has(*parts: str) -> Callable[[Iterable[str]], bool]:
    """Makes a function that tells if each of the patterns matches the start of some name."""
    return lambda names: all(any(re.match(part, name) for name in names) for part in parts)


def _renamed(*rules: tuple[str, str]) -> Callable[[Tensors], dict[str, Tensor]]:
    """Makes a function that renames tensors by regular expressions, one after the other."""
    return lambda tensors: {
        reduce(lambda name, rule: re.sub(rule[0], rule[1], name), rules, old): value for old, value in tensors.items()
    }


def _timm_vgg(tensors: Tensors) -> dict[str, Tensor]:
    """Renames timm's VGG, whose dense layers are convolutions over the whole 7×7 map."""
    rules = (r"^pre_logits\.fc1", "classifier.0"), (r"^pre_logits\.fc2", "classifier.3"), (r"^head\.fc", "classifier.6")
    renamed = _renamed(*rules)(tensors)
    for name in ("classifier.0.weight", "classifier.3.weight"):
        if name in renamed and len(renamed[name].shape) == 4:
            out, *inner = renamed[name].shape
            renamed[name] = renamed[name].reshape(out, inner[0] * inner[1] * inner[2])
    return renamed


def _own_flax(tensors: Tensors) -> dict[str, Tensor]:
    """Renames variables of this project, given by their paths, "params/conv1/kernel"."""
    module_name = next(
        (kind.torch_module for kind in _network_classes() if f"params/{kind.first_conv}/kernel" in tensors),
        Network.torch_module,
    )
    renamed = {}
    for name, value in tensors.items():
        path = tuple(name.split("/"))
        if path[0] not in ("params", "batch_stats") or path[-1] not in LEAVES or len(path) < 3:
            raise ValueError(f"{name[:100]!r} is no variable of a network")
        renamed[torch_name(path, module_name)] = value.transpose(*torch_axes(len(value.shape)))
    return renamed


def _network_classes() -> set[type[Network]]:
    """Returns the classes of the networks in the table of architectures."""
    return _classes_of(tuple(ARCHS.values()))


@lru_cache(maxsize=4)
def _classes_of(constructors: tuple[Callable[..., Network], ...]) -> set[type[Network]]:
    return {type(constructor()) for constructor in constructors}


def _first_convs() -> list[str]:
    """Returns PyTorch's names of the first convolutions of the families in the table of architectures."""
    return sorted({torch_name(("params", kind.first_conv, "kernel"), kind.torch_module) for kind in _network_classes()})


def _has_first_conv(names: Iterable[str]) -> bool:
    """Tells if the first convolution of a family in the table of architectures is among PyTorch's names."""
    return not set(_first_convs()).isdisjoint(names)


DEEP_STEM = r"conv1\.0\.weight"  # no network here has it, but the rest tells which one it is near to
# Names of a second layer, which tell a network from a layer in it that has a first convolution too.
SECOND = {
    "conv1.weight": r"layer1\.0\.",
    "conv1.0.weight": r"layer1\.0\.",
    "features.conv0.weight": r"features\.denseblock1\.",
    "features.0.weight": r"features\.[1-4]\.",
}


def _is_torchvisions(names: Iterable[str]) -> bool:
    """Tells if the first convolution of a family is among PyTorch's names, and a layer behind it."""
    names = set(names)
    if any(re.match(r"features\.\d+\.\d+\.", name) for name in names):
        return False  # blocks in a sequence: of a ResNet's children, of MobileNets and others, but not of VGG
    firsts = [*_first_convs(), "conv1.0.weight"]
    behind = [SECOND.get(first) for first in firsts if first in names]
    return any(pattern is None or any(re.match(pattern, name) for name in names) for pattern in behind)


def _is_ours(names: Iterable[str]) -> bool:
    """Tells if a family's first convolution is among the paths of Flax's variables, and a layer behind it."""
    names = set(names)
    first = {kind.first_conv for kind in _network_classes() if f"params/{kind.first_conv}/kernel" in names}
    second = {"conv1": "params/layer1_", "conv0": "params/denseblock1/", "features_0": "params/features_"}
    return any(sum(name.startswith(second.get(each, "params/")) for name in names) > 1 for each in first)


def start_of(naming: Naming) -> re.Pattern[str]:
    """Returns the pattern of a first layer's name behind any prefix; the name itself is the group "first"."""
    kinds = {"TORCH": _first_convs(), "FLAX": [kind.first_conv for kind in _network_classes()]}
    form = naming.start
    for word, names in kinds.items():
        form = form.replace(word, f"(?:{'|'.join(sorted(map(re.escape, names)))})")
    return re.compile(rf"^(?:|.*?[./])(?P<first>{form})")


# The third BatchNorm tells ResNets of 2015 from Keras' ResNet v2, whose blocks end in a convolution.
KERAS_RESNET = keras.has_layers("conv1_conv", "conv1_bn", "conv2_block1_3_bn")
KERAS_DENSENET = keras.has_layers("conv2_block1_0_bn", "pool2_bn", "bn")
NAMINGS = (
    Naming(
        "Flax's ImageNet example",
        r"params/conv_init/kernel$",
        _has(r"params/conv_init/kernel$"),
        from_example,
        {"padding": "same"},
        alone=True,
    ),
    Naming(
        "this project, as a tree of Flax", r"params/(?P<inside>(?:.+/)?)FLAX/kernel$", _is_ours, _own_flax, alone=True
    ),
    Naming(
        "Keras applications' ResNet",
        r"conv1_conv/",
        KERAS_RESNET,
        keras.from_resnet,
        {"bottleneck_stride": "v1"},
        alone=True,
    ),
    Naming("Keras applications' DenseNet", r"conv1[_/]conv/", KERAS_DENSENET, keras.from_densenet, alone=True),
    Naming(
        "Keras applications' VGG",
        r"block1_conv1/",
        keras.has_layers("block1_conv1", "block5_conv1"),
        keras.from_vgg,
        alone=True,
    ),
    Naming("timm's VGG", r"features\.0\.weight$", _has(r"pre_logits\.fc1\.", r"features\.0\."), _timm_vgg, alone=True),
    Naming(
        "Hugging Face transformers' ResNet",
        r"(?:resnet\.)?embedder\.embedder\.convolution\.weight$",
        _has(r"(?:resnet\.)?embedder\.embedder\.convolution\.", r"(?:resnet\.)?encoder\.stages\.0\.layers\.0\."),
        from_transformers,
        alone=True,
        unsaid="hidden_act (here relu), downsample_in_bottleneck (here False: if True, bottleneck_stride='v1') and "
        "downsample_in_first_stage (here False)",
    ),
    Naming(
        "torchvision's ResNet, as a sequence of its children",
        r"0\.weight$",
        _has(r"0\.weight$", r"1\.running_mean$", r"4\.0\.conv1\.weight$"),
        from_children,
    ),
    Naming(
        "akamaster's CIFAR ResNets",
        r"conv1\.weight$",
        _has(r"linear\.weight$|layer\d+\.\d+\.shortcut\.0\.", r"layer1\.0\.conv1\.", r"conv1\.weight$"),
        _renamed((r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample.")),
    ),
    Naming(
        "torchvision's DenseNet, old spelling",
        r"features\.conv0\.weight$",
        _has(r"features\.denseblock1\.denselayer1\.norm\.1\."),
        _renamed((r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1")),
    ),
    Naming("torchvision's or timm's", rf"(?:TORCH|{DEEP_STEM})$", _is_torchvisions, dict),
)
