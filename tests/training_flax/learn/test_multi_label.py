"""Images with none, one or several classes: scores beside scikit-learn's, the step's loss, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, precision_recall_fscore_support

from training_flax import Dataset, Split, evaluate, make_train_step, start_state
from training_flax.learn.class_weights import weights_of_classes
from training_flax.learn.multi_label import (
    WrongLabels,
    average_precision,
    commonest_wrong,
    make_multi_label_eval_step,
    multi_label_scores,
)


def drawn(seed, examples=60, classes=5, ties=False):
    """Labels, of which the last class may have none, and logits that know something of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((examples, classes)) < rng.uniform(0.05, 0.6, classes)).astype(np.uint8)
    logits = rng.normal(size=labels.shape) + 1.5 * (2.0 * labels - 1)
    return labels, np.round(logits) if ties else logits


@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("seed", range(10))
def test_average_precision_is_that_of_scikit_learn(seed, ties):
    labels, logits = drawn(seed, ties=ties)
    labels[:, 3] = 0
    found = average_precision(labels, logits)
    assert np.isnan(found[3])
    expected = [average_precision_score(labels[:, each], logits[:, each]) for each in (0, 1, 2, 4)]
    # Sums of at most sixty terms under 1, each rounded a few times.
    np.testing.assert_allclose(found[[0, 1, 2, 4]], expected, rtol=0, atol=60 * 4 * 2.0**-53)


BY_HAND = {
    "in order": ([1, 1, 0, 0], [4, 3, 2, 1], 1.0),
    "backwards": ([0, 0, 1, 1], [4, 3, 2, 1], (1 / 3 + 2 / 4) / 2),
    "all the same": ([1, 0, 0, 1, 0], [0, 0, 0, 0, 0], 2 / 5),
    "every image": ([1, 1, 1], [1, 2, 3], 1.0),
    "sure logits that are one probability in float32": ([0, 1], [40.0, 50.0], 1.0),
    "NaN comes last": ([1, 0, 1], [np.nan, 1.0, 2.0], (1 + 2 / 3) / 2),
    "infinite": ([1, 0, 0], [np.inf, -np.inf, 0], 1.0),
}


