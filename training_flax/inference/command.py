"""The command line of `python -m training_flax.predict`."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, cast

import jax
import numpy as np
from tyro.conf import Positional

from common_flax.backend import check_backend
from common_flax.checks import MOST_PIXELS, one_of
from common_flax.command_line import Numbers, parse_options
from common_flax.errors import out_of_memory
from common_flax.files import read_text, whole_file
from common_flax.terminal import as_numbers, complain, complaining, plain_text, say
from training_flax.config.config import DTYPES
from training_flax.config.run_config import is_run, read_run_config
from training_flax.files.listing import find_images, lines_of
from training_flax.inference.classifier import Classifier, image_channels
from training_flax.inference.likeness import Likeness, named, summed_up, unlike
from training_flax.inference.lines import json_lines, row_format, table_rows
from training_flax.inference.predict import FileBatch, FileStream
from training_flax.inference.trained import Trained, network_of_run, network_of_weights
from training_flax.inference.transform import View
from training_flax.plots.grids import draw_predictions
from training_flax.runtime.compilation import keep_compiled_programs
from training_flax.runtime.signals import interrupts
from training_flax.runtime.terminal import complain_above_bar, progress_bar
from weights_flax.formats.run import check_output, run_in
from weights_flax.io.archs import describe, published_size
from weights_flax.io.of_file import kind_of

PROG = "python -m training_flax.predict"
DESCRIPTION = "Predicts the classes of images with a trained network: a table, JSON lines or a picture."
IMAGENET = "ImageNet's"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURES = (".png", ".pdf", ".svg")
PICTURED = 24  # images
BATCH_SIZE = 64  # images, unless they are large


@dataclass(frozen=True)
class CommandLine:
    """The images, the network, and the output."""

    images: Positional[tuple[str, ...]] = ()
    """Image files; folders, for the images in them and in their subfolders; - reads a list of both from stdin."""

    run: Path | None = None
    """Folder of a run of train.py."""
    weights: str | None = None
    """File of weights, in any format that weights_flax reads; a run's folder; or a name, such as timm:resnet50."""
    arch: str | None = None
    """Architecture of the weights, if the file does not name it."""
    which: str | None = None
    """Weights of a run: best, averaged or last. Left out, the first of these that it has."""
    ema: bool = False
    """Take the averaged weights, as --which averaged; a checkpoint of others gives those that are no average else."""
    ignore_unused: bool = False
    """Pass over entries of the weights' file beside the network; they are refused else."""

    top: int | None = None
    """Classes per image; left out, 5, or all if there are fewer."""
    json: bool = False
    """Write a line of JSON for each image instead of the table."""
    out: Path | None = None
    """File to write to instead of the terminal."""
    picture: Path | None = None
    """Picture of the first images with their classes: a .png, .pdf or .svg file."""

    image_size: int | None = None
    """Height and width that the network sees; left out, those of the run, or of the network's publication."""
    crop: float | None = None
    """Share of the shorter side that the centre crop keeps. Left out, the run's or the file's, or 0.875; and images
    that have the size already are not cropped, unless the file says so."""
    interpolation: str | None = None
    """bilinear or bicubic. Left out, the run's or the file's, or bilinear."""
    crop_rule: str | None = None
    """Rounding of the centre crop: torchvision, timm or centred. Left out, the run's or the file's, or torchvision."""
    preparation: str | None = None
    """digit finds the ink of one handwritten digit, and centres and scales it as in the digits data set, light on dark;
    none leaves images as they are. Left out, the run's or the file's, or none."""
    mean: Numbers | None = None
    """Mean of each channel, for pixels from 0 to 1: 0.485,0.456,0.406. Left out, the run's or the file's."""
    std: Numbers | None = None
    """Standard deviation of each channel, in the same form."""
    classes: Path | None = None
    """File with the names of the classes, one per line. Left out, the run's or the file's."""

    batch_size: int | None = None
    """Images at a time; left out, 64, or fewer if they are large."""
    workers: int | None = None
    """Threads that decode images; left out, one per core."""
    dtype: str | None = None
    """Compute type: float32, bfloat16, float16 or float64. Left out, the run's, or float32."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code.

    The code is 1 if an image could not be read, 2 after an error, 130 when interrupted.
    """
    try:
        return run(parse_options(CommandLine, arguments, prog=PROG, description=DESCRIPTION))
    except BrokenPipeError:
        # The reader of the pipe has gone. Python still flushes stdout at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        complain(f"predict: error: {error}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not (line := out_of_memory(error)):
            raise
        complain(f"predict: error: {line}; take a smaller --batch-size")
        return 2
    except KeyboardInterrupt:
        say("", "predict: interrupted", file=sys.stderr)
        return 130


