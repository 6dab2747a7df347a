"""Command line over files of weights: python -m weights_flax inspect, convert or export."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import Positional, arg

from common_flax.backend import check_backend
from common_flax.checks import one_of
from common_flax.command_line import parse_options, run_command, start_command
from common_flax.terminal import complaining, say, tell, visible
from weights_flax.export.export import export
from weights_flax.formats.run import check_new_file, check_output, origin
from weights_flax.io.archs import build_model, published_size
from weights_flax.io.inspect import called
from weights_flax.io.load import LoadedModel, load_model
from weights_flax.io.look import look_into
from weights_flax.io.of_file import kind_of
from weights_flax.io.save import FORMATS, save_weights

DESCRIPTION = "Reads, converts and exports the weights of networks from many sources. No code in a file is run."
SHOWN_ENTRIES = 50  # of a card; our own have eight


@dataclass(frozen=True)
class Inspect:
    """Prints the content of a file of weights, the source of its names, and the architectures that it fits."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A file of weights, a run's folder, or hf://OWNER/NAME."""
    which: str | None = None
    """Weights of a run: averaged or last. Left out, averaged if the run has any."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""
    tensors: bool = False
    """Print all tensors, not only the first and the last."""


@dataclass(frozen=True)
class Convert:
    """Converts a file of weights to this project's names, in the format that the ending of the new file chooses."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A file of weights, a run's folder, or hf://OWNER/NAME."""
    out: Path
    """The new file: .safetensors, .npz, .pt, .pth, .th or .msgpack."""
    arch: str | None = None
    """The architecture; by default the one that the file names, or that its names and shapes fit."""
    ignore_unused: bool = False
    """Pass over entries of the file beside the network; they are refused else."""
    which: str | None = None
    """Weights of a run: averaged or last. Left out, averaged if the run has any."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""


@dataclass(frozen=True)
class Export:
    """Writes a network to a file that runs without this project."""

    out: Path
    """The file."""
    format: str
    """stablehlo (run by JAX alone), onnx, or torch (a state dict for torch.load)."""
    arch: str | None = None
    """The architecture; by default the one that the weights name or fit."""
    ignore_unused: bool = False
    """Pass over entries of the file beside the network; they are refused else."""
    weights: str | None = None
    """A file of weights; without weights and run the network has its initial weights."""
    run: Path | None = None
    """The folder of a run."""
    which: str | None = None
    """Weights of a run: averaged or last. Left out, averaged if the run has any."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""
    image_size: int | None = None
    """Height and width in pixels; by default those of the training, else those that the network was published for."""
    opset: int | None = None
    """Version of ONNX' operations, 9 to 22; by default 17."""


def inspect(options: Inspect) -> None:
    """Prints the content of a file; only names, shapes and types are read."""
    seen = look_into(options.file, kind_of(options.which, options.ema or None))
    file, chosen = seen.file, seen.chosen
    folder = chosen.prefix.rpartition("/")[0]
    tensors = {name: value for name, value in file.tensors.items() if name.startswith(folder)}
    values = sum(prod(tensor.shape) for tensor in tensors.values())
    kinds = sorted({str(tensor.dtype) for tensor in tensors.values()})
    say(f"file      {file.path}: {file.format}, {len(tensors):,} tensors, {values:,} values, {', '.join(kinds)}")
    say(f"names     {chosen.naming.title}{f', behind {chosen.prefix!r}' if chosen.prefix else ''}")
    for title, lines in (("fits", seen.fits), ("beside", seen.beside), ("note", seen.notes)):
        for number, line in enumerate(lines):
            say(f"{'' if number else title:9} {line}")
    if taken := origin(file.card):
        say(f"run       {taken} of run {_short(file.card['run'].get('mark') or 'without a mark')}")
    for name, value in [entry for entry in file.card.items() if entry[0] != "run"][:SHOWN_ENTRIES]:
        say(f"{_short(name.replace('_', ' ').removeprefix('num ')):9} {_short(value)}")
    names = [_short(visible(name)) for name in tensors]
    width = max(map(len, names))
    lines = [
        f"  {name:{width}}  {tensor.dtype}  {tensor.shape}"
        for name, tensor in zip(names, tensors.values(), strict=True)
    ]
    say(*(lines if options.tensors or len(lines) <= 8 else [*lines[:4], "  …", *lines[-4:]]))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name}={part}" for name, part in value.items()] or ["none"]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def convert(options: Convert) -> None:
    """Converts a file, and prints the network that it belongs to."""
    check_output("out", options.out, [options.file])
    check_new_file("out", options.out)
    one_of("ending of a file of weights", options.out.suffix, FORMATS)
    which = kind_of(options.which, options.ema or None)
    model, variables, card = load_model(options.file, options.arch, which=which, ignore_unused=options.ignore_unused)
    normalised = card.get("normalisation") or {}
    about = {name: card.get(name) for name in ("class_names", "image_shape", "licence", "source")}
    about |= {"run": card["run"] if origin(card) else None}
    save_weights(model, variables, options.out, mean=normalised.get("mean"), std=normalised.get("std"), **about)
    values = sum(np.size(leaf) for leaf in jax.tree.leaves(variables))
    tell(f"{called(model)}, {values:,} values{_taken(card)}: {options.out}")


def _taken(card: dict[str, Any]) -> str:
    return f", {taken}" if (taken := origin(card)) else ""


def export_network(options: Export) -> None:
    """Writes a network to a file that runs without this project."""
    check_output("out", options.out, [options.run, options.weights])
    check_new_file("out", options.out)
    model, variables, card = _network(options)
    size = options.image_size or published_size(model)
    shape = card.get("image_shape") if options.image_size is None else None
    channels = model.first_kernel(variables).shape[-2]
    image_shape = tuple(shape or (size, size, channels))
    normalised = card.get("normalisation") or {} if options.format == "onnx" else {}
    metadata = {name: " ".join(map(str, value)) for name, value in normalised.items()}
    about: dict[str, Any] = dict(format=options.format, image_shape=image_shape, metadata=metadata, opset=options.opset)
    export(model, variables, options.out, **about)
    tell(f"{called(model)}, images {'×'.join(map(str, image_shape))}{_taken(card)}: {options.out}")


def _network(options: Export) -> LoadedModel:
    if options.weights is not None and options.run is not None:
        raise ValueError(f"give weights or run, not both; given {options.weights!r} and {str(options.run)!r}")
    source = options.weights or options.run
    if source is not None:
        which = kind_of(options.which, options.ema or None)
        return load_model(source, options.arch, which=which, ignore_unused=options.ignore_unused)
    if options.arch is None:
        raise ValueError("name an architecture with --arch, or weights, or a run; none is given")
    model = build_model(options.arch)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    return LoadedModel(model, dict(variables), {})


COMMANDS: dict[type, Any] = {Inspect: inspect, Convert: convert, Export: export_network}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 2 after an error that the user can correct."""

    def run() -> None:
        kinds: Any = Inspect | Convert | Export
        options = parse_options(kinds, arguments, prog="python -m weights_flax", description=DESCRIPTION)
        check_backend()
        with complaining("weights_flax", "weights_flax"):
            COMMANDS[type(options)](options)

    return run_command("weights_flax", run, OSError)


if __name__ == "__main__":
    start_command(main)
