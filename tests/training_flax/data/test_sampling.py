"""Balanced sampling: each class equally often, each of its images in turn, the same after any stop."""

import signal

import numpy as np
import pytest

from training_flax import Split, Stopped, StopRequest, TrainConfig, fit, plan
from training_flax.data.loader import BalancedOrder, Loader
from training_flax.runtime.devices import Devices
from training_flax.runtime.signals import STOP

LABELS = np.repeat([0, 2, 5], [40, 7, 1])[np.random.default_rng(0).permutation(48)]  # without the classes 1, 3 and 4


def drawn(steps, batch_size, seed=0, labels=LABELS):
    pairs = [BalancedOrder(labels, seed).batch(step, batch_size) for step in steps]
    return np.concatenate([examples for examples, _ in pairs]), np.concatenate([turns for _, turns in pairs])


def test_classes_come_equally_often_in_any_stretch():
    examples, _ = drawn(range(30), 16)
    rounds = np.sort(LABELS[examples].reshape(-1, 3), axis=1)
    assert (rounds == [0, 2, 5]).all()
    orders = {tuple(LABELS[examples[i : i + 3]]) for i in range(0, 480, 3)}
    assert len(orders) == 6


@pytest.mark.parametrize("label", [0, 2, 5])
def test_examples_of_a_class_take_turns(label):
    examples, turns = drawn(range(60), 16)
    own, members = examples[LABELS[examples] == label], np.flatnonzero(label == LABELS)
    whole = len(own) // len(members) * len(members)
    rounds = own[:whole].reshape(-1, len(members))
    assert (np.sort(rounds, axis=1) == members).all()
    if len(members) > 1:
        assert len(np.unique(rounds, axis=0)) > 1
    expected = np.arange(len(own)) // len(members)
    np.testing.assert_array_equal(turns[LABELS[examples] == label], expected)
    # No image has the same random changes twice: these follow from its turn.
    assert len(set(zip(examples.tolist(), turns.tolist(), strict=True))) == len(examples)


def test_the_order_follows_from_seed_and_place_alone():
    whole, turns = drawn(range(20), 12)
    later, later_turns = drawn(range(7, 20), 12)
    np.testing.assert_array_equal(later, whole[7 * 12 :])
    np.testing.assert_array_equal(later_turns, turns[7 * 12 :])
    np.testing.assert_array_equal(drawn(range(10), 24)[0], whole)
    order = BalancedOrder(LABELS, 0)
    back = np.concatenate([order.batch(step, 12)[0] for step in reversed(range(20))])
    np.testing.assert_array_equal(back.reshape(20, 12)[::-1].ravel(), whole)
    assert (drawn(range(20), 12, seed=1)[0] != whole).any()


def test_the_loader_keeps_unchanged_images_unchanged():
    split = Split(np.zeros((48, 4, 4, 1), np.uint8), LABELS)
    loader = Loader(split, range(4), 12, 0, Devices("jit"), sampling="balanced", change_until=2)
    assert (loader.rows(1).epochs >= 0).all()
    assert (loader.rows(2).epochs == -1).all()
    np.testing.assert_array_equal(loader.rows(2).examples, BalancedOrder(LABELS, 0).batch(2, 12)[0])


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match=r"^unknown sampling 'balance'; did you mean 'balanced'\?$"):
        plan(TrainConfig("resnet20", sampling="balance"))


class AfterSteps(StopRequest):
    """Asks to stop after two steps."""

    asked = 0

    @property
    def stop_signal(self):
        self.asked += 1
        return STOP + signal.SIGTERM if self.armed and self.asked > 2 else 0

    @stop_signal.setter
    def stop_signal(self, value):
        pass


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_weights(tmp_path):
    """With weights of classes and rates by part as well."""
    options = dict(arch="resnet20", width=2, steps=6, batch_size=64, class_weights=(1.0, *[0.5] * 9))
    config = TrainConfig(**options, sampling="balanced", layer_decay=0.5, optimizer="adafactor", out=tmp_path / "whole")
    whole = fit(config, quiet=True)
    config = TrainConfig(
        **options, sampling="balanced", layer_decay=0.5, optimizer="adafactor", out=tmp_path / "broken"
    )
    with pytest.raises(Stopped):
        fit(config, quiet=True, stop=AfterSteps())
    broken = fit(config, quiet=True)
    assert (whole.run / "model.safetensors").read_bytes() == (broken.run / "model.safetensors").read_bytes()
