"""Downloads of files over https: a file comes whole and with the hash that was published, or not at all."""

import hashlib
import http.client
import logging
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

from common_flax import __version__
from common_flax.errors import one_line
from common_flax.files import UNFINISHED, make_folder, whole_file

SECONDS = 8  # until the server has answered, redirects included; with all else an error comes within ten
SILENCE = 30  # seconds without a byte, after which a download is given up
BLOCK = 2**20  # bytes
MOST = 2**34  # bytes of a file; the largest that is published has 3.3 GB
ABANDONED = 24 * 3600  # seconds, after which no process still writes to an unfinished file
DIGITS = 8  # of a hash that a file's name has, as torch.hub reads them
OF_FILE = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')  # a header's SHA-256 of a file that the hub stores apart
LOG = logging.getLogger("weights_flax")


class NotFetched(ValueError):
    """An error of the network or of the server: somebody else, or a later try, may get the file."""


def download(address: str, path: Path, sha256: str | None = None) -> Path:
    """Downloads a file into a folder, which is made if it is missing.

    The file appears when it is complete and its hash is right; after an error nothing stays behind. Several processes
    may download the same file at once. Redirects are followed to https alone. A line is logged, and a bar on a terminal
    shows the progress.

    Args:
        address: of the file; it begins with https.
        path: the new file. Without `sha256` the first digits of its hash go into the name, before the ending.
        sha256: the first digits of the file's SHA-256, in hexadecimal. None takes all that the server tells before it
            sends the file, as the Hugging Face hub does, and refuses a server that tells none.

    Returns:
        The path of the file.

    Raises:
        NotFetched: the server cannot be reached within `SECONDS`, answers with an error, breaks off, or sends another
            file. The message is one line.
        ValueError: the folder cannot be written to, or its disk is full.
    """
    host = urlsplit(address).netloc
    answer, told = _ask(address, host)
    with answer:
        expected = sha256 or _told_hash(told, answer.headers)
        if expected is None:
            raise NotFetched(f"{host} does not tell the hash of {address}")
        if sha256 is None:
            path = with_hash(path, expected)
        try:
            make_folder(path.parent)
            _remove_abandoned(path.parent)
            length = _length(answer)
            _check_space(path.parent, length or 0)
            size = f" {length / 1e6:,.1f} MB" if length else ""
            LOG.warning("%s", f"downloads {path.name}:{size} from {host}, kept in {str(path.parent)!r}")
            with whole_file(path) as unfinished, unfinished.open("wb") as file:
                _check_hash(_copy(answer, file, host, length, path.name), expected, host)
        except OSError as error:  # those of the network are another kind
            raise ValueError(f"{str(path)!r} cannot be written: {error.strerror or one_line(error)}") from None
    return path


def with_hash(path: Path, sha256: str) -> Path:
    """Returns a path with the first digits of a hash before its ending."""
    return path.with_name(f"{path.stem}-{sha256[:DIGITS]}{path.suffix}")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and keeps the hash that the first server tells of the file."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Makes the next request; raises NotFetched for an address that is not of https."""
        if urlsplit(newurl).scheme != "https":
            fp.close()
            raise NotFetched(f"{req.host} redirects to {newurl[:200]!r}, which is not https")
        self.told = {**{name.lower(): value for name, value in headers.items()}, **self.told}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _ask(address: str, host: str) -> tuple[http.client.HTTPResponse, Mapping[str, str]]:
    """Returns a server's answer, and what those before it told that redirected to it."""
    if urlsplit(address).scheme != "https":
        raise NotFetched(f"addresses begin with https://; given {address[:200]!r}")
    handler, ended, late = _OnlyHttps(), threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    def ask() -> None:
        headers = {"User-Agent": f"resnet-densenet-flax/{__version__}", "Accept-Encoding": "identity"}
        opener = urllib.request.build_opener(handler)
        try:
            found["answer"] = opener.open(urllib.request.Request(address, headers=headers), timeout=SILENCE)
            if late.is_set():
                found["answer"].close()
        except Exception as error:
            found["error"] = error
        ended.set()

    # The search for a host's address has no time limit of its own; a thread that still waits for it is left behind.
    threading.Thread(target=ask, name="download", daemon=True).start()
    if not ended.wait(SECONDS):
        late.set()
        raise NotFetched(f"{host} cannot be reached: no answer in {SECONDS} seconds")
    if "error" in found:
        raise _explained(found["error"], host) from None
    return found["answer"], handler.told


def _explained(error: Exception, host: str) -> Exception:
    """Turns an error of the network into one line; other errors stay as they are."""
    if isinstance(error, HTTPError):
        error.close()
        return NotFetched(f"{host} answers {error.code} {one_line(Exception(error.reason))}")
    if isinstance(error, URLError):
        reason = error.reason
        said = one_line(reason) if isinstance(reason, Exception) else str(reason)
        return NotFetched(f"{host} cannot be reached: {said}")
    if isinstance(error, OSError | http.client.HTTPException):
        return NotFetched(f"{host} cannot be reached: {one_line(error)}")
    return error


def _told_hash(*headers: Any) -> str | None:
    """Returns the SHA-256 that headers tell of a file."""
    for each in headers:
        for name in ("x-linked-etag", "etag"):
            if match := OF_FILE.fullmatch(each.get(name, "")):
                return match[1]
    return None


def _length(answer: http.client.HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _check_space(folder: Path, size: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < size:  # virtual file systems have a total of 0
        wanted, free = (f"{each / 1e6:,.1f} MB" for each in (size, disk.free))
        raise ValueError(f"the file has {wanted}; the disk of {str(folder)!r} has {free} free")


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, host: str, length: int | None, title: str) -> str:
    """Writes what a server sends, and returns its SHA-256."""
    sha256, come = hashlib.sha256(), 0
    with tqdm(total=length, desc=title, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for block in _blocks(answer, host):
            file.write(block)
            sha256.update(block)
            come += len(block)
            bar.update(len(block))
            if come > MOST:
                raise NotFetched(f"{host} sends more than {MOST:,} bytes")
    if length is not None and come != length:
        raise NotFetched(f"{host} broke off after {come:,} of {length:,} bytes")
    return sha256.hexdigest()


def _blocks(answer: http.client.HTTPResponse, host: str) -> Iterator[bytes]:
    """Yields what a server sends; what fails there becomes one line, what fails in the caller does not pass here."""
    while True:
        try:
            block = answer.read1(BLOCK)
        except TimeoutError:
            raise NotFetched(f"{host} has sent nothing for {SILENCE} seconds") from None
        except (OSError, http.client.HTTPException) as error:
            raise NotFetched(f"{host} broke off: {one_line(error)}") from None
        if not block:
            return
        yield block


def _check_hash(found: str, expected: str, host: str) -> None:
    if not found.startswith(expected):
        shown = f"{found[:DIGITS]}…, published is {expected[:DIGITS]}…"
        raise NotFetched(f"{host} sent another file: its SHA-256 begins with {shown}; it was not kept")


def _remove_abandoned(folder: Path) -> None:
    """Removes unfinished files of processes that were killed long ago."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError):  # another process was faster, or only others may
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
