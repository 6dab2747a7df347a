"""Files of the Hugging Face hub: their download, and what stands beside them."""

import logging
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from common_flax.errors import one_line
from common_flax.json_input import read_object
from common_flax.optional import library
from weights_flax.formats.safetensors import shards_of
from weights_flax.unread.look_alikes import OF_NAME, Said
from weights_flax.unread.said import said_by_config

# The names of owners and repositories as the hub allows them, and the parts of a file's path.
NAME = r"(?![A-Za-z0-9._-]*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
PART = r"(?!\.{1,2}(?:/|\Z))[\w. +=@,()!&~\[\]-]{1,255}"
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # of a repository, the first there
ADDRESS = re.compile(rf"hf://({NAME})/({NAME})(?:/({PART}(?:/{PART})*))?")

SECONDS = 5  # for the answer to a question; the library's ten would leave none for a second one
MOST_SECONDS = 7  # until a download has begun
MOST_FAILURES = 3  # of questions; the library asks six times, in 24 seconds
MOST_SILENCE = 60  # seconds for which only the cache is asked after a hub was out of reach

_silences: list[float] = []  # when it was


def download(address: str) -> Path:
    """Downloads "hf://OWNER/NAME[/FILE]", or takes it from the hub's own cache; by default the first of `WHOLE`.

    Names consist of letters, digits and a few signs; "..", escapes, queries and other addresses are refused before the
    library sees them.

    Where the hub cannot be reached, the file of the cache is taken, or an error says so within ten seconds.

    Raises:
        ValueError: the address is not of this form, huggingface_hub is not installed, or the download fails.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"an address of the hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE; given {address[:200]!r}")
    owner, name, file = match.groups()
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(SECONDS))
    hub = library("huggingface_hub", extra="hub", purpose=address)
    repository, places = f"{owner}/{name}", [file] if file else WHOLE
    found: dict[str, Any] = {}

    def fetch() -> None:
        for place in places:
            try:
                found["path"] = hub.hf_hub_download(repository, place)
                break
            except Exception as error:  # the library raises its own errors, and those of the network libraries
                found.setdefault("error", error)
                if "EntryNotFound" not in type(error).__name__:
                    break
        for teller in tellers:
            teller.removeFilter(unreached)
        unreached.ended.set()

    unreached = _Unreached()
    # A filter of a logger does not see what those below it tell; one of a handler does.
    tellers = [logging.getLogger("huggingface_hub.utils._http"), *logging.getLogger("huggingface_hub").handlers]
    if not _silences or time.monotonic() - _silences[-1] > MOST_SILENCE:
        for teller in tellers:
            teller.addFilter(unreached)
        # A large file may take an hour; a thread that asks a hub out of reach again and again is left behind.
        threading.Thread(target=fetch, name="hub", daemon=True).start()
        while not unreached.ended.wait(0.2) and (
            unreached.seconds < MOST_SECONDS or _begun(hub, owner, name, unreached)
        ):
            pass
        if not found:
            _silences.append(time.monotonic())
    if "path" in found:
        return Path(found["path"])
    for place in places:
        if "error" not in found and isinstance(kept := hub.try_to_load_from_cache(repository, place), str):
            return Path(kept)
    reason = f"the hub cannot be reached ({unreached.reason}), and the file is not in the cache"
    raise ValueError(f"{address} cannot be had: {one_line(found['error']) if 'error' in found else reason}") from None


def _begun(hub: Any, owner: str, name: str, unreached: "_Unreached") -> bool:
    """Tells if a part of the file is here; a download then takes as long as it takes."""
    folder = Path(hub.constants.HF_HUB_CACHE, f"models--{owner}--{name}")
    start = time.time() - unreached.seconds - 1
    return any(part.stat().st_mtime > start for part in folder.rglob("*.incomplete"))


class _Unreached(logging.Filter):
    """Hides that the library asks the hub again, and ends the waiting where it has failed for long enough.

    Attributes:
        ended: set when nobody needs to wait any more.
        reason: the last failure.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended, self.reason = threading.Event(), "no answer"
        self._failures, self._start = 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the first question."""
        return time.monotonic() - self._start

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets no record of a failed question pass."""
        text = record.getMessage()
        if failed := re.match(r"(.*) thrown while requesting HEAD ", text, re.S):
            self._failures += 1
            self.reason = " ".join(failed[1].split())
            if self._failures >= MOST_FAILURES or self.seconds > SECONDS - 1:
                self.ended.set()
        return failed is None and not text.startswith("Retrying in ")


def with_shards(address: str, path: Path) -> Path:
    """Downloads the parts of an index that was downloaded from an address; returns the index, or any other file."""
    if path.name.endswith(".index.json"):
        owner, name, file = ADDRESS.fullmatch(address).groups()  # type: ignore[union-attr]  # it was downloaded
        folder = (file or "").rpartition("/")[0]
        for part in shards_of(path):
            download("/".join(each for each in (f"hf://{owner}/{name}", folder, part.name) if each))
    return path


def said_beside(path: Path, address: str | None) -> tuple[Said, ...]:
    """Returns what a file's name, its address and the config.json of its repository say of its network.

    Args:
        path: the file or folder of weights.
        address: of the hub; None for files of this machine.
    """
    said = [Said(path.name, OF_NAME)]
    cached = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/", str(path))
    repository = ADDRESS.fullmatch(address) if address else cached
    if repository is not None:
        said.append(Said(f"{repository[1]}/{repository[2]}", "its address"))
    with suppress(ValueError, OSError):  # there is none, or it cannot be read, and so says nothing
        config = read_object(_beside(path, address, "config.json"))
        said += said_by_config(config)
        if "model_type" in config:  # transformers keeps the pre-processing in a file of its own
            _beside(path, address, "preprocessor_config.json")
    return tuple(said)


def _beside(path: Path, address: str | None, name: str) -> Path:
    """Returns the path of a file of the same folder, downloaded if `path` was; raises ValueError if that fails."""
    place = path.parent / name
    repository = ADDRESS.fullmatch(address) if address and not place.is_file() else None
    return download(f"hf://{repository[1]}/{repository[2]}/{name}") if repository else place
