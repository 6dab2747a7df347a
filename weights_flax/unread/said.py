"""Statements of others on the network in a file: in a config.json beside it, and among the entries of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from weights_flax.unread.look_alikes import Said, spoken

OPTIONS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt")  # entries of a checkpoint
NAMES = ("arch", "architecture", "model_name", "model", "backbone", "net")  # of a network among them


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


def said_by_config(config: Mapping[str, Any]) -> list[Said]:
    """Reads a config.json of timm ("architecture") or of transformers ("model_type")."""
    options = spoken({**config, **_dict(config.get("model_args"))})
    architecture = config.get("architecture")
    if isinstance(architecture, str):
        return [Said(architecture, "its config.json", True, options)]
    if isinstance(config.get("model_type"), str):
        return [Said(config["model_type"], "its config.json", False, options)]
    return []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
