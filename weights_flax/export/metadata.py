"""The description of an exported network: all that a program needs to serve it, beside the file itself."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from flax import linen as nn

from common_flax import __version__
from common_flax.check_sums import sealed, unsealed
from common_flax.json_input import parse_object, read_object, typed
from common_flax.optional import DISTRIBUTION, library
from weights_flax.formats.run import Channels, Moments, Side, Text, origin

PROGRAM = "program"  # the entry of a card with the check sum of the file that it stands beside
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """The input and the output of an exported network, and the way from an image to its input.

    Attributes:
        architecture: the network's class with its options.
        input: the name of the input of an ONNX file.
        output: "logits", or "probabilities" by softmax or sigmoid: what comes out, its name in an ONNX file.
        layout: "NCHW", (batch, channels, height, width), or "NHWC".
        image_shape: (height, width, channels) that go in.
        dtype: type of the input, "float32" or "uint8".
        pixels: "0..255", which the program normalises itself, or "normalised", (pixel / 255 - mean) / std.
        mean, std: of pixels from 0 to 1, channel by channel; None if nobody knows them.
        interpolation, crop, crop_rule, keep: of the centre crop, see `training_flax.data.decode.centre_crop`. `crop` is
            the share of the shorter side; `keep` leaves alone images that have the size already. None if nobody knows.
        preparation: "digit" if photos have to be made like the digits data set before they are cropped, as
            `training_flax.inference.ink.as_digit` does; "none" if not, None if nobody knows.
        class_names: one for each class; None if nobody knows them.
        multi_label: True if an image may have several classes, each with a probability of its own by sigmoid; None
            stands for one class an image, and softmax.
        origin: the weights, such as "averaged weights after step 45".
        producer: this project and its version.
    """

    architecture: Text
    input: Text = "images"
    output: Literal["logits", "probabilities"] = "logits"
    layout: Literal["NCHW", "NHWC"]
    image_shape: tuple[Side, Side, Channels]
    dtype: Literal["float32", "uint8"] = "float32"
    pixels: Literal["0..255", "normalised"] = "normalised"
    mean: Moments | None = None
    std: Moments | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    crop: Share | None = None
    crop_rule: Literal["torchvision", "timm", "centred"] | None = None
    keep: bool | None = None
    preparation: Literal["digit", "none"] | None = None
    class_names: tuple[Text, ...] | None = None
    multi_label: bool | None = None
    origin: Text | None = None
    producer: Text = f"{DISTRIBUTION} {__version__}"


NAMES = tuple(field.name for field in fields(ExportCard))
IN_JSON = (
    "image_shape",
    "mean",
    "std",
    "crop",
    "keep",
    "class_names",
    "multi_label",
)  # within strings; others are words


def describe_export(
    model: nn.Module,
    image_shape: Sequence[int],
    layout: str,
    card: Mapping[str, Any],
    from_pixels: bool,
) -> ExportCard:
    """Describes a network that is exported.

    Args:
        model: the network.
        image_shape: (height, width, channels).
        layout: of the input.
        card: of the file of weights, see `save_weights`.
        from_pixels: the program takes pixels from 0 to 255 and gives probabilities.

    Raises:
        ValueError: an entry of the card is wrong, or mean and std, which `from_pixels` needs, are missing.
    """
    normalised = card.get("normalisation") or {}
    about = card.get("preprocessing") or {}
    names = card.get("class_names")
    values: dict[str, Any] = {
        "architecture": architecture_of(model),
        "layout": layout,
        "image_shape": [int(side) for side in image_shape],
        "class_names": None if names is None else [str(name) for name in names],
        "origin": origin(card) or card.get("source"),
        "multi_label": card.get("multi_label") or None,
    }
    values |= {name: normalised.get(name) for name in ("mean", "std")}
    values |= {name: about[name] for name in ("interpolation", "crop", "crop_rule", "preparation") if name in about}
    if about:
        # Published networks crop images of any size; those of runs, images that their runs resized.
        values["keep"] = bool(about.get("keep", "run" in card))
    if from_pixels:
        values |= {"output": "probabilities", "dtype": "uint8", "pixels": "0..255"}
    try:
        made = _checked(json.loads(json.dumps(values)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the card of the weights cannot be exported: {error}") from None
    num_classes = getattr(model, "num_classes", None)
    if made.class_names is not None and len(made.class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes}, one for each class; given {len(made.class_names)}")
    channels = made.image_shape[2]
    for name, moments in (("mean", made.mean), ("std", made.std)):
        if from_pixels and moments is None:
            raise ValueError(f"from_pixels needs the {name} of pixels, and the weights' card has none")
        if moments is not None and (len(moments) not in (1, channels) or not np.isfinite(moments).all()):
            raise ValueError(f"{name} must be {channels} finite numbers, one for each channel; given {moments}")
    if made.std is not None and min(made.std) <= 0:
        raise ValueError(f"std must be positive; given {made.std}")
    return made


def architecture_of(model: nn.Module) -> str:
    """Returns the class and its options that are not defaults: "ResNet(stage_sizes=(3, 4, 6, 3), block=BasicBlock)"."""
    options = [
        f"{field.name}={getattr(value, '__name__', value)}"
        for field in fields(model)
        if field.name not in ("parent", "name") and (value := getattr(model, field.name)) != field.default
    ]
    return f"{type(model).__name__}({', '.join(options)})"


def to_strings(card: ExportCard) -> dict[str, str]:
    """Returns the entries that have a value as strings, for an ONNX file: words as they are, others in JSON."""
    values = {name: value for name, value in asdict(card).items() if value is not None}
    return {name: json.dumps(value) if name in IN_JSON else value for name, value in values.items()}


def from_strings(entries: Mapping[str, str]) -> ExportCard:
    """Reads `onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map`, or other entries as `to_strings`.

    Raises:
        ValueError: an entry is missing or wrong.
    """
    known: dict[str, Any] = {name: text for name, text in entries.items() if name in NAMES}
    pairs = ", ".join(f"{json.dumps(name)}: {text}" for name, text in known.items() if name in IN_JSON)
    return _checked(known | parse_object(f"{{{pairs}}}".encode()))


def card_path(path: Path) -> Path:
    """Returns the place of the card beside a program: its name and ".json"."""
    return path.with_name(f"{path.name}.json")


def card_beside(card: ExportCard, program: bytes, more: Mapping[str, str]) -> str:
    """Returns the text of a JSON file that stands beside a program, with check sums of the program and of itself."""
    values = {**asdict(card), **more, PROGRAM: f"{zlib.crc32(program):08x}"}
    return json.dumps(sealed(values), indent=2) + "\n"


def read_export_card(path: str | Path) -> ExportCard:
    """Reads the description of an exported network.

    Args:
        path: an ONNX file (needs the package onnx), or a program of StableHLO, whose card stands beside it.

    Raises:
        ValueError: one line: there is no card, it is damaged, or it belongs to another program.
    """
    path = Path(path)
    try:
        if card_path(path).exists():
            values = unsealed(read_object(card_path(path)))
            if values.get(PROGRAM) != f"{zlib.crc32(path.read_bytes()):08x}":
                raise ValueError(f"it is not the card of {str(path)!r}")
            return _checked({name: value for name, value in values.items() if name in NAMES})
        onnx = library("onnx", extra="onnx", purpose="the metadata of an ONNX file")
        try:
            proto = onnx.load(path, load_external_data=False)
        except OSError:
            raise
        except Exception:  # protobuf raises errors of its own for other files
            raise ValueError("it is no ONNX file, and has no card beside it") from None
        return from_strings({entry.key: entry.value for entry in proto.metadata_props})
    except OSError as error:
        raise ValueError(f"card of {str(path)!r} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"card of {str(path)!r}: {error}") from None


def is_card(path: Path) -> bool:
    """Tells if a file is a card beside a program, whole or not that of its program any more."""
    try:
        return PROGRAM in unsealed(read_object(path))
    except (OSError, ValueError):
        return False


def _checked(values: Mapping[str, Any]) -> ExportCard:
    return typed({name: value for name, value in values.items() if value is not None}, ExportCard)
