"""Degradation: the comparison of pairs, the metrics of trainings, and the claim itself on real networks."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from resnet_flax import plain20, resnet20, resnet56, vgg11, wide_resnet28_10
from theory_flax import Training, degradation
from theory_flax.base.estimates import estimate
from theory_flax.base.options import Options
from theory_flax.degradation import experiment as command
from theory_flax.degradation.claim import kernel_paths
from theory_flax.experiments.setting import Setting, setting_of
from training_flax import open_dataset

NETWORKS = dict(plain=("plain20", "plain56"), residual=("resnet20", "resnet56"))
TINY = Setting("digits", width=2, every=4, augment=(), steps=6, batch_size=16, window=2)


def training(loss, error=0.5, first=1.0, layers=3):
    norms = np.full((5, layers), first)
    return Training(np.full(5, loss), np.full(5, error), norms, 3 * norms, 2 * norms[0], error + 0.1)


def test_each_network_is_compared_at_its_own_best_learning_rate():
    best = {"plain20": 0.1, "plain56": 0.01, "resnet20": 0.03, "resnet56": 0.1}
    deeper = {"plain56": 1.0, "resnet56": 0.05}

    def train(name, rate, seed):
        return training((rate != best[name]) + deeper.get(name, 0.0) + 0.2 * seed)

    found = degradation(train, **NETWORKS, rates=(0.1, 0.03, 0.01), seeds=(0, 1))
    runs = (*found.plain, *found.residual)
    assert {run.name: run.rate for run in runs} == best
    assert found.plain_gap.loss == pytest.approx((1.0, 1.0, 1.0))
    assert found.residual_gap.loss == pytest.approx((0.05, 0.05, 0.05))
    assert found.excess == pytest.approx((-0.05, -0.05, -0.05))
    assert found.plain[0].tried.shape == (3, 2)


def test_a_learning_rate_whose_loss_is_not_finite_is_never_the_best():
    found = degradation(
        lambda name, rate, seed: training(np.nan if rate == 0.1 else 2.0), **NETWORKS, rates=(0.1, 0.01), seeds=(0,)
    )
    assert {run.rate for run in (*found.plain, *found.residual)} == {0.01}
    assert np.isnan(found.plain_gap.loss.low)  # an interval needs two seeds


def test_ratios_of_gradients_are_geometric_means_of_the_first_layer():
    first = {"plain20": 1.0, "plain56": 3.0}

    def train(name, rate, seed):
        return training(1.0, first=first.get(name, 1.0) * (1 + seed) ** (1 if name == "plain56" else 0))

    found = degradation(train, **NETWORKS, rates=(0.1,), seeds=(0, 1, 2, 3))
    mean = 3 * np.prod([1, 2, 3, 4]) ** 0.25
    assert found.plain_gap.first_gradient.mean == pytest.approx(mean)
    assert found.plain_gap.late_gradient.mean == pytest.approx(mean)
    assert found.plain_gap.late_scaled.mean == pytest.approx(mean)
    assert found.plain_gap.first_gradient.low < mean < found.plain_gap.first_gradient.high


def test_intervals_are_students():
    values = np.random.default_rng(0).normal(size=6)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert estimate(values) == pytest.approx((values.mean(), low, high))


@pytest.mark.parametrize(("rates", "seeds", "named"), [((), (0,), "rates"), ((0.1,), (), "seeds"), ((1, 1), (0,), "r")])
def test_no_learning_rate_or_seed_is_refused(rates, seeds, named):
    with pytest.raises(ValueError, match=named):
        degradation(lambda *_: training(1.0), **NETWORKS, rates=rates, seeds=seeds)


def test_kernels_are_named_from_the_first_layer_to_the_last():
    paths = kernel_paths(resnet56(shortcut="B"))
    assert len(paths) == 56
    assert paths[0] == ("conv1", "kernel") and paths[-1] == ("fc", "kernel")
    assert paths[1:3] == (("layer1_0", "conv1", "kernel"), ("layer1_0", "conv2", "kernel"))
    assert paths.index(("layer2_8", "conv2", "kernel")) + 1 == paths.index(("layer3_0", "conv1", "kernel"))
    assert kernel_paths(plain20()) == kernel_paths(resnet20())
    assert len(kernel_paths(wide_resnet28_10())) == 26  # 28 with the two projections of other widths
    with pytest.raises(ValueError, match="VGG"):
        kernel_paths(vgg11())


@pytest.mark.slow
def test_a_training_is_noted_in_windows():
    said = []
    found = command.training_of("plain20", TINY, open_dataset("digits"), said.append)(0.1, 0)
    assert found.loss.shape == found.error.shape == (3,)
    assert found.gradient_norms.shape == found.scaled_norms.shape == (3, 20)
    assert found.first_norms.shape == (20,)
    assert (found.gradient_norms > 0).all()
    assert 0 <= found.test_error <= 1
    single = replace(TINY, steps=2, window=1)
    first = command.training_of("plain20", single, open_dataset("digits"), said.append)(0.1, 0)
    np.testing.assert_allclose(first.loss.mean(), found.loss[0], rtol=1e-5)
    np.testing.assert_allclose(first.first_norms, first.gradient_norms[0], rtol=1e-6)


def test_finished_trainings_are_not_made_again(tmp_path, monkeypatch):
    made = []

    def training_of(name, setting, dataset, say):
        return lambda rate, seed: made.append((name, rate, seed)) or training(1.0 + seed)

    monkeypatch.setattr(command, "training_of", training_of)
    options = Options("degradation", out=tmp_path, seeds=2)
    first = command.measure(options, lambda line: None)
    assert len(made) == len(set(made)) == 8
    next((tmp_path / "degradation").glob("plain56*seed1.npz")).write_bytes(b"damaged")
    again = command.measure(options, lambda line: None)
    assert made[8:] == [("plain56", 0.1, 1)]
    assert again.found.plain_gap == first.found.plain_gap
    assert first.published is None  # digits are not CIFAR-10
    monkeypatch.setattr(command, "setting_of", lambda options: TINY)
    command.measure(options, lambda line: None)
    assert len(made) == 17  # a training of another setting is not taken


def test_data_must_fit_into_memory(tmp_path):
    streamed = replace(open_dataset("digits"), train=None)
    with pytest.raises(ValueError, match="1 GiB"):
        command.training_of("plain20", TINY, streamed, print)


@pytest.mark.slow
def test_deeper_plain_networks_train_worse_and_residual_ones_do_not():
    setting = replace(setting_of(Options("degradation", quick=True)), steps=128)
    dataset, trainings = open_dataset("digits"), {}

    def train(name, rate, seed):
        if name not in trainings:
            trainings[name] = command.training_of(name, setting, dataset, print)
        return trainings[name](rate, seed)

    found = degradation(train, **NETWORKS, rates=(0.03,), seeds=range(4))
    assert found.plain_gap.loss.low > 0
    assert found.plain_gap.error.low > 0
    assert found.excess.mean < 0
    assert found.plain_gap.first_gradient.low > 0.1
    assert found.plain_gap.late_scaled.low > 0.1
