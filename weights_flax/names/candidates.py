"""The networks in a file: which of its names belong to one, behind which prefix, and which are left over.

Names of a network begin behind a prefix: keys of dicts in each other ("state_dict/"), modules around it ("module.",
"encoder_q."), or nothing. A prefix is found by the network's first layer; what else stands beside it is left over.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from weights_flax.formats.tensors import Tensor
from weights_flax.names.keras import with_lone_head
from weights_flax.names.recognise import NAMINGS, Naming, common_prefix, recognise, start_of, unwrapped

Tensors = Mapping[str, Tensor]
AVERAGED = re.compile(
    r"(?:^|[./_])(?:\w*ema|ema\w*|\w*averaged?|averaged?\w*|swa\w*|shadow\w*|teacher\w*|target\w*|momentum\w*|encoder_k)"
    r"(?:$|[./_])"
)
COUNTERS = re.compile(r"(?:^|[./])(?:num_batches_tracked|n_averaged|num_updates|step|steps|epoch|initted)(?::0)?$")
MOST_PREFIXES = 256


class Candidate(NamedTuple):
    """A network in a file.

    Attributes:
        prefix: stands before its names in the file.
        naming: the origin of its names.
        tensors: under torchvision's names, in its layouts.
        beside: the other tensors of the same dict, by their names there, without counters of frameworks.
        averaged: its prefix says that it is an average of another: "ema", "teacher", and others.
        files: number of tensors, as the file has them.
    """

    prefix: str
    naming: Naming
    tensors: dict[str, Tensor]
    beside: dict[str, Tensor]
    averaged: bool
    files: int


def candidates(tensors: Tensors) -> list[Candidate]:
    """Returns the networks in a file.

    Args:
        tensors: all of the file's, by its own names; keys of nested dicts are joined by "/".

    Raises:
        ValueError: no names of a known source are found.
    """
    plain = {name: unwrapped(name) for name in tensors}
    if len(set(plain.values())) < len(plain):  # two names would become one
        plain = {name: name for name in tensors}
    by_name = {short: tensors[name] for name, short in plain.items()}
    index = _Index(by_name)
    found: dict[str, tuple[Naming, dict[str, str]]] = {}
    for naming in NAMINGS:
        for prefix in _prefixes(by_name, naming):
            names = _behind(prefix, index)
            if prefix not in found and naming.fits(names):
                found[prefix] = naming, with_lone_head(names, by_name) if naming.by_keras else names
    if not found:
        prefix = common_prefix(by_name)
        inside = {name.removeprefix(prefix): value for name, value in by_name.items() if name.startswith(prefix)}
        naming, translated = recognise(inside)
        return [Candidate(prefix, naming, translated, {}, _says_averaged(tensors), len(inside))]
    # A name belongs to the network with the longest prefix.
    owner: dict[str, str] = {}
    for prefix in sorted(found, key=len):
        owner |= dict.fromkeys(found[prefix][1].values(), prefix)
    flat = {prefix: _flattened(prefix, names.values(), by_name) for prefix, (_, names) in found.items()}
    taken = owner.keys() | {name for names in flat.values() for name in names.values()}
    spare = [name for name in by_name if name not in taken and not _counts(name, by_name[name])]
    made, in_folder = [], defaultdict(list)
    for name in spare:
        in_folder[name.rpartition("/")[0]].append(name)
    for prefix, (naming, names) in found.items():
        own = {short: by_name[name] for short, name in names.items() if owner[name] == prefix}
        own = {short: value for short, value in own.items() if "." in short or not _counts(short, value)}
        # Where slashes stand between modules too, everything in the file may be beside the network.
        folder = "" if "/" in naming.start else prefix.rpartition("/")[0]
        beside = {
            name.removeprefix(f"{folder}/" if folder else ""): by_name[name]
            for name in (spare if "/" in naming.start else in_folder.get(folder, ()))
        }
        averaged = bool(AVERAGED.search(prefix)) or f"{folder}/n_averaged".removeprefix("/") in by_name
        made.append(Candidate(prefix, naming, naming.convert(own), beside, averaged, len(own)))
        if flat[prefix]:
            second = {short: by_name[name] for short, name in flat[prefix].items()}
            # An average of parameters alone goes with the statistics of the network itself.
            whole = naming.convert({**own, **second})
            made.append(Candidate(f"{prefix}(ema_…)", naming, whole, beside, True, len(whole)))
    return made


def _prefixes(names: Iterable[str], naming: Naming) -> list[str]:
    """Returns the prefixes before the names of a network's first layer, the outermost first, then in natural order."""
    start, found = start_of(naming), set()
    for name in names:
        if match := start.search(name):
            inside = match.groupdict().get("inside")
            found.add(name[: match.end("inside") if inside else match.start("first")])
    return sorted(found, key=_place)[:MOST_PREFIXES]


def _place(prefix: str) -> tuple[int, list[tuple[int, str]], str]:
    """The key of an order that is the same in every process: of depth, then of words, with 2 before 10."""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", prefix)]
    return len(re.findall(r"[./]", prefix)), parts, prefix


class _Index:
    """Names of which those behind a prefix are found without a look at the others."""

    def __init__(self, names: Iterable[str]):
        self._place = {name: place for place, name in enumerate(names)}
        self._sorted = sorted(self._place)

    def behind(self, prefix: str) -> list[str]:
        """Returns the names that begin with a prefix, in the order of the file."""
        start = bisect_left(self._sorted, prefix)
        end = bisect_left(self._sorted, True, start, key=lambda name: name[: len(prefix)] > prefix)
        return sorted(self._sorted[start:end], key=self._place.__getitem__)


def _behind(prefix: str, names: _Index) -> dict[str, str]:
    """Returns the names behind a prefix, each with the whole name.

    In trees of Flax a module around the network stands behind the collection: "params/backbone/" also is the prefix of
    "batch_stats/backbone/".
    """
    if match := re.fullmatch(r"((?:.*/)?)params/(.+/)", prefix):
        whole = {f"{match[1]}{kind}/{match[2]}": f"{kind}/" for kind in ("params", "batch_stats")}
        return {
            f"{kind}{name.removeprefix(start)}": name for start, kind in whole.items() for name in names.behind(start)
        }
    return {name.removeprefix(prefix): name for name in names.behind(prefix)}


def _flattened(prefix: str, names: Iterable[str], by_name: Tensors) -> dict[str, str]:
    """Returns OpenMMLab's averages beside a network, "ema_layer1_0_conv1_weight", by the network's names."""
    folder = prefix.rpartition("/")[0]
    start = f"{folder}/" if folder else ""
    found = {}
    for name in names:
        average = f"{start}ema_{name.removeprefix(start).replace('.', '_')}"
        if average in by_name:
            found[name.removeprefix(prefix)] = average
    return found


def _counts(name: str, value: Tensor) -> bool:
    """Tells if a tensor only counts steps or batches."""
    return COUNTERS.search(name) is not None and len(value.shape) <= 1


def _says_averaged(tensors: Tensors) -> bool:
    return any(name.rpartition("/")[2] == "n_averaged" for name in tensors)
