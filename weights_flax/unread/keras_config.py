"""Facts in the configuration of a Keras model that its arrays do not tell: epsilons, activations, strides and pads.

It is JSON: in an archive the file config.json, in HDF5 of a whole model the attribute `model_config`. No class in it is
made, and no code is run.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from common_flax.json_input import MOST_BYTES, parse_object
from weights_flax.unread.look_alikes import Said

WHERE = "the model's configuration in it"
DEEPEST = 8  # models in each other
SEVERAL = r"(conv[1-5](_block\d+)?(_[0-3])?|pool[2-4])"
# Names of layers in Keras applications: which class and which activation they have there; "" is none to check.
ACTIVATED = (
    (rf"{SEVERAL}_conv$|conv1/conv$|.*_bn$|conv1/bn$|bn$", "", "linear"),
    (r"block\d_conv\d$|fc[12]$", "", "relu"),
    (r".*(_relu|_out|/relu)$|relu$", "Activation|ReLU", "relu"),
    (r"(conv\d_block\d+_)(add|concat)$", "Add|Concatenate", ""),
    (r"pool1(_pool)?$|block\d_pool$", "MaxPooling2D", ""),
    (r"pool[2-4]_pool$", "AveragePooling2D", ""),
)


class KerasConfig(NamedTuple):
    """The result of reading.

    Attributes:
        epsilons: of the BatchNorms, by the names of their layers.
        said: a statement, if the network is another than that of Keras applications with the same names.
    """

    epsilons: Mapping[str, float]
    said: tuple[Said, ...] = ()


def keras_config(text: bytes) -> KerasConfig:
    """Reads a configuration; one that is no JSON, or of another kind, says nothing."""
    try:
        if len(text) > MOST_BYTES:
            return KerasConfig({})
        layers = list(_layers(parse_object(text, nan_is_null=True), 0))
    except ValueError:
        return KerasConfig({})
    epsilons = {
        name: config["epsilon"]
        for kind, name, config in layers
        if kind == "BatchNormalization" and type(config.get("epsilon")) in (int, float) and 0 <= config["epsilon"] < 1
    }
    names = {name for _, name, _ in layers}
    if not any(name in names for name in ("conv1_conv", "conv1/conv", "block1_conv1")):
        return KerasConfig(epsilons)
    wrong = next(filter(None, (_difference(*layer) for layer in layers)), None)
    return KerasConfig(epsilons, (Said("", WHERE, differs=wrong),) if wrong else ())


def _layers(model: Any, depth: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields class, name and configuration of each layer, of models in models too."""
    config = model.get("config") if isinstance(model, dict) else None
    listed = config.get("layers") if isinstance(config, dict) else config  # a list in Keras 1 and 2's Sequential
    for layer in listed if isinstance(listed, list) and depth < DEEPEST else ():
        if isinstance(layer, dict) and isinstance(inside := layer.get("config"), dict):
            yield str(layer.get("class_name")), str(inside.get("name")), inside
            yield from _layers(layer, depth + 1)


def _difference(kind: str, name: str, config: Mapping[str, Any]) -> str | None:
    """Tells in what a layer differs from the one of its name in Keras applications; None if in nothing."""
    found = next((each for each in ACTIVATED if re.match(each[0], name)), None)
    if found is None:
        return None
    _, kinds, wanted = found
    layer = f"its layer {name[:60]!r}"
    if kinds and kind not in kinds.split("|"):
        return f"{layer} is a {kind[:60]}"
    activation = config.get("activation", wanted)
    activation = activation.get("class_name", "") if isinstance(activation, dict) else activation
    if wanted and activation not in (wanted, None if wanted == "linear" else wanted):
        return f"{layer} has the activation {str(activation)[:60]!r}, not {wanted!r}"
    if kind == "ReLU" and any(config.get(each) for each in ("max_value", "negative_slope", "threshold")):
        return f"{layer} is a ReLU with a bound or a slope of its own"
    if kind == "Conv2D":
        size, strides = _most(config.get("kernel_size")), _most(config.get("strides"))
        if _most(config.get("dilation_rate")) > 1:
            return f"{layer} has dilation_rate={config['dilation_rate']}"
        if size > 1 and strides > 1 and (name not in ("conv1_conv", "conv1/conv") or config.get("padding") == "same"):
            return f"{layer} has strides={config['strides']} and padding={str(config.get('padding'))[:20]!r}"
    return None


def _most(value: Any) -> int:
    sizes = value if isinstance(value, list) else [value]
    return max((size for size in sizes if isinstance(size, int)), default=1)
