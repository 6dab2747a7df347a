"""Loading of weights from files of many formats and sources, for a network of this project."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from layers_flax import from_torch, image_by_shape, to_torch
from weights_flax.formats.open import Unreadable, WeightsFile, open_weights, reading
from weights_flax.formats.tensors import Tensor, from_memory
from weights_flax.io.archs import build_model, describe
from weights_flax.io.inspect import classes_of, fitting
from weights_flax.names.recognise import Naming, recognise

# Options that change what a network computes, but no name and no shape of its weights.
SILENT = ("shortcut", "padding", "bottleneck_stride")


class LoadedModel(NamedTuple):
    """A network, its variables, and the card of its file.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}, leaves NumPy arrays.
        card: the file's description of the network, see `save_weights`; empty if the file has none. Of weights of a run
            its "run" tells "which" they are, "averaged" or "last", their "step", and the run's "mark".
    """

    model: nn.Module
    variables: dict[str, Any]
    card: dict[str, Any]


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    new_head: bool = False,
    seed: int = 0,
    which: str | None = None,
) -> dict[str, Any]:
    """Loads the variables of `model` from a file.

    No code in the file is run, and no value is read before all names and shapes agree with the model's.

    Args:
        model: any network of either family.
        source: a file or a folder, see `open_weights`: safetensors, PyTorch (zipped and legacy), .npz, HDF5 of Keras,
            msgpack of Flax, a run's folder, a folder of Orbax, "hf://OWNER/NAME[/FILE]"; or a mapping, PyTorch's names
            to arrays or the nested variables of Flax. Names may be torchvision's, timm's, those of akamaster's CIFAR
            ResNets, of Keras applications, of Flax's ImageNet example, or our own.
        new_head: draw a new classifier, as `model.init` does, and ignore the file's, if any.
        seed: of the new classifier.
        which: "averaged" or "last" weights of a run; None takes averaged ones if the run has any.

    Returns:
        {"params", "batch_stats"} of NumPy arrays of the model's `param_dtype`; statistics are float32 or wider.

    Raises:
        ValueError: the file cannot be read, its names are of no known source, tensors are missing, surplus or
            misshapen, the number of classes differs, values are not finite, or the weights belong to a network that was
            built with other options. The message is one line.
    """
    if isinstance(source, Mapping):
        return _fit(model, "mapping", *recognise(from_memory(source)), new_head, seed)
    file = open_weights(source, which=which)
    with reading(file.path):
        naming, tensors = recognise(file.tensors)
        naming = _with_silent_options(naming, file)
    return _fit(model, str(file.path), naming, tensors, new_head, seed)


def read_card(source: str | Path, *, which: str | None = None) -> dict[str, Any]:
    """Reads the card of a file of weights, see `save_weights`; empty if the file has none.

    Args:
        source, which: as in `load_weights`.

    Raises:
        ValueError: the file cannot be read.
    """
    return open_weights(source, which=which).card


def load_model(source: str | Path, arch: str | None = None, *, which: str | None = None, **options: Any) -> LoadedModel:
    """Builds the network that a file of weights belongs to, and loads its variables.

    Args:
        source: as in `load_weights`.
        arch: the architecture; None takes that of the file's card or, without a card, the first that fits names and
            shapes. (Weights of a ResNet with shortcut A fit a plain network too; the ResNet comes first.)
        which: "averaged" or "last" weights of a run; None takes averaged ones if the run has any.
        options: of the constructor, in place of those that the file names.

    Raises:
        ValueError: as `load_weights`; or the file fits no architecture.
    """
    file = open_weights(source, which=which)
    with reading(file.path):
        naming, tensors = recognise(file.tensors)
        found = fitting(naming, tensors) if arch or not file.card.get("arch") else []
    named = {"num_classes": file.card["num_classes"]} if "num_classes" in file.card else {}
    if arch is None and file.card.get("arch"):
        arch, known = str(file.card["arch"]), {**_options(file), **named}
    elif arch is None and found:
        arch, known = found[0]
    elif arch is None:
        raise ValueError(f"weights {str(file.path)!r} fit no architecture by themselves; name it")
    else:
        named = named or {"num_classes": classes_of(tensors)}
        known = next((options for name, options in found if name == arch), {**naming.options, **named})
    model = build_model(arch, **{**known, **options})
    return LoadedModel(model, _fit(model, str(file.path), naming, tensors), file.card)


def _with_silent_options(naming: Naming, file: WeightsFile) -> Naming:
    """Adds the options of `SILENT` that the network in a file's card has, if the card lists options."""
    if not isinstance(file.card.get("options"), dict):
        return naming
    try:
        network = build_model(str(file.card.get("arch")), **_options(file))
    except ValueError:  # a card of another project
        return naming
    options = {name: getattr(network, name) for name in SILENT if hasattr(network, name)}
    return naming._replace(title=str(file.card["arch"]), options={**naming.options, **options})


def _options(file: WeightsFile) -> dict[str, Any]:
    options = file.card.get("options")
    options = options if isinstance(options, dict) else {}
    # Older files call the option `stem_type` "stem".
    return {"stem_type" if name == "stem" else name: value for name, value in options.items()}


def _fit(
    model: nn.Module, where: str, naming: Naming, tensors: dict[str, Tensor], new_head: bool = False, seed: int = 0
) -> dict[str, Any]:
    arch = describe(model)[0] or type(model).__name__
    for option, needed in naming.options.items():
        if getattr(model, option, needed) != needed:
            raise ValueError(
                f"weights {where!r} are those of {naming.title}, and need a model built with {option}={needed!r}; "
                f"that of the model is {getattr(model, option)!r}"
            )
    tensors = {**tensors, **_new_head(model, seed)} if new_head else tensors
    weight = tensors.get(f"{model.torch_head}.weight")
    classes: int = getattr(model, "num_classes")  # noqa: B009
    given = None if weight is None else weight.shape[0] if weight.shape else 0
    if given not in (classes, None):
        raise ValueError(
            f"weights {where!r} have {given} classes, the model has {classes}; new_head=True draws the classifier anew"
        )
    try:
        return from_torch(model, {name: _checked(model, name, tensor) for name, tensor in tensors.items()})
    except Unreadable:
        raise
    except ValueError as error:
        raise ValueError(f"weights {where!r} are not those of {arch}: {error}") from None


def _checked(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Returns the tensor in the model's type; reading it raises ValueError unless all values are finite."""
    param_dtype: Any = getattr(model, "param_dtype")  # noqa: B009
    statistic = re.search(r"\.running_(mean|var)$", name)
    dtype = np.dtype(jnp.promote_types(param_dtype, jnp.float32) if statistic else param_dtype)
    if name.endswith("num_batches_tracked"):
        return tensor
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{name} is {tensor.dtype}, not a type of floating point")

    def read() -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.asarray(tensor)
            values = values.astype(dtype, copy=not values.flags.writeable)
            if np.isfinite(values.sum()):  # then all of them are; the sum is the fastest to compute
                return values
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            raise ValueError(f"{name} has {bad:,} of {values.size:,} values that are not finite in {dtype}")
        return values

    return Tensor(tensor.shape, dtype, read)


def _new_head(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Draws a classifier as `model.init` does, under PyTorch's names."""
    head = model.torch_head
    module = head.replace(".", "_")
    params = model.init(jax.random.key(seed), image_by_shape((32, 32, 3)), train=False)["params"]
    return from_memory(to_torch(model, jax.device_get({"params": {module: params[module]}})))
