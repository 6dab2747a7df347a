"""The gradient identity on networks of both families, at initialisation and while one of them is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from theory_flax.base.options import Options
from theory_flax.base.unroll import check
from theory_flax.experiments.networks import NamedNetwork, dataset_of, images_of, init_for, of_run
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
    """The error of the identity in one stage of a network, whose BatchNorm takes the statistics of the batch.

    Attributes:
        network, stage, dtype: the network's name, the stage's number, and the type of the computation.
        error: ‖total − identity − Σ residuals‖ / ‖total‖.
        plain_error: the same without the ReLUs' masks, for post-activation stages.
        identity_share: share of ‖∂L/∂x_1‖ that the "1" contributes.
    """

    network: str
    stage: int
    dtype: str
    error: float
    plain_error: float | None
    identity_share: float


@dataclass(frozen=True)
class Report:
    """The result of the experiment.

    Attributes:
        errors: of each network, stage and type.
        network, stage: the source of the profiles and paths below; stage None is the whole network.
        steps: the steps of training at which they were computed; for a run only the last.
        profiles, paths: at each of these steps.
    """

    errors: tuple[Error, ...]
    network: str
    stage: int | None
    steps: tuple[int, ...]
    profiles: tuple[GradientProfile, ...]
    paths: tuple[PathLengths, ...]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Measures the identity's error in each network, and the gradient's parts along the training of the first one."""
    archs = () if options.run is not None else options.arch or (QUICK if options.quick else WHOLE)
    for arch in archs:
        check(build_model(arch), 0, train=True)  # refuses networks without shortcuts before the data set is read
    dataset = dataset_of(options)
    images, labels = images_of(dataset, BATCH)
    if options.run is not None:
        networks = [of_run(options.run, options.which)]
    else:
        models = [build_model(arch, num_classes=len(dataset.class_names)) for arch in archs]
        networks = [NamedNetwork(*named, init_for(dataset, named[1])) for named in zip(archs, models, strict=True)]
    errors: list[Error] = []
    for network in networks:
        # A run's network without shortcuts may have no stages; `check` then refuses its first stage by name.
        for stage in range(len(getattr(network.model, "stage_sizes", ())) or 1):
            single, double = (_error(network, images, labels, stage, dtype) for dtype in ("float32", "float64"))
            errors += [single, double]
            say(f"{network.name} stage {stage}: error {single.error:.1e} in float32, {double.error:.1e} in float64")

    first = networks[0]
    sizes = getattr(first.model, "block_sizes", None)
    shown = int(np.argmax(sizes)) if sizes else None  # all blocks of a ResNet, the longest block of a DenseNet
    moments = {0: first.variables}
    if options.run is None:
        moments = {}
        total, every = (100, 50) if options.quick else (2000, 500)
        for moment in train(first.model, *images_of(dataset, len(dataset.train.labels)), steps=total, every=every):
            moments[moment.step] = jax.device_get(moment.variables)
            if moment.metrics is not None:
                say(f"{first.name} step {moment.step} of {total}: loss {moment.metrics.loss[-25:].mean():.4f}")
    profiles, paths = [], []
    for variables in moments.values():
        profiles.append(gradient_profile(first.model, variables, images, labels, stage=shown, train=True))
        paths.append(path_lengths(first.model, variables, images, labels, stage=shown, train=True))
    return Report(tuple(errors), first.name, shown, tuple(moments), tuple(profiles), tuple(paths))


def _error(network: NamedNetwork, images: jax.Array, labels: jax.Array, stage: int, dtype: str) -> Error:
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), network.variables)
        model = network.model.clone(dtype=None)
        images = jnp.asarray(np.asarray(images), dtype)
        found = gradient_identity(model, variables, images, jnp.asarray(np.asarray(labels)), stage=stage, train=True)
    return Error(network.name, stage, dtype, found.relative_error, found.plain_error, found.identity_share)
