"""Networks side by side, as tables and graphs of their layers (He 2015, figure 3)."""

from collections.abc import Callable
from dataclasses import dataclass

from common_flax.checks import one_of
from theory_flax.architectures.claim import Architecture, Shortcut, Stage, by_stage, shortcuts
from theory_flax.architectures.trace import architecture
from theory_flax.base.options import Options
from theory_flax.experiments.networks import of_run
from training_flax import ARCHS, build_model
from training_flax.config.run_config import read_run_config
from weights_flax.io.archs import published_size

FIGURE_3 = ("vgg19", "plain34", "resnet34")


@dataclass(frozen=True)
class TracedNetwork:
    """The table and the connections of a network.

    Attributes:
        name, image_shape: the network, and (height, width, channels) of its images.
        parameters, multiply_adds: of all layers.
        stages: its layers as a table.
        shortcuts: its connections beside the main path.
        trace: all layers, each with the layers that it reads.
    """

    name: str
    image_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    stages: tuple[Stage, ...]
    shortcuts: tuple[Shortcut, ...]
    trace: Architecture


def measure(options: Options, say: Callable[[str], None]) -> tuple[TracedNetwork, ...]:
    """Traces the networks of the paper's figure, those of the options, or the network of a run."""
    if options.run is not None:
        network = of_run(options.run, options.which)
        shape = read_run_config(options.run).image_shape
        return (_network(architecture(network.model, shape, network.name)),)
    for arch in options.arch:
        one_of("arch", arch, ARCHS)
    if len(options.arch) > 3:
        raise ValueError(f"up to 3 networks fit on a page; given {len(options.arch)}")
    networks = []
    for arch in options.arch or FIGURE_3:
        model = build_model(arch)
        size = published_size(model)
        networks.append(_network(architecture(model, (size, size, 3), arch)))
        say(f"{arch}: {len(networks[-1].trace.layers)} layers traced")
    return tuple(networks)


def _network(trace: Architecture) -> TracedNetwork:
    totals = trace.parameters, trace.multiply_adds
    return TracedNetwork(trace.name, trace.image_shape, *totals, by_stage(trace), shortcuts(trace), trace)
