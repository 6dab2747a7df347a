"""Networks side by side, drawn and listed from their trace (He 2015, figure 3)."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from common_flax.checks import one_of
from theory_flax.architectures.claim import Architecture, Shortcut, Stage, by_stage, shortcuts
from theory_flax.architectures.trace import architecture
from theory_flax.base.options import Options
from theory_flax.experiments.networks import of_run
from training_flax import ARCHS, build_model
from weights_flax.io.archs import published_size

FIGURE_3 = ("vgg19", "plain34", "resnet34")


@dataclass(frozen=True)
class Network:
    """What is said of a network.

    Attributes:
        name, image_shape: which, and (height, width, channels) of what it is run on.
        parameters, multiply_adds: of all layers.
        stages: its layers as a table.
        shortcuts: its connections beside the main path.
        trace: all layers, and what each reads.
    """

    name: str
    image_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    stages: tuple[Stage, ...]
    shortcuts: tuple[Shortcut, ...]
    trace: Architecture


def measure(options: Options, say: Callable[[str], None]) -> tuple[Network, ...]:
    """Traces the networks: those of the paper's figure, those named, or a run's."""
    if options.run is not None:
        network = of_run(options.run)
        shape = json.loads((options.run / "config.json").read_text())["image_shape"]
        return (_network(architecture(network.model, shape, network.name)),)
    for arch in options.arch:
        one_of("arch", arch, ARCHS)
    if len(options.arch) > 3:
        raise ValueError(f"up to 3 networks fit on a page; given {len(options.arch)}")
    found = []
    for arch in options.arch or FIGURE_3:
        model = build_model(arch)
        size = published_size(model)
        found.append(_network(architecture(model, (size, size, 3), arch)))
        say(f"{arch}: {len(found[-1].trace.layers)} layers traced")
    return tuple(found)


def _network(found: Architecture) -> Network:
    return Network(
        found.name,
        found.image_shape,
        found.parameters,
        found.multiply_adds,
        by_stage(found),
        shortcuts(found),
        found,
    )


USES = frozenset({"arch", "run"})
