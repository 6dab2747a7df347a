"""Download of files of the Hugging Face hub."""

import re
from pathlib import Path

from common_flax.errors import one_line
from common_flax.optional import library

# The names of owners and repositories as the hub allows them, and the parts of a file's path.
NAME = r"(?![A-Za-z0-9._-]*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
PART = r"(?!\.{1,2}(?:/|\Z))[\w. +=@,()!&~\[\]-]{1,255}"
ADDRESS = re.compile(rf"hf://({NAME})/({NAME})(?:/({PART}(?:/{PART})*))?")


def download(address: str) -> Path:
    """Downloads "hf://OWNER/NAME[/FILE]", or takes it from the hub's own cache; FILE is model.safetensors by default.

    Names consist of letters, digits and a few signs; "..", escapes, queries and other addresses are refused before the
    library sees them.

    Raises:
        ValueError: the address is not of this form, huggingface_hub is not installed, or the download fails.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"an address of the hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE; given {address[:200]!r}")
    owner, name, file = match.groups()
    hub = library("huggingface_hub", extra="hub", purpose=address)
    try:
        return Path(hub.hf_hub_download(f"{owner}/{name}", file or "model.safetensors"))
    except Exception as error:  # the library raises its own errors, and those of the network libraries
        raise ValueError(f"{address} cannot be had: {one_line(error)}") from None
