"""The choice of the network in a file: by what fits, never by the order in which a file lists its parts."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from layers_flax import Network
from weights_flax.formats.tensors import Tensor
from weights_flax.io.archs import build_model, describe
from weights_flax.io.inspect import (
    Fit,
    built,
    called,
    fitting,
    image_channels,
    inside,
    is_inside,
    nearest,
    shapes_of,
    torch_shapes,
    without_head,
)
from weights_flax.names.candidates import Candidate, candidates
from weights_flax.names.recognise import Naming
from weights_flax.unread.look_alikes import Said, refusal, strides_first
from weights_flax.unread.networks import NO_STATISTICS, missing_layer

SHOWN = 4  # names in a line
HEAD = re.compile(
    r"(?:^|[./])(?:fc|fcs?\d*|classifier|cls\w*|heads?|linear|last_linear|logits|predictions|probs|output|dense\w*|"
    r"proj\w*|predictor|prototypes|mlp)(?:[./]|$)"
)
DIRECT = re.compile(r"(?:[a-z_]+[./])?(?:fc|classifier|head|linear|last_linear|logits|output|cls|dense|predictions)")


class Chosen(NamedTuple):
    """The network of a file.

    Attributes:
        prefix: stands before its names in the file.
        naming: the origin of its names.
        tensors: under torchvision's names, in its layouts.
        beside: other tensors of the same dict.
        which: "averaged" if its prefix says so; else None.
        files: number of its tensors in the file.
        notes: a line on each choice that was made.
    """

    prefix: str
    naming: Naming
    tensors: dict[str, Tensor]
    beside: dict[str, Tensor]
    which: str | None
    files: int
    notes: tuple[str, ...] = ()


def choose(
    tensors: Mapping[str, Tensor], where: str, which: str | None = None, *, model: Any = None, said: Iterable[Said] = ()
) -> Chosen:
    """Chooses the network in a file: the one that fits an architecture, or `model`; of several, one that is no average.

    Args:
        tensors: all of the file's, by its own names.
        where: the file, for messages.
        which: "averaged" or "last"; None takes an average only if nothing else fits as well.
        model: the network that the weights are for; None is any.
        said: what others say of the network.

    Raises:
        ValueError: the names are of no known source, or there are no weights of the kind that is asked for.
    """
    found = candidates(tensors)
    kind = None if which is None else which == "averaged"
    pool = [each for each in found if kind in (None, each.averaged)]
    if not pool:
        has = "the averaged weights" if kind is False else "weights that are not said to be averaged or last"
        raise Refused(f"weights {where!r} are {has}; asked for: {which}")
    known: dict[Any, float] = {}  # networks of the same names and shapes are compared once
    rank = {id(each): _rank_once(each, model, known) if len(pool) > 1 else 0 for each in pool}
    taken = max(pool, key=lambda each: (rank[id(each)], not each.averaged, each.files, -len(each.prefix)))
    naming = taken.naming
    if "layer1.0.conv3.weight" in taken.tensors and any(map(strides_first, said)):
        naming = naming._replace(
            title=f"{naming.title} names, with strides of 2015", options={"bottleneck_stride": "v1", **naming.options}
        )
    notes = []
    others = [each for each in found if each is not taken and _is_network(each)]
    if others:
        listed = ", ".join(repr(each.prefix) for each in others[:SHOWN])
        average = next((each for each in others if each.averaged and not taken.averaged), None)
        hint = "; ema=True (--ema) takes the averaged weights" if average else ""
        hint = hint or ("; ema=False takes the others" if taken.averaged and which is None else "")
        notes.append(f"weights {where!r}: took the network under {taken.prefix!r}, not {listed}{hint}")
    which = "averaged" if taken.averaged else None
    return Chosen(taken.prefix, naming, taken.tensors, taken.beside, which, taken.files, tuple(notes))


class Refused(ValueError):
    """An error that names its file already."""


def _is_network(candidate: Candidate) -> bool:
    return sum(len(value.shape) == 4 for value in candidate.tensors.values()) > 2


def _rank_once(candidate: Candidate, model: Any, known: dict[Any, float]) -> float:
    same = candidate.naming.title, frozenset(shapes_of(candidate.tensors).items())
    if same not in known:
        known[same] = _rank(candidate, model)
    return known[same]


def _rank(candidate: Candidate, model: Any) -> float:
    """Ranks a network among others of a file: 3 for one that fits, 2 for one that fits but for its classifier."""
    if model is not None:
        shapes = inside(model, shapes_of(candidate.tensors)) or shapes_of(candidate.tensors)
        if model.torch_options(shapes) is None:
            return 0
        wanted = torch_shapes(model, image_channels(model, shapes))
        return 1 + sum(wanted.get(name) == shape for name, shape in shapes.items())
    for but_for_head in (False, True):
        if fits(candidate.naming, candidate.tensors, but_for_head=but_for_head):
            return 2 if but_for_head else 3
    return 0


def fits(naming: Naming, tensors: Mapping[str, Tensor], *, but_for_head: bool = False) -> list[Fit | Network]:
    """Returns the architectures that a network in a file fits or, if there are none, the network of known blocks.

    Tensors outside of the network's own modules do not count.

    Args:
        naming: the origin of the names.
        tensors: under torchvision's names.
        but_for_head: the classifier does not count either.
    """
    found: list[Fit | Network] = list(fitting(naming, tensors, inner=True, but_for_head=but_for_head))
    if not found and (model := built(naming, tensors, but_for_head=but_for_head)) is not None:
        found.append(model)
    return found


def left_over(model: Network, chosen: Chosen) -> dict[str, Tensor]:
    """Returns what a file has beside the tensors of a network's own modules."""
    return {name: value for name, value in chosen.tensors.items() if not is_inside(model, name)} | chosen.beside


