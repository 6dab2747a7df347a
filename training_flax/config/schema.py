"""The types of what a run's config.json holds."""

from dataclasses import fields
from functools import cache
from typing import Annotated, Any, get_type_hints

import msgspec

from training_flax.config.config import MODEL, RUN, ResolvedConfig, reaching
from weights_flax.formats.run import Channels, Normalisation, NumClasses, Side, Text

# Bounds that no run reaches, so that a damaged file asks for no more memory than a machine has.
MOST = 2**32
MOST_OF = {
    **dict.fromkeys(("image_size", "test_image_size", "width", "growth_rate"), 2**16),
    "batch_size": 2**24,
}
MOST_LISTED = 2**10

Count = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RandomNumbers(msgspec.Struct, forbid_unknown_fields=True):
    """The entry "random" of config.json, see `training_flax.runtime.random_numbers`."""

    impl: Text
    partitionable: bool


class Machine(msgspec.Struct, forbid_unknown_fields=True):
    """The entry "machine" of config.json: where the data are, see `training_flax.config.of_run.places`."""

    data: Text | None = None
    data_dir: Text | None = None


# The entries beside the options, with their types.
FACTS: dict[str, Any] = {
    "num_classes": NumClasses,
    "class_names": tuple[Text, ...],
    "train_examples": Count,
    "test_examples": Count,
    "train_files": Text,
    "test_files": Text,
    "train_bytes": Bytes,
    "test_bytes": Bytes,
    "train_labels": Text,
    "test_labels": Text,
    "validation_examples": Count,
    "validation_files": Text,
    "validation_bytes": Bytes,
    "validation_labels": Text,
    "train_sum": Text,
    "test_sum": Text,
    "validation_sum": Text,
    "pixels": bool,
    "multi_label": bool,
    "own_loss": Text,
    "own_optimizer": Text,
    "weights_sum": Text,
    "image_shape": tuple[Side, Side, Channels],
    "normalisation": Normalisation,
    "versions": Annotated[dict[str, Text], msgspec.Meta(max_length=MOST_LISTED)],
    "random": RandomNumbers,
    "callbacks": Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_LISTED)],
    "unused_options": Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_LISTED)],
    "resumption": Text,
    "machine": Machine,
    "mark": Text,
    "lengths": Annotated[tuple[Count, ...], msgspec.Meta(max_length=MOST_LISTED)],
}


def stored_options() -> tuple[str, ...]:
    """Returns the names of the options at the top of config.json."""
    names = (option.name for option in fields(ResolvedConfig))
    return tuple(name for name in names if name not in {*reaching(RUN), *reaching(MODEL), *FACTS})


@cache
def schema() -> Any:
    """Returns the type of config.json: options by the types in `ResolvedConfig`, and the facts beside them."""
    hints = get_type_hints(ResolvedConfig)
    options = [(name, _bounded(name, hints[name]), None) for name in reaching(MODEL)]
    model = msgspec.defstruct("Model", options, forbid_unknown_fields=True)
    entries = [(name, _bounded(name, hints[name]), None) for name in stored_options()]
    entries += [(name, kind, None) for name, kind in FACTS.items()]
    return msgspec.defstruct("Config", [*entries, ("model", model, None)], forbid_unknown_fields=True)


def _bounded(name: str, hint: Any) -> Any:
    """Returns the type of an option, with bounds on integers and lengths."""
    integer = Annotated[int, msgspec.Meta(ge=0, le=MOST_OF.get(name, MOST))]
    bounded: dict[Any, Any] = {
        int: integer,
        str: Text,
        tuple[str, ...]: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_LISTED)],
        tuple[float, ...]: Annotated[tuple[float, ...], msgspec.Meta(max_length=MOST_LISTED)],
    }
    bounded[tuple[float, ...] | str] = bounded[tuple[float, ...]] | Text
    bounded |= {kind | None: short | None for kind, short in bounded.items()}
    return bounded.get(hint, hint)