@pytest.mark.parametrize(("labels", "scores", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_average_precision_by_hand(labels, scores, expected):
    found = average_precision(np.array(labels, np.uint8)[:, None], np.array(scores, float)[:, None])
    np.testing.assert_allclose(found, [expected], rtol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_classes_are_those_of_scikit_learn(seed):
    labels, logits = drawn(seed)
    logits[:, 2] = -1  # never predicted
    labels[:, 4] = 0
    predictions = (logits > 0).astype(np.int8)
    found = multi_label_scores(labels, predictions)
    expected = precision_recall_fscore_support(labels, predictions, average=None, zero_division=0)
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-15)
    np.testing.assert_array_equal(found.right, ((labels == 1) & (predictions == 1)).sum(0))


def test_shapes_that_differ_are_refused():
    labels = np.zeros((3, 2), np.uint8)
    for function in (average_precision, multi_label_scores):
        for other in (np.zeros((3, 1)), np.zeros(3)):
            with pytest.raises(ValueError, match=r"must be \(images, classes\); given \(3, 2\) and \(3"):
                function(labels, other)
    with pytest.raises(ValueError, match="given"):
        multi_label_scores(labels[:, 0], labels[:, 0])


def test_the_commonest_wrong_label_is_a_miss_or_a_sight():
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    assert commonest_wrong(labels, labels) is None
    assert commonest_wrong(labels, np.full((4, 2), -1)) is None
    assert commonest_wrong(labels, np.array([[0, 0], [0, 0], [0, 1], [0, 1]])) == WrongLabels(0, True, 2)
    assert commonest_wrong(labels, np.array([[1, 1], [1, 1], [1, 1], [0, 1]])) == WrongLabels(1, False, 3)
    assert commonest_wrong(labels, np.array([[0, 1], [1, 0], [0, 1], [0, 0]])) == WrongLabels(0, True, 1)


class Sums(nn.Module):
    """A network whose logits are the images' channels, times parameters that begin as 1."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        return x.mean((1, 2)) * self.param("scale", nn.initializers.ones, (self.num_classes,))


VARIABLES = {"params": {"scale": jnp.ones(3)}, "batch_stats": {}}


def images_of(logits):
    return jnp.asarray(logits, jnp.float32)[:, None, None, :] * jnp.ones((1, 2, 2, 1))


LABELS = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
LOGITS = np.array([[0.5, -1, 2], [-1, -2, -0.5], [1, -0.5, 0.25], [2, 1, -3]])


def step_of(**options):
    model = Sums()
    state = start_state(VARIABLES, optax.sgd(1.0), jax.random.key(0))
    step = make_train_step(model, optax.sgd(1.0), loss="binary", multi_label=True, **options)
    after, metrics = jax.jit(step)(state, images_of(LOGITS), jnp.asarray(LABELS))
    return 1 - np.asarray(after.params["scale"]), metrics


def expected_gradient(weights):
    """d/dscale of the mean over images and classes of weighted binary cross-entropies, in float64."""
    probability = 1 / (1 + np.exp(-LOGITS))
    factor = np.where(LABELS == 1, weights, 1)
    return (factor * (probability - LABELS) * LOGITS).mean(0) / LOGITS.shape[1]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("weights", [None, (0.5, 3.0, 1.0), (0.0, 0.0, 2.0)])
def test_the_gradient_is_that_of_weighted_cross_entropies(weights, accumulate):
    found, metrics = step_of(class_weights=weights, accumulate=accumulate)
    rounding = 32 * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, expected_gradient(1 if weights is None else np.array(weights)), atol=rounding)
    # The loss in the metrics is without weights; two of the four images have all classes right.
    losses = [log_loss(LABELS[:, each], 1 / (1 + np.exp(-LOGITS[:, each])), labels=[0, 1]) for each in range(3)]
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=rounding)
    assert metrics.accuracy == accuracy_score(LABELS, LOGITS > 0) == 0.5


def test_balanced_weights_are_the_ratio_of_images_without_and_with_a_class():
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], np.uint8)
    assert weights_of_classes("balanced", labels, ("a", "b")) == (3.0, 1.0)
    assert weights_of_classes((2, 5), labels, ("a", "b")) == (2.0, 5.0)
    with pytest.raises(ValueError, match="need images of each class; 'b' has none"):
        weights_of_classes("balanced", labels * np.array([1, 0], np.uint8), ("a", "b"))
    with pytest.raises(ValueError, match="need images without each class; all have 'b'"):
        weights_of_classes("balanced", labels | np.array([0, 1], np.uint8), ("a", "b"))
    with pytest.raises(ValueError, match="must be 2 numbers"):
        weights_of_classes((1.0,), labels, ("a", "b"))


def test_a_class_is_present_in_a_mixed_image_if_its_share_is_over_a_fifth():
    shares = jnp.array([[0.7, 0.3, 1.0], [0.1, 0.2, 0.9], [1, 0, 0], [0, 0, 0]])
    step = make_train_step(Sums(), optax.sgd(1.0), loss="binary", multi_label=True)
    state = start_state(VARIABLES, optax.sgd(1.0), jax.random.key(0))
    present = jnp.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
    mixed, whole = (step(state, images_of(LOGITS), targets) for targets in (shares, present))
    jax.tree.map(np.testing.assert_array_equal, (mixed[0].params, mixed[1]), (whole[0].params, whole[1]))


def test_what_is_for_one_class_an_image_is_refused():
    for options in (dict(), dict(loss="binary", label_smoothing=0.1)):
        with pytest.raises(ValueError, match="multi_label needs another loss, without label smoothing; given"):
            make_train_step(Sums(), optax.sgd(1.0), multi_label=True, **options)


def dataset_of(labels, logits):
    """A data set of floating point whose normalised pixels are the logits."""
    images = np.asarray(images_of(logits)) * 255
    split = Split(images, labels)
    return Dataset("made", split, split, ("a", "b", "c"), (0.0,) * 3, (1.0,) * 3, pixels=False)


@pytest.mark.parametrize("seed", range(3))
def test_an_evaluation_is_that_of_scikit_learn(seed):
    labels, logits = drawn(seed, classes=3)
    labels[:, 2] = 0
    dataset = dataset_of(labels, logits)
    assert dataset.multi_label
    found = evaluate(Sums(), VARIABLES, dataset, batch_size=7)
    seen = np.asarray(images_of(logits).mean((1, 2)))
    assert found.accuracy == accuracy_score(labels, seen > 0)
    expected = [average_precision_score(labels[:, each], seen[:, each]) for each in (0, 1)]
    np.testing.assert_allclose(found.average_precision[:2], expected, rtol=1e-13)
    assert found.mean_average_precision == found.score == pytest.approx(np.mean(expected), rel=1e-13)
    np.testing.assert_array_equal(found.predictions, seen > 0)
    rounding = float(16 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-seen.astype(float))), rtol=rounding)
    losses = np.log1p(np.exp(-np.abs(seen))) + np.maximum(seen, 0) - seen * labels
    assert found.loss == pytest.approx(losses.mean(), rel=rounding)
    assert found.means == {"loss": found.loss, "accuracy": found.accuracy, "mean_average_precision": found.score}
    with pytest.raises(ValueError, match=r"^top-k accuracy is of one true class an example; these may have several$"):
        found.top(1)


def test_an_image_that_is_not_finite_is_wrong_and_comes_last():
    labels = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]], np.uint8)
    logits = np.where(labels == 1, 2.0, -2.0)
    whole = evaluate(Sums(), VARIABLES, dataset_of(labels, logits))
    assert (whole.accuracy, whole.score) == (1.0, 1.0)
    logits[[0, 3], [1, 1]] = np.nan
    found = evaluate(Sums(), VARIABLES, dataset_of(labels, logits))
    assert found.accuracy == 0.5
    assert (found.predictions[[0, 3]] == -1).all()
    # Of the second class the two images that are NaN come together, behind one right and one wrong image.
    np.testing.assert_allclose(found.average_precision, [1, (1 + 2 / 4) / 2, 1], rtol=1e-15)


def test_no_image_with_a_class_has_no_mean():
    labels = np.zeros((3, 3), np.uint8)
    assert np.isnan(evaluate(Sums(), VARIABLES, dataset_of(labels, LOGITS[:3])).score)


def test_a_loss_of_the_users_sees_targets_of_0_and_1():
    def loss(logits, targets):
        assert targets.dtype == logits.dtype
        return jnp.abs(logits - targets).sum(-1)

    step = make_multi_label_eval_step(Sums(), loss)
    found = step(VARIABLES, images_of(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(found.loss, np.abs(LOGITS - LABELS).sum(-1), rtol=1e-6)


def test_data_of_one_class_an_image_have_no_such_scores():
    labels = np.array([0, 1, 2], np.int32)
    single = replace(dataset_of(LABELS, LOGITS), test=Split(np.asarray(images_of(LOGITS[:3])) * 255, labels))
    single = replace(single, train=single.test)
    found = evaluate(Sums(), VARIABLES, single)
    assert (found.average_precision, found.mean_average_precision) == (None, None)
    assert found.score == found.accuracy
    assert set(found.means) == {"loss", "accuracy"}