def with_head(model: Network, chosen: Chosen) -> tuple[Chosen, str | None]:
    """Puts a classifier of another name in its place, if it is one dense layer under a usual name.

    A classifier with a number, such as "fc.1", is a part of a sequence whose other layers may have no parameters, and
    stays where it is.

    Returns:
        The network, and the classifier's name in the file; None if nothing was moved.
    """
    head, own = model.torch_head, dict(chosen.tensors)
    if f"{head}.weight" in own:
        return chosen, None
    wanted = torch_shapes(model, image_channels(model, shapes_of(own)))[f"{head}.weight"]
    extra = left_over(model, chosen)
    for name, weight in extra.items():
        module, _, leaf = name.rpartition(".")
        bias = extra.get(f"{module}.bias")
        if leaf != "weight" or bias is None or not DIRECT.fullmatch(module):
            continue
        if len(weight.shape) == 2 and weight.shape[1] == wanted[1] and bias.shape == weight.shape[:1]:
            moved = {f"{head}.weight": weight, f"{head}.bias": bias}
            gone = {name, f"{module}.bias"}
            own = {each: value for each, value in own.items() if each not in gone} | moved
            beside = {each: value for each, value in chosen.beside.items() if each not in gone}
            return chosen._replace(tensors=own, beside=beside), module
    return chosen, None


def without_heads(model: Network, chosen: Chosen) -> Chosen:
    """Removes a file's classifier, whatever its name: modules beside the network with dense kernels or such names."""
    extra = left_over(model, chosen)
    modules: dict[str, list[str]] = {}
    for name in extra:
        modules.setdefault(re.split(r"[./]", name)[0], []).append(name)
    dense = {
        module
        for module, names in modules.items()
        if any(len(extra[name].shape) == 2 and re.search(r"[./](weight|kernel)", name) for name in names)
        and all(len(extra[name].shape) <= 2 for name in names)
    }

    def is_head(name: str) -> bool:
        if name in extra:
            return HEAD.search(name) is not None or re.split(r"[./]", name)[0] in dense
        return name.startswith(f"{model.torch_head}.")

    own = {name: value for name, value in chosen.tensors.items() if not is_head(name)}
    return chosen._replace(tensors=own, beside={n: value for n, value in chosen.beside.items() if not is_head(n)})


def check_said(where: str, said: Iterable[Said]) -> None:
    """Raises ValueError if a file is said to be a network with the names and shapes of ours, and another result."""
    for each in said:
        if differs := refusal(each):
            what = f"{each.where} says {each.name[:100]!r}" if each.name else f"{each.where} says so"
            raise Refused(
                f"weights {where!r} are not those of a network that is built here, though names and shapes may be: "
                f"{what}: {differs}"
            )


def some(names: Iterable[str]) -> str:
    """Lists the first of some names."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(name[:100] for name in names[:SHOWN]) + more


def says_no_fit(where: str, chosen: Chosen) -> str:
    """Tells what a file without a fitting architecture is nearest to, and what is missing."""
    if near := fits(chosen.naming, chosen.tensors, but_for_head=True):
        names = [each[0] if isinstance(each, tuple) else called(each) for each in near]
        like = build_model(near[0][0], **near[0][1]) if isinstance(near[0], tuple) else near[0]
        own = without_head(like, torch_shapes(like))
        every = {name: value for name, value in {**chosen.tensors, **chosen.beside}.items() if name not in own}
        head = some(name for name, value in every.items() if HEAD.search(name) or len(value.shape) == 2)
        bare = f"{like.torch_head}.weight" in every and f"{like.torch_head}.bias" not in every
        has = f"whose name is another: {head}" if head else "which the file lacks"
        has = f"whose bias {like.torch_head}.bias is missing" if bare else has
        return (
            f"weights {where!r} fit {' or '.join(names[:2])} but for the classifier, {has}; "
            "new_head=True (train.py --new-head) draws one"
        )
    shapes = shapes_of(chosen.tensors)
    found = nearest(chosen.naming, chosen.tensors)
    if found is None:
        return f"weights {where!r} fit no architecture that is built here, and none is near"
    model, first, lacks = found
    norms = [name for name in shapes if re.search(r"bn|norm", name)]
    if norms and not any(name.endswith("running_mean") for name in norms):
        what: str | None = NO_STATISTICS
    else:
        what = next(filter(None, map(missing_layer, [first.partition(" ")[0], *lacks])), None)
    said = f": {what}, which no network here has" if what else ""
    near_to = describe(model)[0] or called(model)
    return f"weights {where!r} fit no architecture; the nearest is {near_to}, and the first difference is {first}{said}"
