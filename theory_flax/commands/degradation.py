"""Plain and residual networks of two depths, trained alike: on digits in minutes, or as He 2015 on CIFAR-10."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from common_flax.palette import BLUE, ORANGE
from theory_flax.commands.networks import dataset_of
from theory_flax.commands.options import Claim, Options
from theory_flax.commands.setting import PLAIN, RESIDUAL, Setting, rate_in, setting_of, training_on
from theory_flax.degradation import Degradation, NetworkRuns, Training, degradation, kernel_paths
from theory_flax.estimates import Estimate, estimate
from theory_flax.figures import label, new_figure
from training_flax import Dataset, Part, make_eval_step, normalise

# Test error in %; of the plain networks read off the curves of figure 6, of the others table 6.
HE2015 = {"plain20": 9.0, "plain56": 13.0, "resnet20": 8.75, "resnet56": 6.97}


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        setting: how.
        found: what came out.
        published: test errors in % of He 2015 on CIFAR-10, in its setting; None in the quick one.
    """

    setting: Setting
    found: Degradation
    published: dict[str, float] | None


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """All trainings; without `quick`, those that an earlier call finished are taken from the folder it kept them in."""
    setting = setting_of(options)
    dataset = dataset_of(options)
    seeds = range(options.seeds or (5 if options.quick else 3))
    kept = None if options.quick else options.out / "degradation"
    # One network's compiled programs at a time: they are not needed again once the next one's turn has come.
    training = lru_cache(maxsize=1)(lambda name: training_of(name, setting, dataset, say))

    def train(name: str, rate: float, seed: int) -> Training:
        file = None if kept is None else kept / f"{name}-rate{rate:g}-seed{seed}.npz"
        found = None if file is None else load(file, setting)
        if found is None:
            found = training(name)(rate, seed)
            if file is not None:
                keep(file, setting, found)
        say(
            f"{name} rate {rate:g} seed {seed}: training loss {found.final_loss:.4f}, test error {found.test_error:.1%}"
        )
        return found

    rates = (0.1, 0.03, 0.01) if options.quick else (0.1,)
    found = degradation(train, plain=PLAIN, residual=RESIDUAL, rates=rates, seeds=seeds)
    published = None if options.quick or options.data == "digits" else HE2015
    return Report(setting, found, published)


def training_of(
    name: str, setting: Setting, dataset: Dataset, say: Callable[[str], None]
) -> Callable[[float, int], Training]:
    """The function (rate, seed) → `Training` of one network on a data set; errors as `training_on`."""
    model, training = training_on(dataset, name, setting)
    test, pixels = cast(Part, dataset.test), slice(None, None, setting.every)
    predict = jax.jit(
        lambda variables, images, labels: (
            make_eval_step(model)(variables, normalise(images, dataset.mean, dataset.std), labels).prediction
        )
    )

    def test_error(variables: Any) -> float:
        wrong = 0
        for first in range(0, len(test.labels), 500):
            part = slice(first, first + 500)
            wrong += (
                np.asarray(predict(variables, test.images[part, pixels, pixels], test.labels[part]))
                != test.labels[part]
            ).sum()
        return float(wrong / len(test.labels))

    def run(rate: float, seed: int) -> Training:
        windows, norms = [], []
        moments = training(steps=setting.steps, every=setting.window, rate=rate_in(setting, rate), seed=seed)
        last = next(moments)
        order = in_depth(model, last.variables["params"])
        for last in moments:
            assert last.metrics and last.gradient_norms is not None and last.weight_norms is not None
            windows.append((last.metrics.loss.mean(), 1 - last.metrics.accuracy.mean()))
            norms.append((last.gradient_norms[:, order], (last.weight_norms * last.gradient_norms)[:, order]))
            if len(windows) % 20 == 0 and setting.steps > 1000:
                say(f"{name} seed {seed} step {last.step} of {setting.steps}: loss {windows[-1][0]:.3f}")
        loss, error = np.array(windows, np.float64).T
        means, scaled = np.array(norms, np.float64).mean(2).swapaxes(0, 1)
        return Training(loss, error, means, scaled, norms[0][0][0].astype(np.float64), test_error(last.variables))

    return run


def in_depth(model: Any, params: Any) -> list[int]:
    """The places of the layers' kernels among the leaves of the parameters, first layer first."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    places = {tuple(key.key for key in path): place for place, (path, _) in enumerate(leaves)}
    return [places[path] for path in kernel_paths(model)]


def keep(file: Path, setting: Setting, found: Training) -> None:
    """Writes a finished training, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with part.open("wb") as out:
        np.savez(out, setting=json.dumps(asdict(setting)), **found._asdict())
    part.replace(file)


def load(file: Path, setting: Setting) -> Training | None:
    """A training that was kept; None if there is none of this setting."""
    try:
        with np.load(file) as kept:
            if str(kept["setting"]) != json.dumps(asdict(setting)):
                return None
            values = {name: kept[name] for name in Training._fields}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None  # damaged: trained again, and written anew
    return Training(**values | {"test_error": float(values["test_error"])})


