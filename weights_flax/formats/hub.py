"""Download of files of the Hugging Face hub."""

from pathlib import Path

from common_flax.errors import one_line
from common_flax.optional import library


def download(address: str) -> Path:
    """Downloads "hf://OWNER/NAME[/FILE]", or takes it from the hub's own cache; FILE is model.safetensors by default.

    Raises:
        ValueError: the address is not of this form, huggingface_hub is not installed, or the download fails.
    """
    owner, _, rest = address.removeprefix("hf://").partition("/")
    name, _, file = rest.partition("/")
    if not address.startswith("hf://") or not owner or not name:
        raise ValueError(f"an address of the hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE; given {address!r}")
    hub = library("huggingface_hub", extra="hub", purpose=address)
    try:
        return Path(hub.hf_hub_download(f"{owner}/{name}", file or "model.safetensors"))
    except Exception as error:  # the library raises its own errors, and those of the network libraries
        raise ValueError(f"{address} cannot be had: {one_line(error)}") from None
