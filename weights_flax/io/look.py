"""A look into a file of weights: what is in it, what fits it, and what else it may be; no value is read."""

from pathlib import Path
from typing import NamedTuple

from weights_flax.formats.open import WeightsFile
from weights_flax.io.archs import build_model
from weights_flax.io.choose import Chosen, Refused, check_said, fits, left_over, says_no_fit, some, with_head
from weights_flax.io.inspect import called, image_channels, named, shapes_of
from weights_flax.io.of_file import alike_note, chosen_in
from weights_flax.io.published import open_source, published_as


class Look(NamedTuple):
    """The result of a look into a file.

    Attributes:
        file: the file, opened.
        chosen: the network in it.
        fits: a line on each architecture that it fits, or on the nearest.
        beside: a line on entries beside the network, if there are any.
        notes: lines on choices, and on networks of others that the file may be.
    """

    file: WeightsFile
    chosen: Chosen
    fits: list[str]
    beside: list[str]
    notes: list[str]


def look_into(source: str | Path, which: str | None = None) -> Look:
    """Looks into a file of weights.

    Args:
        source, which: as in `load_model`.

    Raises:
        ValueError: the file cannot be read, or its names are of no known source.
    """
    file = open_source(source, which=which)
    chosen = chosen_in(file, which)
    notes, lines, beside = list(chosen.notes), [], []
    try:
        check_said(str(file.path), file.said)
    except Refused as error:
        notes.insert(0, str(error))
    refused = len(notes) > len(chosen.notes)
    if not file.card and (known := published_as(file.path)):
        notes.append(f"its name is that of {known}, whose classes and pre-processing are known here by that name")
    found = fits(chosen.naming, chosen.tensors)
    near = found or fits(chosen.naming, chosen.tensors, but_for_head=True)
    if near:
        first = build_model(near[0][0], **near[0][1]) if isinstance(near[0], tuple) else near[0]
        moved, name = with_head(first, chosen)
        if name:
            chosen, found = moved, fits(moved.naming, moved.tensors)
            near = found or near
            notes.append(f"the classifier is the dense layer {name!r}")
        channels = image_channels(first, shapes_of(chosen.tensors))
        of_images = "" if channels == 3 else f", of images with {channels} channel{'s' * (channels > 1)}"
        for each in near:
            lines.append(f"{named(*each) if isinstance(each, tuple) else called(each)}{of_images}")
        if not found:
            lines = [f"{line} but for the classifier" for line in lines]
        if extra := left_over(first, chosen):
            beside.append(f"{some(extra)}: passed over with --ignore-unused")
        notes += () if refused else alike_note(file, chosen, first)
    else:
        lines.append("no architecture")
        notes.append(says_no_fit(str(file.path), chosen))
    return Look(file, chosen, lines, beside, notes)
