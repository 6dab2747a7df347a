"""The network that a file of weights stands for: which part of it, built how, and what else it may be."""

from collections.abc import Mapping
from typing import Any

from layers_flax import Network
from weights_flax.formats.open import WeightsFile, reading
from weights_flax.io.archs import SILENT, build_model, describe
from weights_flax.io.choose import Chosen, Refused, choose, fits, says_no_fit, with_head
from weights_flax.io.inspect import called
from weights_flax.names.recognise import Naming
from weights_flax.unread.look_alikes import EVERY, look_alikes, named, settles


def kind_of(which: str | None, ema: bool | None) -> str | None:
    """Returns which weights are asked for, "averaged", "last" or None, by either argument.

    Raises:
        ValueError: both are given, and differ.
    """
    asked = None if ema is None else "averaged" if ema else "last"
    if which is not None and asked not in (None, which):
        raise ValueError(f"which={which!r} and ema={ema} ask for different weights; give one of them")
    return which or asked


def chosen_in(file: WeightsFile, which: str | None, model: Any = None) -> Chosen:
    """Chooses the network in a file; the kind of weights of a run or of Flax's training state is chosen already."""
    with reading(file.path):
        try:
            which = which if file.which is None else None
            chosen = choose(file.tensors, str(file.path), which, model=model, said=file.said)
            return chosen._replace(notes=(*file.notes, *chosen.notes))
        except Refused as error:
            refused = error
    raise refused


def fitting_model(file: WeightsFile, chosen: Chosen, new_head: bool, options: Mapping[str, Any]) -> Network:
    """Builds the network that a file without a card fits, with a classifier of another name too."""
    found = fits(chosen.naming, chosen.tensors, but_for_head=new_head)
    if not found and (near := fits(chosen.naming, chosen.tensors, but_for_head=True)):
        near_model = build_model(near[0][0], **near[0][1]) if isinstance(near[0], tuple) else near[0]
        moved, name = with_head(near_model, chosen)
        found = fits(moved.naming, moved.tensors) if name else []
    if not found:
        raise ValueError(says_no_fit(str(file.path), chosen))
    archs = {each[0]: each[1] for each in found if isinstance(each, tuple)}
    said = next((arch for each in file.said if (arch := named(each, archs))), next(iter(archs), None))
    if said is None:
        (model,) = (each for each in found if not isinstance(each, tuple))
        return model.clone(**options)
    return build_model(said, **{**archs[said], **options})


def alike_note(file: WeightsFile, chosen: Chosen, model: Any) -> tuple[str, ...]:
    """Returns a line that names the networks of others which a file may be as well, where nothing says which it is."""
    arch = describe(model)[0]
    likest = arch or ("resnet50" if hasattr(getattr(model, "block", None), "groups") else "resnet34")
    if "options" in file.card or file.card.get("arch") or any(map(settles, file.said)):
        return ()
    if chosen.naming.unsaid:
        return (
            f"weights {str(file.path)!r} have the names of {chosen.naming.title}, and no config.json beside them was "
            f"read, which alone says {chosen.naming.unsaid}",
        )
    if chosen.naming.alone:
        return ()
    found = look_alikes(likest, getattr(model, "bottleneck_stride", None))
    listed = "; ".join([*(f"{each.title} ({each.differs})" for each in found), f"one with {EVERY}"])
    return (
        f"weights {str(file.path)!r} are taken for {arch or called(model)} by names and shapes alone, which other "
        f"networks have too: {listed}",
    )


def with_silent_options(naming: Naming, file: WeightsFile) -> Naming:
    """Adds the options of `SILENT` that the network in a file's card has, if the card lists options."""
    if not isinstance(file.card.get("options"), dict):
        return naming
    if file.card.get("arch") is None:  # a network that no constructor makes
        options = {name: value for name, value in card_options(file).items() if name in SILENT}
        return naming._replace(options={**naming.options, **options})
    try:
        network = build_model(str(file.card.get("arch")), **card_options(file))
    except ValueError:  # a card of another project
        return naming
    options = {name: getattr(network, name) for name in SILENT if hasattr(network, name)}
    return naming._replace(title=str(file.card["arch"]), options={**naming.options, **options})


def card_options(file: WeightsFile) -> dict[str, Any]:
    """Returns the options of the network in a file's card, under their current names."""
    options = file.card.get("options")
    options = options if isinstance(options, dict) else {}
    # Older files call the option `stem_type` "stem".
    return {"stem_type" if name == "stem" else name: value for name, value in options.items()}
