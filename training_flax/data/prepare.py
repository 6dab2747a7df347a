"""Downloads a data set with TensorFlow Datasets and stores it so that training reads it without TensorFlow.

python -m training_flax.prepare cifar10 --data-dir DIR
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from common_flax.checks import one_of
from common_flax.errors import one_line
from common_flax.optional import library
from training_flax.data.tfds import data_folder, split_name

TIMEOUT = 5  # seconds to wait for a host's first answer


class Parser(argparse.ArgumentParser):
    """One that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"prepare: error: {message}\n")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; gives the exit code: 2 for wrong input, 130 when interrupted."""
    parser = Parser(prog="python -m training_flax.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="a data set of TFDS: NAME, NAME/CONFIG or NAME:VERSION, such as cifar10")
    parser.add_argument("--data-dir", type=Path, help="where to; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given")
    parser.add_argument(
        "--from", dest="source", type=Path, help="a folder with the files as published, archived or unpacked"
    )
    options = parser.parse_args(arguments)
    try:
        folder = prepare_dataset(options.name, options.data_dir, options.source)
    except ValueError as error:
        print(f"prepare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nprepare: interrupted; nothing is left half-written", file=sys.stderr)
        return 130
    print(f"{options.name} is prepared in {folder}")
    return 0


def prepare_dataset(name: str, data_dir: str | Path | None = None, source: str | Path | None = None) -> Path:
    """Downloads a data set and stores it in the format array_record, whole or not at all.

    Args:
        name: a data set of TFDS, "NAME", "NAME/CONFIG" or "NAME:VERSION".
        data_dir: see `training_flax.data.tfds.data_folder`.
        source: a folder with the files as they are published, so that nothing is downloaded: archives under their own
            names, or what is in them, unpacked.

    Returns:
        The folder of the prepared version. If it is there already, nothing is done.

    Raises:
        ValueError: one line: TensorFlow is missing, there is no such data set or version, the host of its files
            cannot be reached, files are missing or not what they should be, or nothing can be written.
    """
    split_name(name)
    if source is not None and not Path(source).is_dir():
        raise ValueError(f"--from {str(source)!r} is not a folder")
    data = data_folder(data_dir).absolute()
    tfds = _import()
    stem, _, config = split_name(name)[0].partition("/")
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
        # TFDS prints a paragraph before and after; its bars go to stderr.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record", download_config=download_config)
    return folder


def _import() -> Any:
    """TensorFlow Datasets, with no more to say than its progress bars, and those on terminals alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # where it is on, TensorFlow says so at any level
    needed = ("tensorflow", "tensorflow_datasets", "absl.logging")
    _, tfds, logging = (library(name, extra="prepare", purpose="preparing a data set") for name in needed)
    logging.set_verbosity(logging.FATAL)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _watch_downloads(builder: Any, source: Path | None) -> None:
    """Has `builder` give up at once on hosts that cannot be reached, or download nothing but take `source`.

    TFDS itself tries for 205 seconds, and knows archives of a source, by their names and checksums, but no unpacked
    files. It comes here for what is neither in the source nor downloaded already.
    """
    from promise import Promise  # which TFDS waits with

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
            unpacked = Path(getattr(resource, "path", resource)) == source
            return Promise.resolve(source) if unpacked else extract(resource)

        manager._download, manager._extract = download_or_take, extract_or_take
        return manager

    builder._make_download_manager = make_watched_manager


def _taken(source: Path, url: str) -> Path:
    """What stands for the file at `url`: one of its name, or, for an archive of many files, the source itself."""
    file = source / Path(urlsplit(url).path).name
    if file.exists():
        return file
    if not {".tar", ".tgz", ".zip"} & set(file.suffixes):
        raise ValueError(f"{str(source)!r} has no {file.name}, which is published at {url}")
    return source


def _check_reachable(url: str) -> None:
    """Raises ValueError unless the host of `url` answers, whatever it says."""
    if not url.startswith("http"):
        return
    import requests  # what TFDS downloads with, and so by the same proxies and certificates

    answers: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=TIMEOUT))

    # A thread, because looking up a name has no limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT)
    if not answers:
        raise ValueError(
            f"{urlsplit(url).hostname} cannot be reached; download {url} elsewhere, and name its folder with --from"
        )


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever TFDS and a data set's own code fail with becomes one line."""
    try:
        yield
    except Exception as error:
        message = one_line(error)
        raise ValueError(message if isinstance(error, ValueError) else f"{name}: {message}") from None


@contextlib.contextmanager
def _whole_or_nothing(data: Path) -> Iterator[None]:
    """When the inside fails, removes what it has begun under `data`, but not what it has downloaded whole."""
    before = set(data.rglob("*")) if data.exists() else set()
    existed = [parent for parent in (data, *data.parents) if parent.exists()]
    try:
        yield
    except BaseException:
        for unfinished in {*data.glob("downloads/**/*.tmp.*"), *data.glob("*/.config")} - before:
            shutil.rmtree(unfinished, ignore_errors=True)
        made = sorted(set(data.rglob("*")) - before, reverse=True)
        for path in [*made, *(parent for parent in (data, *data.parents) if parent not in existed)]:
            with contextlib.suppress(OSError):  # it is not a folder, or not empty
                path.rmdir()
        raise
