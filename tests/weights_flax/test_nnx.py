"""Networks inside NNX: the same logits, gradients, statistics and steps as Linen's, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from laws import assert_close
from structure import draw_images, init

from densenet_flax import DenseNet
from resnet_flax import VGG, ResNet
from weights_flax.nnx import from_nnx, to_nnx

NETWORKS = {
    "ResNet": (ResNet([1, 1], num_classes=3, stem_type="cifar", width=4), 8),
    "DenseNet with dropout": (DenseNet([1, 1], growth_rate=4, num_classes=3, stem_type="cifar", dropout=0.3), 8),
    "VGG": (VGG([1, 1, 1, 1, 1], num_classes=3, width=1), 32),
}
LABELS = jnp.array([0, 1, 2, 1])


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    model, size = NETWORKS[request.param]
    images = draw_images(len(LABELS), size, size, 3)
    return model, init(model, images), images


def first_dropout_key():
    """Returns the key of the first call of a stream with seed 0."""
    return nnx.Rngs(dropout=0).dropout()


def in_float64(*trees):
    """Compares numbers of two programs, whose sums in another order differ by far less than the tolerance."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), trees)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_round_trip_is_exact(network):
    model, variables, _ = network
    assert_same(from_nnx(to_nnx(model, variables)), variables)


def test_logits_in_evaluation_are_linens_to_the_last_bit(network):
    model, variables, images = network
    module = to_nnx(model, variables, nnx.Rngs(dropout=0))
    logits = nnx.jit(lambda module, images: module(images))(module, images)
    np.testing.assert_array_equal(logits, jax.jit(model.apply)(variables, images))
    assert_same(from_nnx(module), variables)


@pytest.mark.slow
def test_a_step_of_training_is_linens(network, x64):
    """Returns loss, gradient, updated statistics, and the parameters after SGD."""
    model, *arrays = network
    variables, images = in_float64(*arrays)

    def objective(params, key):
        logits, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return cross_entropy(logits), updates["batch_stats"]

    @nnx.jit
    def step(module, optimizer):
        loss, gradients = nnx.value_and_grad(lambda module: cross_entropy(module(images)))(module)
        optimizer.update(module, gradients)
        return loss, gradients

    (loss, stats), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        variables["params"], first_dropout_key()
    )
    module = to_nnx(model, variables, nnx.Rngs(dropout=0))
    module.train()
    ours, our_gradients = step(module, nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param))
    after = from_nnx(module)

    # XLA fuses the same operations differently in the two programs.
    np.testing.assert_allclose(ours, loss, rtol=1e-12)
    assert_close(nnx.to_pure_dict(our_gradients)["params"], gradients, 1e-12)
    assert_close(after["batch_stats"], stats, 1e-12)
    moved = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, variables["params"], gradients)
    assert_close(after["params"], moved, 1e-12)
    assert jax.tree.structure(after) == jax.tree.structure(variables)


def test_dropout_draws_anew_in_each_call_and_from_its_own_stream():
    model, size = NETWORKS["DenseNet with dropout"]
    images = draw_images(len(LABELS), size, size, 3)
    rngs = nnx.Rngs(dropout=0)
    module = to_nnx(model, init(model, images), rngs)
    module.train()
    call = nnx.jit(lambda module: module(images))
    first, second = call(module), call(module)
    assert not np.array_equal(first, second)
    assert int(rngs.dropout.count[...]) == 2
    module.eval()
    np.testing.assert_array_equal(call(module), call(module))
    assert int(rngs.dropout.count[...]) == 2


def test_a_part_of_a_larger_module_hears_train_and_eval(x64):
    model, size = NETWORKS["ResNet"]
    images = draw_images(len(LABELS), size, size, 3)
    variables, images = in_float64(init(model, images), images)

    class Scaled(nnx.Module):
        def __init__(self):
            self.network, self.scale = to_nnx(model, variables), nnx.Param(jnp.array(2.0))

        def __call__(self, images):
            return self.scale[...] * self.network(images)

    whole = Scaled()
    call = nnx.jit(lambda module: module(images))
    whole.train()
    training = jax.jit(lambda: model.apply(variables, images, train=True, mutable=["batch_stats"]))
    np.testing.assert_allclose(call(whole), 2 * training()[0], rtol=1e-12)
    assert not np.array_equal(
        from_nnx(whole.network)["batch_stats"]["bn1"]["mean"], variables["batch_stats"]["bn1"]["mean"]
    )
    whole.eval()
    running = jax.jit(model.apply)(from_nnx(whole.network), images)
    np.testing.assert_allclose(call(whole), 2 * running, rtol=1e-12)
