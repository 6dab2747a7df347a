"""Folders and archives of others that are no file of weights themselves: what they are, and what to do with them."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

ENDINGS = (".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin", ".h5", ".keras", ".msgpack", ".npz", ".th")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
MOST_ENTRIES = 10_000  # of a folder that are looked at
# Each with the pattern of a name in the folder, and what the folder is; the first that fits is told.
FOLDERS: tuple[tuple[str, str], ...] = (
    (
        r"saved_model\.pbtxt$|saved_model\.pb$",
        "it is a SavedModel of TensorFlow, which is not read: load it there by tf.keras.models.load_model, and write "
        "the network by model.save_weights('x.weights.h5') or its arrays by numpy.savez",
    ),
    (
        r"\.metadata$|.*\.distcp$",
        "it is a distributed checkpoint of PyTorch (DCP, FSDP), which is not read: `python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER whole.pth` makes one file of it",
    ),
    (
        r"zero_to_fp32\.py$|global_step\d+$|.*zero_pp_rank_\d+_.*",
        "it is a checkpoint of DeepSpeed, which is not read: `python zero_to_fp32.py . whole` in it makes weights, or "
        "take its file mp_rank_00_model_states.pt if it was written without ZeRO",
    ),
    (
        r".*\.data-\d{5}-of-\d{5}$|.*\.ckpt(-\d+)?\.index$",
        "it is a folder of checkpoints of TensorFlow, which are not read: load one there, and write its arrays by "
        "numpy.savez",
    ),
    (r"data\.pkl$", "it is an unpacked file of PyTorch: take the file itself, or load it there and save it again"),
)


def unread_folder(folder: Path) -> str:
    """Tells what a folder without weights that are found by themselves is, for the end of an error message."""
    names = sorted(path.name for path in islice(folder.iterdir(), MOST_ENTRIES))
    for pattern, said in FOLDERS:
        if any(re.match(pattern, name) for name in names):
            return said
    if shard := next(filter(None, map(shard_of, names)), None):
        return shard
    files = [name for name in names if name.endswith(ENDINGS)]
    if files:
        return f"name one of its files: {_some(files)}"
    return "the folder has no weights: it is no run, and no checkpoint of Orbax"


def shard_of(name: str) -> str | None:
    """Tells of a file's name that it is one of several parts, and where the whole is; None if it is none."""
    match = SHARD.fullmatch(name)
    if match is None or int(match[3]) < 2:
        return None
    index = f"{match[1]}{match[4]}.index.json"
    return (
        f"{name!r} is part {int(match[2])} of {int(match[3])} of a network: give the index of all, {index}, beside them"
    )


def unread_archive(names: Iterable[str]) -> str:
    """Tells what a zip archive is that no reader here takes, by the names in it."""
    names = list(names)
    inside = [name for name in names if name.endswith((*ENDINGS, ".index.json"))] or names
    return f"it is a zip archive of {_some(inside)}: unpack it" if names else "it is an empty zip archive"


def _some(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
