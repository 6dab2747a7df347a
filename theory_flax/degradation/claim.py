"""Deeper plain networks train worse, and residual ones do not (He 2015, sections 1 and 4.2, figures 1 and 6).

The deeper network could copy the shallow one and leave its other layers at the identity, so that its training loss need
not be higher. The loss is higher all the same. Overfitting is not the reason, because it would raise the test error
alone. Vanishing gradients are not the reason either: with BatchNorm, gradients reach the first layer (section 4.1).
The same layers with shortcuts do not degrade.

Under BatchNorm a kernel W and any multiple of W make the same network, but the gradient shrinks as the kernel grows:
∂L/∂(cW) = (∂L/∂W) / c. The measure of how much a layer can learn is therefore ‖W‖ ‖∂L/∂W‖, which does not depend on the
scale (van Laarhoven 2017, arXiv:1706.05350, section 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from flax import linen as nn

from resnet_flax import ResNet
from theory_flax.base.estimates import Estimate, estimate, geometric

FINAL_WINDOWS = 3


class Training(NamedTuple):
    """The metrics of one training, in windows of equally many steps; float64.

    Attributes:
        loss: (windows,) mean cross-entropy of the training batches.
        error: (windows,) share of the batches' images that are classified wrong.
        gradient_norms: (windows, layers) mean ‖∂L/∂W‖ of each layer's kernel, first layer first.
        scaled_norms: (windows, layers) mean ‖W‖ ‖∂L/∂W‖.
        first_norms: (layers,) ‖∂L/∂W‖ at the first step.
        test_error: share of the test images that the trained network, with running statistics, classifies wrong.
    """

    loss: np.ndarray
    error: np.ndarray
    gradient_norms: np.ndarray
    scaled_norms: np.ndarray
    first_norms: np.ndarray
    test_error: float

    @property
    def final_loss(self) -> float:
        """The mean loss of the last windows; infinite if it is nan."""
        return float(np.nan_to_num(self.loss[-FINAL_WINDOWS:].mean(), nan=np.inf))


@dataclass(frozen=True)
class NetworkRuns:
    """A network trained from several seeds, at the best of several learning rates.

    Attributes:
        name: of the network.
        rate: the learning rate with the least mean final loss.
        tried: (learning rates, seeds) the final loss at every learning rate.
        loss, error: (seeds, windows) of training, as in `Training`.
        final_loss, final_error, test_error: (seeds,); the final ones are means of the last windows.
        gradient_norms, scaled_norms, first_norms: as in `Training`, means over seeds.
        first_layer: (seeds, 3) for the first layer: ‖∂L/∂W‖ at the first step, and the means of ‖∂L/∂W‖ and of
            ‖W‖ ‖∂L/∂W‖ over the second half of the training.
    """

    name: str
    rate: float
    tried: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    final_loss: np.ndarray
    final_error: np.ndarray
    test_error: np.ndarray
    gradient_norms: np.ndarray
    scaled_norms: np.ndarray
    first_norms: np.ndarray
    first_layer: np.ndarray


@dataclass(frozen=True)
class Gap:
    """The effect of depth on a pair of networks: deeper minus shallow, paired over seeds.

    Attributes:
        loss, error, test_error: differences of the final training loss and error, and of the test error.
        first_gradient, late_gradient, late_scaled: deeper divided by shallow, for the three columns of
            `NetworkRuns.first_layer`; geometric means over seeds.
    """

    loss: Estimate
    error: Estimate
    test_error: Estimate
    first_gradient: Estimate
    late_gradient: Estimate
    late_scaled: Estimate


@dataclass(frozen=True)
class Degradation:
    """The results of both pairs.

    Attributes:
        rates: the learning rates tried with each network.
        seeds: of all trainings.
        plain, residual: the shallow network, and the deeper one.
        plain_gap, residual_gap: the effect of depth on each pair.
        excess: the residual pair's difference in final loss, less a tenth of the plain pair's difference.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    plain: tuple[NetworkRuns, NetworkRuns]
    residual: tuple[NetworkRuns, NetworkRuns]
    plain_gap: Gap
    residual_gap: Gap
    excess: Estimate


def degradation(
    train: Callable[[str, float, int], Training],
    *,
    plain: tuple[str, str],
    residual: tuple[str, str],
    rates: Sequence[float],
    seeds: Sequence[int],
) -> Degradation:
    """Trains two pairs of a shallow and a deeper network, each at its own best learning rate, and compares the pairs.

    Every network is trained at every learning rate from every seed, because one learning rate for all could suit one of
    the depths better.

    Args:
        train: (network, learning rate, seed) → `Training`: the same data, order and steps for all networks of a seed.
        plain: names of the shallow and the deeper plain network, as `train` takes them.
        residual: the same layers with shortcuts.
        rates: learning rates.
        seeds: at least two for intervals.

    Raises:
        ValueError: a list is empty, or holds a number twice.
    """
    for name, values in (("rates", rates), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be at least one, and none twice; given {list(values)}")
    runs = {name: _best(train, name, rates, seeds) for name in (*plain, *residual)}
    flat, skip = ((runs[shallow], runs[deep]) for shallow, deep in (plain, residual))
    plain_loss, residual_loss = (deep.final_loss - shallow.final_loss for shallow, deep in (flat, skip))
    excess = estimate(residual_loss - plain_loss / 10)
    return Degradation(tuple(rates), tuple(seeds), flat, skip, _gap(flat), _gap(skip), excess)


def _best(
    train: Callable[[str, float, int], Training], name: str, learning_rates: Sequence[float], seeds: Sequence[int]
) -> NetworkRuns:
    runs = [[train(name, learning_rate, seed) for seed in seeds] for learning_rate in learning_rates]
    tried = np.array([[run.final_loss for run in row] for row in runs])
    best = int(tried.mean(1).argmin())
    loss, error, norms, scaled, first, test_error = map(np.array, zip(*runs[best], strict=True))
    late = slice(loss.shape[1] // 2, None)
    return NetworkRuns(
        name=name,
        rate=learning_rates[best],
        tried=tried,
        loss=loss,
        error=error,
        final_loss=tried[best],
        final_error=error[:, -FINAL_WINDOWS:].mean(1),
        test_error=test_error,
        gradient_norms=norms.mean(0),
        scaled_norms=scaled.mean(0),
        first_norms=first.mean(0),
        first_layer=np.stack([first[:, 0], norms[:, late, 0].mean(1), scaled[:, late, 0].mean(1)], 1),
    )


def _gap(pair: tuple[NetworkRuns, NetworkRuns]) -> Gap:
    shallow, deep = pair
    return Gap(
        estimate(deep.final_loss - shallow.final_loss),
        estimate(deep.final_error - shallow.final_error),
        estimate(deep.test_error - shallow.test_error),
        *(geometric(column) for column in (deep.first_layer / shallow.first_layer).T),
    )


def kernel_paths(model: ResNet) -> tuple[tuple[str, ...], ...]:
    """Paths to the kernels among the parameters of a ResNet or plain network, from the first layer to the last.

    Projections of shortcuts are left out, so that a network has the same paths as its twin without shortcuts.
    """
    if not isinstance(model, ResNet):
        raise ValueError(f"layers are in a row in a ResNet or a plain network; given a {type(model).__name__}")
    blocks: list[nn.Module] = [block for stage in model.bind({}).stages for block in stage]
    convolutions = ("conv1", "conv2") if model.block.expansion == 1 else ("conv1", "conv2", "conv3")
    inner = [(str(block.name), conv, "kernel") for block in blocks for conv in convolutions]
    return (("conv1", "kernel"), *inner, ("fc", "kernel"))
