"""Statements of others on the network in a file: in a config.json beside it, and among the entries of a checkpoint."""

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from common_flax.json_input import parse_object
from weights_flax.unread.look_alikes import OF_CONFIG, Said, spoken

NAMES: tuple[str, ...] = ("arch", "architecture", "model", "model_name", "model_type", "name", "type")
NAMES += ("encoder", "encoder_name", "backbone", "net")  # of a network among the entries of a checkpoint
# Entries around others that belong to the network; options elsewhere may be another's, a decoder's or a loss's.
AROUND: tuple[str, ...] = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "options", "meta", "params")
AROUND += ("kwargs", "model_args", "model_kwargs", "model_config", "model_cfg", "pretrained_cfg", *NAMES)
OTHERS = re.compile(r"optim|sched|loss|criterion|data|augment|transform|teacher|decoder|head|logger|callback|loop")
OPTION = re.compile(rf"--?(?:{'|'.join(sorted(NAMES, key=len, reverse=True))})[ =]([\w./-]{{1,100}})", re.I)
OF_NETWORK = re.compile(r"res|dense|vgg|plain", re.I)  # names of losses and layers are no matter
DEEPEST = 6
MOST = 50_000  # entries that are looked at
LONGEST = 20_000  # characters of a text that may be a command line or JSON


def said_in(content: Any, where: str = "an entry of the file") -> tuple[Said, ...]:
    """Returns what a checkpoint says of its network, in the dicts and lists of it that are no tensors.

    These are entries called "arch", "model", "backbone" and the like in any case, options of timm and others beside
    them, and command lines, ["--model", "resnet50"].

    Args:
        content: of a pickle, or the metadata of a file.
        where: for messages.
    """
    said: list[Said] = []
    left, seen = deque([(content, 0, True)]), 0
    while left and seen < MOST:
        part, depth, own = left.popleft()
        if isinstance(part, list | tuple):
            seen += len(part)
            if part and len(part) < 1000 and all(isinstance(each, str) for each in part):
                part = " ".join(part)
            else:
                inside = [(each, depth + 1, own) for each in part if isinstance(each, dict | list | tuple)]
                left += inside if depth < DEEPEST else []
        if isinstance(part, str) and len(part) <= LONGEST:
            said += [Said(name, where) for name in OPTION.findall(part) if OF_NETWORK.search(name)]
            if part.lstrip().startswith("{") and depth < DEEPEST:
                left.append((_json(part), depth + 1, own))
        if not isinstance(part, dict):
            continue
        seen += len(part)
        small = {key.lower(): value for key, value in part.items() if isinstance(key, str)}
        names = [value for key in NAMES if isinstance(value := small.get(key), str) and OF_NETWORK.search(value)]
        if names or (own and spoken(small)):
            options = spoken(small) if own else {}
            said += [Said(name, where, False, options) for name in names or [""]]
        for key, value in small.items():
            if depth < DEEPEST and isinstance(value, dict | list | tuple | str) and not OTHERS.search(key):
                left.append((value, depth + 1, own and key in AROUND))
    return tuple(said)


def said_by_config(config: Mapping[str, Any]) -> list[Said]:
    """Reads a config.json of timm ("architecture") or of transformers ("model_type")."""
    options = spoken({**config, **_dict(config.get("model_args"))})
    architecture = config.get("architecture")
    if isinstance(architecture, str):
        return [Said(architecture, OF_CONFIG, True, options)]
    if isinstance(config.get("model_type"), str):
        return [Said(config["model_type"], OF_CONFIG, False, options)]
    return []


def _json(text: str) -> dict[str, Any]:
    try:
        return parse_object(text.encode(errors="replace"))
    except ValueError:
        return {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
