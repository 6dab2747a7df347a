"""Loading of weights from files of many formats and sources, for a network of this project."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.terminal import visible
from layers_flax import Network, from_torch, image_by_shape, to_torch
from layers_flax.model.torch_names import QUICKLY_TRACED
from weights_flax.formats.open import Unreadable
from weights_flax.formats.tensors import Tensor, from_memory
from weights_flax.io.archs import build_model, describe
from weights_flax.io.choose import Chosen, check_said, choose, left_over, some, with_head, without_heads
from weights_flax.io.inspect import classes_of, fitting, image_channels, is_inside, shapes_of, torch_shapes
from weights_flax.io.of_file import (
    alike_note,
    card_options,
    chosen_in,
    fitting_model,
    kind_of,
    with_silent_options,
)
from weights_flax.io.preprocessing import described
from weights_flax.io.published import open_source

HINT = "new_head=True draws the classifier anew"
LOG = logging.getLogger("weights_flax")


class Loaded(NamedTuple):
    """The parts of a `LoadedModel`."""

    model: Network
    variables: dict[str, Any]
    card: dict[str, Any]


class LoadedModel(Loaded):
    """A network, its variables, and the card of its file: three values, and notes on them.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}, leaves NumPy arrays.
        card: the file's description of the network, see `save_weights`; empty if the file has none. Of weights of a run
            its "run" tells "which" they are, "best", "averaged" or "last", their "step", and the run's "mark".
        notes: lines on what was chosen where the file leaves a choice: of several networks in it, of left-over entries,
            and of networks of others that have the same names and shapes. They are logged as warnings too.
    """

    notes: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    new_head: bool = False,
    seed: int = 0,
    which: str | None = None,
    ema: bool | None = None,
    ignore_unused: bool = False,
) -> dict[str, Any]:
    """Loads the variables of `model` from a file.

    No code in the file is run, and no value is read before all names and shapes agree with the model's.

    Args:
        model: any network of either family.
        source: a file or a folder, see `open_weights`: safetensors, PyTorch (zipped and legacy), .npz, HDF5 of Keras,
            msgpack of Flax, a run's folder, a folder of Orbax, "hf://OWNER/NAME[/FILE]"; a name of published weights,
            "timm:resnet50.a1_in1k"; or a mapping, PyTorch's names to arrays or the nested variables of Flax. Tensors
            may have the names of torchvision, timm, transformers, of akamaster's CIFAR ResNets, of Keras applications,
            of Flax's ImageNet example, or our own, behind any prefix.
        new_head: draw a new classifier, as `model.init` does, and ignore the file's, if any, whatever its name.
        seed: of the new classifier.
        which: "best", "averaged" or "last" weights of a run, or one of the last two of a checkpoint with both; None
            takes the first that a run has, and those that are no average from a checkpoint of others.
        ema: True is which="averaged", False is which="last".
        ignore_unused: pass over entries beside the network, which are refused else.

    Returns:
        {"params", "batch_stats"} of NumPy arrays of the model's `param_dtype`; statistics are float32 or wider.

    Raises:
        ValueError: the file cannot be read, its names are of no known source, tensors are missing, surplus or
            misshapen, the number of classes differs, values are not finite, or the weights belong to a network that was
            built with other options, or to one of others that only looks alike. The message is one line.
    """
    which = kind_of(which, ema)
    if isinstance(source, Mapping):
        chosen = choose(from_memory(source), "mapping", which, model=model)
        variables, notes = _fit(model, "mapping", chosen, new_head, seed, ignore_unused)
    else:
        file = open_source(source, which=which)
        chosen = chosen_in(file, which, model=model)
        check_said(str(file.path), file.said)
        chosen = chosen._replace(naming=with_silent_options(chosen.naming, file))
        variables, notes = _fit(model, str(file.path), chosen, new_head, seed, ignore_unused)
    _log((*chosen.notes, *notes))
    return variables


def read_card(source: str | Path, *, which: str | None = None) -> dict[str, Any]:
    """Reads the card of a file of weights, see `save_weights`; empty if the file has none.

    Files of timm or transformers beside it may add its pre-processing.

    Args:
        source, which: as in `load_weights`.

    Raises:
        ValueError: the file cannot be read.
    """
    return described(open_source(source, which=which)).card


def load_model(
    source: str | Path,
    arch: str | None = None,
    *,
    which: str | None = None,
    ema: bool | None = None,
    ignore_unused: bool = False,
    new_head: bool = False,
    seed: int = 0,
    **options: Any,
) -> LoadedModel:
    """Builds the network that a file of weights belongs to, and loads its variables.

    Args:
        source: as in `load_weights`.
        arch: the architecture; None takes that of the file's card or, without a card, the first that fits names and
            shapes, or else a network of the blocks and the depth that they show. (Weights of a ResNet with shortcut A
            fit a plain network too; the ResNet comes first, unless the file's name says otherwise.)
        which, ema, ignore_unused, new_head, seed: as in `load_weights`.
        options: of the constructor, in place of those that the file names.

    Raises:
        ValueError: as `load_weights`; or the file fits no architecture: the message tells the nearest, the first layer
            in which they differ, and what is missing here.
    """
    which = kind_of(which, ema)
    file = described(open_source(source, which=which))
    where = str(file.path)
    chosen = chosen_in(file, which)
    card_arch = str(file.card["arch"]) if file.card.get("arch") else None
    if card_arch is None:
        check_said(where, file.said)
    in_card = {"num_classes": file.card["num_classes"]} if "num_classes" in file.card else {}
    if arch is None and card_arch is not None:
        model = build_model(card_arch, **{**card_options(file), **in_card, **options})
    elif arch is None:
        chosen = chosen._replace(naming=with_silent_options(chosen.naming, file))
        model = fitting_model(file, chosen, new_head, options)
    else:
        known = in_card or {"num_classes": classes_of(chosen.tensors)}
        found = dict(fitting(chosen.naming, chosen.tensors, inner=True, but_for_head=new_head))
        model = build_model(arch, **{**chosen.naming.options, **known, **found.get(arch, {}), **options})
    variables, notes = _fit(model, where, chosen, new_head, seed, ignore_unused)
    notes = (*chosen.notes, *notes, *alike_note(file, chosen, model))
    loaded = LoadedModel(model, variables, file.card)
    loaded.notes = notes
    _log(notes)
    return loaded


def _log(notes: tuple[str, ...]) -> None:
    for note in notes:
        LOG.warning("%s", visible(note))


def _fit(
    model: Any, where: str, chosen: Chosen, new_head: bool, seed: int, ignore_unused: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the variables of a model from the network in a file, and notes on what was passed over or renamed."""
    arch = describe(model)[0] or type(model).__name__
    for option, needed in chosen.naming.options.items():
        if getattr(model, option, needed) != needed:
            raise ValueError(
                f"weights {where!r} are those of {chosen.naming.title}, and need a model built with "
                f"{option}={needed!r}; that of the model is {getattr(model, option)!r}"
            )
    notes: list[str] = []
    tensors = chosen.tensors
    # Names tell at once that a very deep network is another, where tracing takes seconds.
    quick = sum(model.stage_sizes) <= QUICKLY_TRACED or model.torch_options(shapes_of(tensors)) is not None
    if quick and new_head:
        chosen = without_heads(model, chosen)
    elif quick:
        chosen, moved = with_head(model, chosen)
        notes += [f"weights {where!r}: the classifier is the dense layer {moved!r}"] if moved else []
    tensors = {**chosen.tensors, **_new_head(model, seed)} if new_head else chosen.tensors
    weight = tensors.get(f"{model.torch_head}.weight")
    given = None if weight is None else weight.shape[0] if weight.shape else 0
    if given not in (model.num_classes, None):
        raise ValueError(f"weights {where!r} have {given} classes, the model has {model.num_classes}; {HINT}")
    if quick and (extra := left_over(model, chosen)):
        own = {name: value for name, value in tensors.items() if is_inside(model, name)}
        fit = shapes_of(own) == torch_shapes(model, image_channels(model, shapes_of(own)))
        if fit and not ignore_unused:
            raise ValueError(
                f"weights {where!r} are those of {arch}, but have other entries beside it: {some(extra)}; "
                "ignore_unused=True (--ignore-unused) passes over them"
            )
        if ignore_unused:
            tensors = own
            notes.append(f"weights {where!r}: passed over {some(extra)}")
    try:
        variables = from_torch(model, {name: _checked(model, name, tensor) for name, tensor in tensors.items()})
    except Unreadable:
        raise
    except ValueError as error:
        headless = weight is None and not new_head
        raise ValueError(f"weights {where!r} are not those of {arch}: {error}{f'; {HINT}' * headless}") from None
    return variables, tuple(notes)


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
