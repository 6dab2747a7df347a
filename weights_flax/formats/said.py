"""What a file's name, its address, its repository and its entries say of the network in it."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from common_flax.json_input import read_object
from weights_flax.formats.hub import ADDRESS, download
from weights_flax.unread.look_alikes import Said, spoken

OPTIONS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt")  # entries of a checkpoint
NAMES = ("arch", "architecture", "model_name", "model", "backbone", "net")  # of a network among them


def said_beside(path: Path, address: str | None) -> tuple[Said, ...]:
    """Returns what a file's name, its address and the config.json of its repository say of its network.

    Args:
        path: the file or folder of weights.
        address: of the hub; None for files of this machine.
    """
    said = [Said(path.name, "its name")]
    cached = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/", str(path))
    repository = ADDRESS.fullmatch(address) if address else cached
    if repository is not None:
        said.append(Said(f"{repository[1]}/{repository[2]}", "its address"))
    with suppress(ValueError, OSError):  # there is none, or it cannot be read, and so says nothing
        config = read_object(_beside(path, address, "config.json"))
        said += _said_by_config(config)
        if "model_type" in config:  # transformers keeps the pre-processing in a file of its own
            _beside(path, address, "preprocessor_config.json")
    return tuple(said)


def _beside(path: Path, address: str | None, name: str) -> Path:
    """Returns the path of another file of the same folder, downloaded if `path` was; raises ValueError if that fails."""
    place = path.parent / name
    repository = ADDRESS.fullmatch(address) if address and not place.is_file() else None
    return download(f"hf://{repository[1]}/{repository[2]}/{name}") if repository else place


def _said_by_config(config: Mapping[str, Any]) -> list[Said]:
    """Reads a config.json of timm ("architecture") or of transformers ("model_type")."""
    options = spoken({**config, **_dict(config.get("model_args"))})
    architecture = config.get("architecture")
    if isinstance(architecture, str):
        return [Said(architecture, "its config.json", True, options)]
    if isinstance(config.get("model_type"), str):
        return [Said(config["model_type"], "its config.json", False, options)]
    return []


def said_in(content: Any) -> tuple[Said, ...]:
    """Returns what a checkpoint of PyTorch says of its network: "arch" and others, at its top or among its options."""
    if not isinstance(content, dict):
        return ()
    said = []
    for part in (content, *(_dict(content.get(name)) for name in OPTIONS)):
        options = spoken({**part, **_dict(part.get("model_kwargs"))})
        name = next((part[key] for key in NAMES if isinstance(part.get(key), str)), "")
        if name or options:
            said.append(Said(name, "an entry of the file", False, options))
    return tuple(said)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
