"""Networks with the names and shapes of one that is built here, and another result: they differ in what has no weights.

Nothing in their tensors tells them apart. What tells is what others say of a file: see `Said`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Said(NamedTuple):
    """A statement of others on the network in a file.

    Attributes:
        name: of the network, as it is said: "resnetaa50", "timm/resnet50.a1_in1k", or a file's name.
        where: says it: "its config.json", "its name".
        exact: the name is that of an architecture and nothing else, so that one that is not known is refused.
        options: of the network, by timm's or transformers' names.
        differs: in what the network differs from ours, if the statement tells just that.
    """

    name: str
    where: str
    exact: bool = False
    options: Mapping[str, Any] = {}
    differs: str = ""


class LookAlike(NamedTuple):
    """A network of others, or a kind of them.

    Attributes:
        title: its name.
        differs: in what.
        of: matches the names of our architectures with its names and shapes.
        said: matches what is said of it, if anything is.
    """

    title: str
    differs: str
    of: str
    said: str | None = None


RESNETS = r"(resnet|resnext|wide_resnet)\d+(_\d+(x\d+d)?)?$"
BOTTLENECKS = r"(resnet(26|50|101|152|200)|resnext\d+_\d+x\d+d|wide_resnet(50|101)_2)$"
LARGE = r"(resnet(18|26|34|50|101|152|200)|resnext\d+_\d+x\d+d|wide_resnet\d+_2)$"
SMALL = r"resnet(20|32|44|56|110|1202)$"
LOOK_ALIKES = (
    LookAlike("timm's resnetaa", "average pools where it strides", r"resnet(18|34|50|101)$", r"res(net|next)aa\d*"),
    LookAlike("timm's resnetblur", "blur pools where it strides", r"resnet(18|34|50|101)$", r"res(net|next)blur\d*"),
    LookAlike(
        "a DenseNet with blur pools", "blur pools for its max pool", r"densenet(121|161|169|201|264)$", r"densenetblur"
    ),
    LookAlike(
        "the bottlenecks of 2015 (Caffe, Detectron, Keras)",
        "the stride on a bottleneck's first 1×1 convolution: bottleneck_stride='v1'",
        BOTTLENECKS,
    ),
    LookAlike("a backbone of DeepLab, FCN or PSPNet", "dilation in place of the last strides", LARGE, r"dilat"),
    LookAlike("a network of TensorFlow or Haiku", "padding by SAME: padding='same'", RESNETS),
    LookAlike(
        "a stem for small images with a max pool behind it", "that pool", r"(resnet(18|34|50|101|152)|densenet\d+)$"
    ),
    LookAlike(
        "fb.resnet.torch's shortcut A",
        "zero channels behind the others alone, where they are on both sides here",
        SMALL,
    ),
    LookAlike("a plain network", "no shortcuts: plain20 and others", SMALL),
    LookAlike("VGG of Caffe", "images of 0 to 255, blue first, less their means", r"vgg\d+(_bn)?$"),
)
OF_CONFIG, OF_NAME = "its config.json", "its name"  # places of statements
EVERY = "other activations than ReLU, another epsilon than 1e-5 (FrozenBatchNorm: 0), other normalisation of images"
# Options of timm and transformers that have no parameters, with the values that are built here.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "aa_layer": (None, "", "none"),
    "act_layer": (None, "", "relu", "ReLU"),
    "hidden_act": (None, "relu"),
    "output_stride": (None, 32),
    "replace_stride_with_dilation": (None, False, 0),
    "dilation": (None, False, 1),
    "dilations": (None, False, 1),
    "dilated": (None, False),
    "multi_grid": (None, False, 1),
    "global_pool": (None, "avg", ""),
    "gp": (None, "avg", ""),
    "downsample_in_first_stage": (None, False),
    "replace_stem_pool": (None, False),
    "std_conv": (None, False),
    "pad_type": (None, ""),
    "bn_eps": (None, 1e-5),
    "norm_eps": (None, 1e-5),
    "bn_epsilon": (None, 1e-5),
    "batch_norm_eps": (None, 1e-5),
}
EXACT = re.compile(
    r"(?:tv_|gluon_|ig_|ssl_|swsl_)?(?:(?:resnet|plain)\d+|resnext\d+_\d+x\d+d|wide_resnet\d+_\d+|densenet\d+|vgg\d+(?:_bn)?)"
    r"(?:_v1b)?"
)
# Options by which bottlenecks stride on their first 1×1 convolution: of transformers, OpenMMLab and Detectron.
FIRST_STRIDE = {"downsample_in_bottleneck": True, "style": "caffe", "stride_in_1x1": True}
# Words of a file's name that say nothing of a network: of training, of its data, and hexadecimal sums.
NEUTRAL = re.compile(
    r"(?:best|last|latest|final|model|net|network|weights?|checkpoint|ckpt|state|dict|epoch|step|pth?|tar|pretrained|imagenet|"
    r"in1k|in22k|cifar(?:10|100)?|torchvision|timm|tv|a[123]h?|v[12]|ema|best_acc|\d+|[0-9a-f]{6,64})"
)
OF_2015 = re.compile(r"caffe|msra|detectron|(?<![a-z0-9])r-?(50|101)\.pkl", re.I)


def spoken(options: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns those of a config's options that tell what a network without its weights would compute, in any case."""
    small = {name.lower(): value for name, value in options.items() if isinstance(name, str)}
    return {name: small[name] for name in (*ALLOWED, *FIRST_STRIDE) if name in small}


