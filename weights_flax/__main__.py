"""Command line over weights: python -m weights_flax inspect, convert, export or list."""

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
from common_flax.command_line import Numbers, parse_options, run_command, start_command
from common_flax.terminal import complaining, say, tell, visible
from weights_flax.export.export import export
from weights_flax.export.metadata import card_path
from weights_flax.formats.run import check_new_file, check_output, origin
from weights_flax.io.archs import ARCHS, build_model, published_size
from weights_flax.io.inspect import called
from weights_flax.io.listing import facts, tabulate
from weights_flax.io.load import LoadedModel, load_model
from weights_flax.io.look import look_into
from weights_flax.io.of_file import kind_of
from weights_flax.io.published import find, names
from weights_flax.io.save import FORMATS, save_weights

DESCRIPTION = "Reads, converts and exports the weights of networks from many sources. No code in a file is run."
SHOWN_ENTRIES = 50  # of a card; our own have eight


@dataclass(frozen=True)
class Inspect:
    """Prints the content of a file of weights, the source of its names, and the architectures that it fits."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A file of weights, a run's folder, hf://OWNER/NAME, or a name that `list` prints."""
    which: str | None = None
    """Weights of a run: best, averaged or last. Left out, the first of these that it has."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""
    tensors: bool = False
    """Print all tensors, not only the first and the last."""


@dataclass(frozen=True)
class Convert:
    """Converts a file of weights to this project's names, in the format that the ending of the new file chooses."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A file of weights, a run's folder, hf://OWNER/NAME, or a name that `list` prints."""
    out: Path
    """The new file: .safetensors, .npz, .pt, .pth, .th or .msgpack."""
    arch: str | None = None
    """The architecture; by default the one that the file names, or that its names and shapes fit."""
    ignore_unused: bool = False
    """Pass over entries of the file beside the network; they are refused else."""
    which: str | None = None
    """Weights of a run: best, averaged or last. Left out, the first of these that it has."""
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
    """A file or a name of weights; without weights and run the network has its initial weights."""
    run: Path | None = None
    """The folder of a run."""
    which: str | None = None
    """Weights of a run: best, averaged or last. Left out, the first of these that it has."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""
    image_size: int | None = None
    """Height and width in pixels; by default those of the training, else those that the network was published for."""
    opset: int | None = None
    """Version of ONNX' operations, 9 to 22; by default 17."""
    mean: Numbers | None = None
    """Mean of each channel, for pixels from 0 to 1; by default the run's or the file's."""
    std: Numbers | None = None
    """Standard deviation of each channel, in the same form."""
    from_pixels: bool = False
    """Put normalisation and softmax (sigmoid where an image may have several classes) into the program: pixels from 0
    to 255, uint8, go in, probabilities come out."""


@dataclass(frozen=True)
class List:
    """Prints the weights that torchvision and timm publish for the networks here."""

    what: Annotated[Positional[str | None], arg(metavar="ARCH|NAME")] = None
    """The networks of one architecture, or all facts of one name; left out, all names."""


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
    about = {
        name: card.get(name) for name in ("class_names", "image_shape", "licence", "source", "data", "multi_label")
    }
    about |= {"run": card["run"] if origin(card) else None}
    save_weights(model, variables, options.out, mean=normalised.get("mean"), std=normalised.get("std"), **about)
    values = sum(np.size(leaf) for leaf in jax.tree.leaves(variables))
    tell(f"{called(model)}, {values:,} values{_taken(card)}: {options.out}")


def _taken(card: dict[str, Any]) -> str:
    return f", {taken}" if (taken := origin(card)) else ""


def export_network(options: Export) -> None:
    """Writes a network to a file that runs without this project."""
    for written in (options.out, *([card_path(options.out)] if options.format == "stablehlo" else [])):
        check_output("out", written, [options.run, options.weights])
    if options.format == "torch" and (given := options.mean or options.std):
        raise ValueError(f"mean and std are for formats 'stablehlo' and 'onnx'; given {given} for {options.format!r}")
    check_new_file("out", options.out)
    model, variables, card = _network(options)
    size = options.image_size or published_size(model)
    shape = card.get("image_shape") if options.image_size is None else None
    channels = model.first_kernel(variables).shape[-2]
    image_shape = tuple(shape or (size, size, channels))
    moments = _normalisation(options, card, channels) if options.format != "torch" else {}
    about: dict[str, Any] = dict(format=options.format, image_shape=image_shape, opset=options.opset)
    about["card"] = card | ({"normalisation": moments} if moments else {})
    export(model, variables, options.out, from_pixels=options.from_pixels, **about)
    pixels = ", from pixels to probabilities" * options.from_pixels
    tell(f"{called(model)}, images {'×'.join(map(str, image_shape))}{pixels}{_taken(card)}: {options.out}")


def _normalisation(options: Export, card: dict[str, Any], channels: int) -> dict[str, Numbers]:
    """Returns the mean and std that the options give, else those of the card; empty if neither has any."""
    known = card.get("normalisation") or {}
    given = {"mean": options.mean or known.get("mean"), "std": options.std or known.get("std")}
    if (given["mean"] is None) != (given["std"] is None):
        raise ValueError(f"give mean and std, or neither; given mean={given['mean']} and std={given['std']}")
    found = {name: tuple(values) for name, values in given.items() if values is not None}
    for name, values in found.items():
        if len(values) != channels or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
            what = f"{channels} finite numbers, one for each channel" + ", all of them over 0" * (name == "std")
            raise ValueError(f"{name} must be {what}; given {values}")
    return found


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


def list_published(options: List) -> None:
    """Prints the table of published weights, or all that it has on one name."""
    if options.what is not None and options.what not in ARCHS:
        one_of("architecture or name of weights", options.what, [*ARCHS, *names()])
        say(*facts(find(options.what)))
    else:
        say(*tabulate(options.what))


COMMANDS: dict[type, Any] = {Inspect: inspect, Convert: convert, Export: export_network, List: list_published}


def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 2 after an error that the user can correct."""

    def run() -> None:
        kinds: Any = Inspect | Convert | Export | List
        options = parse_options(kinds, arguments, prog="python -m weights_flax", description=DESCRIPTION)
        check_backend()
        with complaining("weights_flax", "weights_flax"):
            COMMANDS[type(options)](options)

    return run_command("weights_flax", run, OSError)


if __name__ == "__main__":
    start_command(main)
