"""The command `python -m training_flax.prepare`."""

import contextlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from tyro.conf import Positional, arg

from common_flax.checks import one_of
from common_flax.command_line import parse_options, run_command
from common_flax.errors import one_line
from common_flax.optional import library
from common_flax.terminal import say
from training_flax.data.splits import split_name
from training_flax.data.tfds import data_folder

DESCRIPTION = "Downloads a data set with TensorFlow Datasets and stores it for training without TensorFlow."
ARCHIVES, COMPRESSED = {".tar", ".tgz", ".zip"}, {".gz", ".bz2", ".xz"}
TIMEOUT = 5  # seconds to wait for a host's first answer


@dataclass(frozen=True)
class Prepare:
    """The data set to prepare, and its folders."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """A data set of TFDS: NAME, NAME/CONFIG or NAME:VERSION, such as cifar10."""
    data_dir: Path | None = None
    """Folder to store to; left out, $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    source: Annotated[Path | None, arg(name="from")] = None
    """Folder with the published files, as archives of the same names or unpacked; left out, they are downloaded."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code: 2 for wrong input, 130 when interrupted."""

    def run() -> None:
        options = parse_options(Prepare, arguments, prog="python -m training_flax.prepare", description=DESCRIPTION)
        try:
            folder = prepare_dataset(options.name, options.data_dir, options.source)
        except KeyboardInterrupt:
            say("", "prepare: interrupted; nothing is left half-written", file=sys.stderr)
            raise
        say(f"{options.name} is prepared in {folder}")

    return run_command("prepare", run)


def prepare_dataset(name: str, data_dir: str | Path | None = None, source: str | Path | None = None) -> Path:
    """Downloads a data set and stores it in the format array_record, whole or not at all.

    The arguments are the options of `Prepare`. Nothing is done if the version is prepared already.

    Returns:
        The folder of the prepared version.

    Raises:
        ValueError: one line: TensorFlow is missing, there is no such data set or version, the host of its files
            cannot be reached, files are missing or wrong, or nothing can be written.
    """
    stem, _, config = split_name(name)[0].partition("/")
    if source is not None and not Path(source).is_dir():
        raise ValueError(f"--from {str(source)!r} is not a folder")
    data = data_folder(data_dir).absolute()
    tfds = _import()
    one_of("data set of TFDS", stem, tfds.list_builders(with_community_datasets=False))
    with _one_line(name):
        configs = tfds.builder_cls(stem).builder_configs
        if config and not configs:
            raise ValueError(f"data set {stem} has no configurations; given {name!r}")
        if config:
            one_of(f"configuration of {stem}", config, configs)
        builder = tfds.builder(name, data_dir=data)
    folder = Path(builder.data_path)
    if folder.exists():
        stored = builder.info.file_format.value
        if stored != "array_record":
            raise ValueError(f"{str(folder)!r} holds it as {stored}; remove that folder, or name another --data-dir")
        return folder
    with _whole_or_nothing(data), _one_line(name):
        download_config = tfds.download.DownloadConfig(manual_dir=source)
        _watch_downloads(builder, Path(source).absolute() if source else None)
        # TFDS prints a paragraph before and after; its progress bars go to stderr and stay.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record", download_config=download_config)
    return folder


def _import() -> Any:
    """Imports TensorFlow Datasets without its messages; its progress bars appear only on a terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # with oneDNN on, TensorFlow prints a line at any log level
    needed = ("tensorflow", "tensorflow_datasets", "absl.logging")
    _, tfds, logging = (library(name, extra="prepare", purpose="preparing a data set") for name in needed)
    logging.set_verbosity(logging.FATAL)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _watch_downloads(builder: Any, source: Path | None) -> None:
    """Makes `builder` give up at once on hosts that cannot be reached, or take files from `source` only.

    TFDS itself tries for 205 seconds. In `source` it finds archives, by name and checksum, but no unpacked files. TFDS
    calls the functions here for files that it neither finds in `source` nor has downloaded already.
    """
    from promise import Promise  # TFDS waits for promises of this library

    make_manager = builder._make_download_manager

    def make_watched_manager(**options: Any) -> Any:
        manager = make_manager(**options)
        download, extract = manager._download, manager._extract

        def download_or_take(resource: Any) -> Any:
            if source is None:
                _check_reachable(resource.url)
                return download(resource)
            return Promise.resolve(_taken(source, resource.url))

        def extract_or_take(resource: Any) -> Any:
            path = Path(getattr(resource, "path", resource))
            unpacked = source is not None and path.is_relative_to(source) and not is_archive(path)
            return Promise.resolve(path) if unpacked else extract(resource)

        manager._download, manager._extract = download_or_take, extract_or_take
        return manager

    builder._make_download_manager = make_watched_manager


def _taken(source: Path, url: str) -> Path:
    """Returns the file in `source` with the name of `url`, or what it holds: `source` itself for a missing archive, and
    the unpacked file for a missing compressed one.
    """
    file = source / Path(urlsplit(url).path).name
    if file.exists():
        return file
    if ARCHIVES & set(file.suffixes):
        return source
    if file.suffix in COMPRESSED:
        stem = file.stem
        # Some tools unpack NAME.gz to NAME, some to a folder of this name; and some write the last dash as a dot.
        for unpacked in (source / stem, source / stem / stem, source / ".idx".join(stem.rsplit("-idx", 1))):
            if unpacked.is_file():
                return unpacked
    raise ValueError(f"{str(source)!r} has no {file.name}, which is published at {url}")


def is_archive(path: Path) -> bool:
    """Tells if a file is packed, by the endings of its name."""
    return path.is_file() and bool((ARCHIVES | COMPRESSED) & set(path.suffixes))


def _check_reachable(url: str) -> None:
    """Raises ValueError unless the host of `url` answers; any answer is enough."""
    if not url.startswith("http"):
        return
    import requests  # TFDS downloads with this library, so proxies and certificates are the same

    answers: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=TIMEOUT))

    # In a thread, because the lookup of a host's name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if not answers:
        raise ValueError(
            f"{urlsplit(url).hostname} cannot be reached; download {url} elsewhere, and name its folder with --from"
        )


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turns all errors of TFDS and of a data set's own code into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        message = one_line(error)
        raise ValueError(message if isinstance(error, ValueError) else f"{name}: {message}") from None


@contextlib.contextmanager
def _whole_or_nothing(data: Path) -> Iterator[None]:
    """Removes new unfinished files under `data` if the block fails; complete downloads stay."""
    before = set(data.rglob("*")) if data.exists() else set()
    existed = [parent for parent in (data, *data.parents) if parent.exists()]
    try:
        yield
    except BaseException:
        for unfinished in {*data.glob("downloads/**/*.tmp.*"), *data.glob("*/.config")} - before:
            shutil.rmtree(unfinished, ignore_errors=True)
        made = sorted(set(data.rglob("*")) - before, reverse=True)
        for path in [*made, *(parent for parent in (data, *data.parents) if parent not in existed)]:
            with contextlib.suppress(OSError):  # the path is no folder, or a folder that is not empty
                path.rmdir()
        raise