def look_alikes(arch: str, bottlenecks: str | None = None) -> list[LookAlike]:
    """Returns the networks of others that have the names and shapes of an architecture.

    Args:
        arch: the architecture.
        bottlenecks: "v1" if its weights need that, so that the bottlenecks of 2015 are no others.
    """
    alike = [each for each in LOOK_ALIKES if re.match(each.of, arch)]
    return [each for each in alike if bottlenecks != "v1" or "bottlenecks" not in each.title]


def refusal(said: Said) -> str | None:
    """Tells in what a network that is said to be in a file differs from ours; None if in nothing."""
    if said.differs:
        return said.differs
    name = said.name.lower()
    for each in LOOK_ALIKES:
        if each.said and re.search(each.said, name):
            return f"{each.differs[0].lower()}{each.differs[1:]}"
    for option, value in said.options.items():
        if option in ALLOWED and not _is_usual(value, ALLOWED[option]):
            return f"{option}={repr(value)[:40]}"
    if (
        said.exact
        and re.search(r"res|dense|vgg", name)
        and EXACT.fullmatch(name.rpartition("/")[2].partition(".")[0]) is None
    ):
        return "a network that is not built here"
    return None


def _is_usual(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Tells if an option's value, or each one of a list, is allowed; objects that no config has say nothing."""
    if isinstance(value, list | tuple):
        return all(_is_usual(each, allowed) for each in value)
    same = [value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed]  # True is no 1
    return any(same) or not isinstance(value, str | bool | int | float)


def strides_first(said: Said) -> bool:
    """Tells if bottlenecks are said to stride on their first 1×1 convolution, as in 2015."""
    return bool(OF_2015.search(said.name)) or any(
        said.options.get(name) == value for name, value in FIRST_STRIDE.items()
    )


def settles(said: Said) -> bool:
    """Tells if a statement leaves no doubt which network a file has.

    A config.json does that names one of the kinds that are built here; of a file's name only one that has nothing but
    the architecture and words of no meaning, such as "resnet50-11ad3fa6.pth".
    """
    name = said.name.lower().rpartition("/")[2]
    if said.where == OF_CONFIG:
        return said.name == "resnet" or EXACT.fullmatch(name.partition(".")[0]) is not None
    if said.where != OF_NAME or (match := EXACT.match(name)) is None:
        return False
    rest = re.split(r"[-_.]", re.sub(r"\.[a-z0-9]+$", "", name[match.end() :]))
    return all(not word or NEUTRAL.fullmatch(word) for word in rest)


def named(said: Said, archs: Mapping[str, Any]) -> str | None:
    """Returns the architecture that is said to be in a file; the longest of `archs` whose name stands there whole."""
    name = said.name.lower()
    found = [arch for arch in archs if re.search(rf"(?<![a-z0-9]){re.escape(arch)}(?![a-z0-9]|_\d|_v2|_bn)", name)]
    return max(found, key=len, default=None)