def run(options: CommandLine) -> int:
    """Predicts as the options say; returns the exit code."""
    if options.run is None and options.weights is not None and run_in(Path(options.weights)):
        options = replace(options, run=Path(options.weights), weights=None)
    _check(options)
    check_backend()
    trained = _read(options)
    names, mean, std, size = _resolved(trained, options)
    crop, keep = (trained.crop, trained.keep) if options.crop is None else (options.crop, False)
    paths = find_images(options.images, lines_of(sys.stdin))
    for name, path in (("out", options.out), ("picture", options.picture)):
        if path is not None:
            check_output(name, path, [options.run, options.weights, *paths])
    names_seen = ("interpolation", "crop_rule", "preparation")
    seen = {name: getattr(options, name) or getattr(trained, name) for name in names_seen}
    view = View(size, image_channels(trained.model, trained.variables), crop, keep, **seen)
    if not view.keep or view.interpolation != "bilinear":
        _say(f"crops {crop:.4g} of the shorter side, {view.interpolation}, rounded as by {view.crop_rule}")
    if view.preparation == "digit":
        _say("finds the ink of one digit in each image, and centres and scales it as in the digits data set")
    if trained.multi_label:
        _say("an image may have several classes, or none: each has a probability of its own")
    usual = max(1, min(BATCH_SIZE, MOST_PIXELS // prod(size)))
    batch_size = usual if options.batch_size is None else options.batch_size
    network, several = (trained.model, trained.variables), trained.multi_label
    classifier = Classifier(*network, mean, std, options.top, batch_size, len(paths), several)
    stream = FileStream(classifier, paths, view, options.workers)
    keep_compiled_programs()
    with interrupts() as check, nullcontext(sys.stdout) if options.out is None else _writing(options.out) as out:
        classifier.compile(view.shape)
        first, broken = _write(stream, names, options.json, out, check, trained.likeness)
    if options.picture is not None:
        _draw(options.picture, first, names)
    return 1 if broken else 0


def _write(
    stream: FileStream,
    names: Sequence[str],
    as_json: bool,
    out: IO[str],
    check: Callable[[], None],
    likeness: Likeness | None,
) -> tuple[list[FileBatch], int]:
    """Writes predictions batch by batch; returns the first batches, for a picture, and the number of broken images."""
    row = row_format(stream.paths, names)
    if not as_json:
        say(row.format("image", "class", "probability"), file=out)
    first: list[FileBatch] = []
    strange: list[tuple[str, str]] = []
    broken, start = 0, time.perf_counter()
    with progress_bar("predict", len(stream.paths), shown=not out.isatty()) as bar:
        for batch in stream:
            check()
            for complaint in batch.broken:
                complain_above_bar(f"predict: {complaint}; skipped")
            broken += len(batch.broken)
            lines = json_lines(batch, names) if as_json else table_rows(row, batch, names)
            say(*lines, file=out)
            if likeness is not None and len(batch.paths):
                strange += named(batch.paths, unlike(batch.images, likeness))
            if sum(len(kept.paths) for kept in first) < PICTURED:
                first.append(batch)
            bar.update(batch.files)
    _sum_up(stream, broken, time.perf_counter() - start)
    for line in summed_up(strange):
        _say(line)
    return first, broken


def _sum_up(stream: FileStream, broken: int, seconds: float) -> None:
    images, network, decoding = len(stream.paths) - broken, stream.waited_for_network, stream.waited_for_images
    count = f"{images:,} image{'s' * (images != 1)}" + (f", {broken:,} skipped" if broken else "")
    limit = "the network" if network >= decoding else "decoding"
    waits = f"waited {network:.1f} s for the network, {decoding:.1f} s for images"
    _say(f"{count}; {seconds:.1f} s, {images / seconds:,.1f} images/s; limited by {limit} ({waits})")


def _draw(path: Path, batches: Sequence[FileBatch], names: Sequence[str]) -> None:
    images = np.concatenate([batch.images for batch in batches])[:PICTURED]
    probabilities, classes = map(np.concatenate, zip(*(batch.predictions for batch in batches), strict=True))
    titles = [plain_text("/".join(Path(path).parts[-2:])) for batch in batches for path in batch.paths]
    if not len(images):
        raise ValueError(f"picture {str(path)!r} is not drawn: no image could be read")
    draw_predictions(path, images, titles, probabilities, classes, names, format=path.suffix[1:])
    _say(f"the first {len(images)} are in {path}" if len(images) > 1 else f"it is in {path}")


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", errors="replace") as file:
        yield file


def _say(line: str) -> None:
    complain(f"predict: {line}")


def _check(options: CommandLine) -> None:
    """Raises ValueError for wrong options, before anything is read."""
    if (options.run is None) == (options.weights is None):
        given = "neither is" if options.run is None else "both are"
        raise ValueError(f"give --run DIR or --weights FILE; {given} given")
    if options.arch is not None and options.run is not None and options.arch != _arch(options.run):
        raise ValueError(f"--arch is for --weights: a run knows its own; given {options.arch!r}")
    if options.dtype is not None:
        one_of("dtype", options.dtype, DTYPES)
    if options.picture is not None:
        one_of("ending of a picture", options.picture.suffix, PICTURES)
    for name, path in (("out", options.out), ("picture", options.picture)):
        if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
            raise ValueError(f"{name} {str(path)!r} cannot be written")


def _arch(run: Path) -> str | None:
    return read_run_config(run).options.arch if is_run(run) else None


def _read(options: CommandLine) -> Trained:
    dtype = options.dtype or (read_run_config(options.run).options.dtype if options.run else "float32")
    which = kind_of(options.which, options.ema or None)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if options.weights is not None:
        with complaining("weights_flax", "predict"):
            return network_of_weights(options.weights, options.arch, dtype, which, options.ignore_unused)
    return network_of_run(cast(Path, options.run), dtype, which)


def _resolved(trained: Trained, options: CommandLine) -> tuple[tuple[str, ...], Numbers, Numbers, tuple[int, int]]:
    """Returns names of classes, mean, std and size of images, from options, network or defaults; prints them."""
    num_classes: int = getattr(trained.model, "num_classes")  # noqa: B009
    names = trained.class_names
    if options.classes is not None:
        names = _names(options.classes, num_classes)
    elif names is None:
        names = tuple(map(str, range(num_classes)))
        _say("no names of classes are known; their numbers stand for them (--classes FILE)")
    mean, mean_from = _moments(options.mean, trained.mean, IMAGENET_MEAN, options)
    std, std_from = _moments(options.std, trained.std, IMAGENET_STD, options)
    if IMAGENET in (mean_from, std_from):
        _say("no mean and std are known; ImageNet's stand for them (--mean, --std)")
    size = trained.size or (published_size(trained.model),) * 2
    if options.image_size is not None:
        size = (options.image_size, options.image_size)
    sides = "×".join(map(str, size))
    arch = describe(trained.model)[0] or type(trained.model).__name__
    if trained.origin:
        _say(f"{trained.origin} of {options.run or options.weights}")
    source = f" ({mean_from})" if mean_from == std_from else f" (mean: {mean_from}; std: {std_from})"
    moments = f"mean {as_numbers(mean)}, std {as_numbers(std)}{source}"
    _say(f"{arch}, {num_classes} classes, sees {sides} pixels, {moments}")
    return names, mean, std, size


def _moments(given: Numbers | None, known: Numbers | None, usual: Numbers, options: CommandLine) -> tuple[Numbers, str]:
    """Returns the mean or the std, and where it is from: the options, the run or the file, or ImageNet."""
    if given is not None:
        return given, "as given"
    return (usual, IMAGENET) if known is None else (known, "the run's" if options.run else "the file's")


def _names(path: Path, num_classes: int) -> tuple[str, ...]:
    try:
        names = tuple(read_text(path).splitlines())
    except OSError as error:
        raise ValueError(f"classes {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"classes {str(path)!r} are no text") from None
    if len(names) != num_classes:
        raise ValueError(f"classes {str(path)!r} must be {num_classes} lines, one for each; given {len(names)}")
    return names