COLOURS = ((BLUE, "-"), (ORANGE, "-"), (BLUE, "--"), (ORANGE, "--"))


def draw(report: Report) -> Figure:
    """Training error through time, errors at the end, and gradients through depth and time."""
    found, setting = report.found, report.setting
    networks = (*found.plain, *found.residual)
    data = setting.data.split(":")[0] if report.published is None else "CIFAR-10"
    figure, panels = new_figure(
        f"Deeper plain networks train worse, residual ones do not ({data}, {len(found.seeds)} seeds)",
        3,
        2,
        height=3.7,
    )
    loss, errors, depth, late, time, scaled = panels.flat
    steps = (np.arange(networks[0].loss.shape[1]) + 0.5) * setting.window
    for network, (colour, style) in zip(networks, COLOURS, strict=True):
        look: dict[str, Any] = dict(color=colour, ls=style)
        middles = [estimate(column) for column in network.loss.T]
        loss.plot(steps, [middle.mean for middle in middles], **look, label=f"{network.name}, rate {network.rate:g}")
        if len(found.seeds) > 1:
            low, high = ([max(getattr(middle, end), 1e-4) for middle in middles] for end in ("low", "high"))
            loss.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
        layers = np.linspace(0, 1, len(network.first_norms))
        depth.plot(layers, network.first_norms, **look, label=network.name)
        second_half = network.scaled_norms[len(steps) // 2 :].mean(0)
        late.plot(layers, second_half, **look, label=network.name)
        time.plot(steps, network.gradient_norms[:, 0], **look, label=network.name)
        scaled.plot(steps, network.scaled_norms[:, 0], **look, label=network.name)
    _bars(errors, networks, report.published)
    for axes in (loss, depth, late, time, scaled):
        axes.set_yscale("log")
    late.set_ylim(top=20 * late.get_ylim()[1])  # with room for the legend
    loss.set_ylim(bottom=max(loss.get_ylim()[0], 1e-4))
    label(loss, "training loss; bands are 95 % intervals", "step", "cross-entropy, nats")
    label(depth, "gradients at the first step", "depth of the layer, first 0 to last 1", "‖∂L/∂W‖")
    late.yaxis.set_minor_formatter(NullFormatter())
    label(late, "second half of training, free of scale", "depth of the layer, first 0 to last 1", "‖W‖ ‖∂L/∂W‖")
    label(time, "first layer through training", "step", "‖∂L/∂W‖")
    label(scaled, "first layer through training, free of scale", "step", "‖W‖ ‖∂L/∂W‖")
    return figure


def _bars(axes: Axes, networks: tuple[NetworkRuns, ...], published: dict[str, float] | None) -> None:
    """Errors at the end of training, with intervals."""
    places = np.arange(len(networks))
    for shift, colour, what in ((-0.2, BLUE, "training"), (0.2, ORANGE, "test")):
        values = [network.final_error if what == "training" else network.test_error for network in networks]
        middles = [estimate(100 * value) for value in values]
        half = np.nan_to_num([middle.high - middle.mean for middle in middles])
        heights = [middle.mean for middle in middles]
        # An error is never below zero, whatever the interval's symmetry says.
        axes.bar(places + shift, heights, 0.38, color=colour, alpha=0.8, label=what)
        axes.errorbar(
            places + shift, heights, [np.minimum(half, heights), half], fmt="none", ecolor="black", capsize=3, lw=1
        )
    if published is not None:
        axes.plot(places + 0.2, [published[network.name] for network in networks], "kx", label="test, He 2015")
    axes.set_xticks(places, [network.name for network in networks])
    label(axes, "errors at the end of training", "", "error, %")


def _words(value: Estimate, form: str = "+.4f") -> str:
    return f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"


def summary(report: Report) -> list[str]:
    """What was found, in lines."""
    found = report.found
    lines = []
    for network in (*found.plain, *found.residual):
        published = f"; He 2015 about {report.published[network.name]:g} %" if report.published else ""
        lines.append(
            f"{network.name} at its best rate {network.rate:g}: training loss {network.final_loss.mean():.4f}, "
            f"training error {network.final_error.mean():.1%}, test error {network.test_error.mean():.1%}{published}"
        )
    for name, gap in (("plain", found.plain_gap), ("residual", found.residual_gap)):
        lines.append(
            f"{name}, deeper minus shallow: training loss {_words(gap.loss)}, training error "
            f"{_words(gap.error, '+.1%')}, test error {_words(gap.test_error, '+.1%')}"
        )
        lines.append(
            f"{name}, deeper over shallow, gradient at the first layer: {_words(gap.first_gradient, '.2f')} at the "
            f"first step; in the second half {_words(gap.late_gradient, '.2f')}, free of the weights' scale "
            f"{_words(gap.late_scaled, '.2f')}"
        )
    lines.append(f"residual difference of loss less a tenth of the plain one: {_words(found.excess)}")
    return lines


CLAIM = Claim(measure, draw, summary, frozenset({"data", "data_dir", "seeds"}))
