"""The gradient identity on networks of both families, at initialisation and while one of them is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from theory_flax.base.options import Options
from theory_flax.base.unroll import check
from theory_flax.experiments.networks import Network, dataset_of, fresh, images_of, of_run
from theory_flax.experiments.training import train
from theory_flax.gradient_identity.claim import (
    GradientProfile,
    PathLengths,
    gradient_identity,
    gradient_profile,
    path_lengths,
)
from training_flax import build_model

QUICK = ("resnet20_v2", "resnet20", "densenet_bc_40_12")
WHOLE = ("resnet110_v2", "resnet56_v2", "resnet110", "resnet50_v2", "densenet_bc_40_12", "densenet121")
BATCH = 8


@dataclass(frozen=True)
class Error:
    """How exact the identity is in one stage of a network.

    Attributes:
        network, stage, dtype: of what; BatchNorm takes the statistics of the batch.
        error: ‖total − identity − Σ residuals‖ / ‖total‖.
        plain_error: the same without the ReLUs' masks, of post-activation stages.
        identity_share: what the "1" contributes to ‖∂L/∂x_1‖, as a share.
    """

    network: str
    stage: int
    dtype: str
    error: float
    plain_error: float | None
    identity_share: float


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        errors: of each network, stage and type.
        network, stage: where the profiles and paths below are from; None is the whole network.
        steps: of training, at which they were taken; of a run, its last alone.
        profiles: ‖g‖, ‖Σ‖ and the cosine between them from each block on.
        paths: the gradient as a sum over paths, by their length.
    """

    errors: tuple[Error, ...]
    network: str
    stage: int | None
    steps: tuple[int, ...]
    profiles: tuple[GradientProfile, ...]
    paths: tuple[PathLengths, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """The identity's error in each network, and the gradient's parts along the training of the first of them."""
    archs = () if options.run is not None else options.arch or (QUICK if options.quick else WHOLE)
    for arch in archs:  # what has no shortcuts is refused before its variables are drawn
        check(build_model(arch), 0, train=True)
    dataset = dataset_of(options)
    images, labels = images_of(dataset, BATCH)
    networks = [of_run(options.run)] if options.run is not None else [fresh(arch, dataset) for arch in archs]
    errors: list[Error] = []
    for network in networks:
        for stage in range(stages_of(network.model)):
            found = [_error(network, images, labels, stage, dtype) for dtype in ("float32", "float64")]
            errors += found
            say(f"{network.name} stage {stage}: error {found[0].error:.1e} in float32, {found[1].error:.1e} in float64")

    first = networks[0]
    sizes = getattr(first.model, "block_sizes", None)
    shown = int(np.argmax(sizes)) if sizes else None  # of a ResNet, all blocks
    steps, variables = [0], [first.variables]
    if options.run is None:
        steps, variables = [], []
        total, every = (100, 50) if options.quick else (2000, 500)
        all_images, all_labels = images_of(dataset, len(dataset.train.labels))
        for moment in train(first.model, all_images, all_labels, steps=total, every=every):
            steps.append(moment.step)
            variables.append(jax.device_get(moment.variables))
            if moment.metrics is not None:
                say(f"{first.name} step {moment.step} of {total}: loss {moment.metrics.loss[-25:].mean():.4f}")
    profiles, paths = [], []
    for at in variables:
        profiles.append(gradient_profile(first.model, at, images, labels, stage=shown, train=True))
        paths.append(path_lengths(first.model, at, images, labels, stage=shown, train=True))
    return Report(tuple(errors), first.name, shown, tuple(steps), tuple(profiles), tuple(paths))


def stages_of(model: nn.Module) -> int:
    """How many stages, or dense blocks, a network has."""
    # Of a run's network without shortcuts the first stage is asked for, and refused by name.
    return len(getattr(model, "stage_sizes", ())) or 1


def _error(network: Network, images: jax.Array, labels: jax.Array, stage: int, dtype: str) -> Error:
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), network.variables)
        model = network.model.clone(dtype=None)
        images = jnp.asarray(np.asarray(images), dtype)
        found = gradient_identity(model, variables, images, jnp.asarray(np.asarray(labels)), stage=stage, train=True)
    return Error(network.name, stage, dtype, found.relative_error, found.plain_error, found.identity_share)


USES = frozenset({"arch", "run", "data", "data_dir"})
