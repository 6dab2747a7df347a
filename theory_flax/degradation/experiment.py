"""Plain and residual networks of two depths, trained alike: on digits in minutes, or as He 2015 on CIFAR-10."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import jax
import numpy as np

from common_flax.files import whole_file
from theory_flax.base.options import Options
from theory_flax.degradation.claim import Degradation, Training, degradation, kernel_paths
from theory_flax.experiments.networks import data_name, dataset_of, error_on
from theory_flax.experiments.setting import PLAIN, RESIDUAL, Setting, learning_rate_in, setting_of, training_on
from training_flax import Dataset, Split

# Test errors in %: of plain networks read off the curves of figure 6, of residual ones from table 6.
HE2015 = {"plain20": 9.0, "plain56": 13.0, "resnet20": 8.75, "resnet56": 6.97}


@dataclass(frozen=True)
class Report:
    """The result of the experiment.

    Attributes:
        setting: of all trainings.
        found: the comparison of the networks.
        published: test errors in % of He 2015 on CIFAR-10, in its setting; None in the quick one.
    """

    setting: Setting
    found: Degradation
    published: dict[str, float] | None


def measure(options: Options, say: Callable[[str], None]) -> Report:
    """Trains all networks; without `quick`, a training that an earlier call finished is loaded from the out folder."""
    setting = setting_of(options)
    dataset = dataset_of(options)
    seeds = range(options.seeds or (5 if options.quick else 3))
    kept = options.out / "degradation"
    # Networks are trained one after the other, so the compiled programs of one network are enough in memory.
    training = lru_cache(maxsize=1)(lambda name: training_of(name, setting, dataset, say))

    def train(name: str, learning_rate: float, seed: int) -> Training:
        file = kept / f"{name}-rate{learning_rate:g}-seed{seed}.npz"
        run = None if options.quick else load(file, setting)
        if run is None:
            run = training(name)(learning_rate, seed)
            if not options.quick:
                keep(file, setting, run)
        end = f"training loss {run.final_loss:.4f}, test error {run.test_error:.1%}"
        say(f"{name} learning rate {learning_rate:g} seed {seed}: {end}")
        return run

    learning_rates = (0.1, 0.03, 0.01) if options.quick else (0.1,)
    found = degradation(train, plain=PLAIN, residual=RESIDUAL, rates=learning_rates, seeds=seeds)
    published = None if options.quick or data_name(options) == "digits" else HE2015
    return Report(setting, found, published)


def training_of(
    name: str, setting: Setting, dataset: Dataset, say: Callable[[str], None]
) -> Callable[[float, int], Training]:
    """Makes the function (learning rate, seed) → `Training` of one network; errors as `training_on`."""
    model, training = training_on(dataset, name, setting)
    images, labels = cast(Split, dataset.test)
    test = Split(images[:, :: setting.every, :: setting.every], labels)

    def run(learning_rate: float, seed: int) -> Training:
        windows, norms = [], []
        schedule = learning_rate_in(setting, learning_rate)
        moments = training(steps=setting.steps, every=setting.window, learning_rate=schedule, seed=seed)
        last = next(moments)
        leaves = jax.tree_util.tree_leaves_with_path(last.variables["params"])
        paths = [tuple(key.key for key in path) for path, _ in leaves]
        order = [paths.index(path) for path in kernel_paths(model)]  # the norms are in the order of the leaves
        for last in moments:
            assert last.metrics and last.gradient_norms is not None and last.weight_norms is not None
            windows.append((last.metrics.loss.mean(), 1 - last.metrics.accuracy.mean()))
            norms.append((last.gradient_norms[:, order], (last.weight_norms * last.gradient_norms)[:, order]))
            if len(windows) % 20 == 0 and setting.steps > 1000:
                say(f"{name} seed {seed} step {last.step} of {setting.steps}: loss {windows[-1][0]:.3f}")
        loss, error = np.array(windows, np.float64).T
        means, scaled = np.array(norms, np.float64).mean(2).swapaxes(0, 1)
        test_error = error_on(test, model, last.variables, dataset)
        return Training(loss, error, means, scaled, norms[0][0][0].astype(np.float64), test_error)

    return run


def keep(file: Path, setting: Setting, found: Training) -> None:
    """Writes a finished training, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as path, path.open("wb") as out:
        np.savez(out, setting=json.dumps(asdict(setting)), **found._asdict())


def load(file: Path, setting: Setting) -> Training | None:
    """Reads a finished training; None if the file is missing, damaged, or of another setting."""
    try:
        with np.load(file) as kept:
            if str(kept["setting"]) != json.dumps(asdict(setting)):
                return None
            values = {name: kept[name] for name in Training._fields}
    except (FileNotFoundError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
    return Training(**values | {"test_error": float(values["test_error"])})
