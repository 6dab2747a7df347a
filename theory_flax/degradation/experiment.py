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

from common_flax.files import whole_file
from theory_flax.base.options import Options
from theory_flax.degradation.claim import Degradation, Training, degradation, kernel_paths
from theory_flax.experiments.networks import dataset_of
from theory_flax.experiments.setting import PLAIN, RESIDUAL, Setting, rate_in, setting_of, training_on
from training_flax import Dataset, Split, make_eval_step, normalise

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
    test, pixels = cast(Split, dataset.test), slice(None, None, setting.every)
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
    with whole_file(file) as path, path.open("wb") as out:
        np.savez(out, setting=json.dumps(asdict(setting)), **found._asdict())


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


USES = frozenset({"data", "data_dir", "seeds"})
