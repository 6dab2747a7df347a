"""Weights of classes beside torch's CrossEntropyLoss (tests/golden/make_class_weights.py) and scikit-learn."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from training_flax import TrainConfig, make_train_step, plan, start_state
from training_flax.learn.class_weights import relative_weights, weights_of_classes

ARRAYS = np.load(Path(__file__).parents[2] / "golden" / "class_weights.npz")


class Logits(nn.Module):
    """A network whose parameters are the logits of its batch; `images` are the rows to take."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, images, train=False):
        table = self.param("logits", lambda key: jnp.asarray(ARRAYS["logits"]))
        return table[images]


def gradient(targets, **options):
    """Returns the gradient that a training step applies to the logits, and the loss in its metrics."""
    variables = {"params": {"logits": jnp.asarray(ARRAYS["logits"])}, "batch_stats": {}}
    optimizer = optax.sgd(1.0)
    step = make_train_step(Logits(), optimizer, class_weights=ARRAYS["weights"], **options)
    state = start_state(variables, optimizer, jax.random.key(0))
    after, metrics = step(state, jnp.arange(12), jnp.asarray(targets))
    return ARRAYS["logits"] - np.asarray(after.params["logits"]), float(metrics.loss)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_torchs_for_labels(x64, smoothing, accumulate):
    """The weighted mean is one of the whole batch, in however many parts its gradient is added up."""
    ours, loss = gradient(ARRAYS["labels"], label_smoothing=smoothing, accumulate=accumulate)
    np.testing.assert_allclose(ours, ARRAYS[f"labels/{smoothing}/gradient"], rtol=1e-12, atol=1e-15)
    plain = optax.softmax_cross_entropy_with_integer_labels(ARRAYS["logits"], ARRAYS["labels"]).mean()
    assert loss == pytest.approx(float(plain), rel=1e-12)  # as the loss of the test images, without weights


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_mixed_targets_are_torchs_but_for_the_mean(x64, smoothing):
    """Torch divides by the number of images there, and so forgets the weights; here they divide as for labels."""
    ours, _ = gradient(ARRAYS["mixed"], label_smoothing=smoothing)
    theirs = ARRAYS[f"mixed/{smoothing}/gradient"] * 12 / (ARRAYS["mixed"] @ ARRAYS["weights"]).sum()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_under_the_binary_loss_an_image_has_the_weight_of_its_class(x64):
    ours, _ = gradient(ARRAYS["labels"], loss="binary")
    weights = ARRAYS["weights"][ARRAYS["labels"]]
    apart = 1 / (1 + np.exp(-ARRAYS["logits"])) - np.eye(4)[ARRAYS["labels"]]
    np.testing.assert_allclose(ours, apart / 4 * weights[:, None] / weights.sum(), rtol=1e-12, atol=1e-15)


def test_equal_weights_are_none(x64):
    variables = {"params": {"logits": jnp.asarray(ARRAYS["logits"])}, "batch_stats": {}}
    ends = []
    for weights in (None, [3.0] * 4):
        step = make_train_step(Logits(), optax.sgd(1.0), class_weights=weights, label_smoothing=0.1)
        state = start_state(variables, optax.sgd(1.0), jax.random.key(0))
        ends.append(step(state, jnp.arange(12), jnp.asarray(ARRAYS["labels"]))[0].params["logits"])
    np.testing.assert_allclose(*ends, rtol=1e-13)


@pytest.mark.slow
def test_the_mean_is_over_all_devices(x64):
    """Two members of a mapped axis with other classes have one mean weight."""
    targets = jnp.eye(4)[ARRAYS["labels"]].reshape(2, 6, 4)
    made = jax.vmap(partial(relative_weights, ARRAYS["weights"], axis_name="data"), axis_name="data")(targets)
    whole = relative_weights(ARRAYS["weights"], targets.reshape(12, 4))
    np.testing.assert_allclose(made, [whole, whole], rtol=1e-15)
    assert relative_weights([0.0, 1.0], jnp.eye(2)[jnp.array([0, 0])]).tolist() == [0, 0]  # and the step is none


def test_balanced_is_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.random.default_rng(0).choice(3, 200, p=(0.7, 0.25, 0.05))
    ours = weights_of_classes("balanced", labels, ("a", "b", "c"))
    np.testing.assert_allclose(ours, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-15)
    assert np.mean(np.asarray(ours)[labels]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("even", "class_weights must be balanced, or finite numbers of at least 0, not all 0; given 'even'"),
        ((1.0, -1.0), "class_weights must be balanced, or finite numbers of at least 0, not all 0; given (1.0, -1.0)"),
        ((0.0, 0.0), "not all 0; given (0.0, 0.0)"),
        ((1.0, float("nan")), "given (1.0, nan)"),
        ((1.0, float("inf")), "given (1.0, inf)"),
        ((), "given ()"),
        ((1.0, 2.0, 3.0), "class_weights must be 2 numbers, one for each class; given 3"),
        ((1.0,), "class_weights must be 2 numbers, one for each class; given 1"),
    ],
)
def test_says_what_cannot_be(given, message):
    config = TrainConfig("resnet20", width=4, data="fake:8x8x1:2:64", batch_size=16, augment=(), class_weights=given)
    with pytest.raises(ValueError) as error:
        plan(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_without_images_cannot_be_balanced():
    with pytest.raises(ValueError, match=r"^class_weights 'balanced' need images of each class; 'b' has none$"):
        weights_of_classes("balanced", np.array([0, 2]), ("a", "b", "c"))
