"""Arrays drawn outside of programs are those that JAX's own initialisers draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.nn.initializers import variance_scaling

from densenet_flax import DenseNet
from layers_flax import Network, he_normal_fan_in, he_normal_fan_out, torch_linear
from layers_flax.parameters.initializers import ones, zeros
from resnet_flax import ResNet

PAIRS = {
    "fan in": (he_normal_fan_in, variance_scaling(2.0, "fan_in", "normal")),
    "fan out": (he_normal_fan_out, variance_scaling(2.0, "fan_out", "normal")),
    "uniform": (torch_linear, variance_scaling(1 / 3, "fan_in", "uniform")),
}
SHAPES = [(3, 3, 3, 7), (1, 1, 1, 1), (7, 7, 3, 64), (5, 4096), (129, 127), (1, 1, 64, 64)]


def check(ours, theirs):
    """Three factors may be multiplied in another order, each product rounded once."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    bound = 4 * float(jnp.finfo(theirs.dtype).eps)
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert (np.abs(ours - theirs) <= bound * np.abs(theirs)).all()


def check_pair(pair, key, shape, dtype=jnp.float32):
    ours, stock = pair
    check(ours(key, shape, dtype), stock(key, shape, dtype))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_same_values_as_jax(pair, shape):
    check_pair(pair, jax.random.key(3), shape)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64, float])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_in_every_type(x64, pair, dtype):
    check_pair(pair, jax.random.key(3), (3, 3, 5, 7), dtype)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(1), jax.random.key(1, impl="rbg")], ids=["raw", "rbg"])
def test_from_every_kind_of_key(key):
    check_pair(PAIRS["fan out"], key, (3, 3, 5, 7))


def test_where_values_depend_on_the_size_of_the_array():
    with jax.threefry_partitionable(False):
        check_pair(PAIRS["fan out"], jax.random.key(1), (3, 3, 5, 7))


def test_more_than_programs_are_shared_for(monkeypatch):
    monkeypatch.setattr("layers_flax.parameters.initializers.LARGEST", 100)
    check_pair(PAIRS["fan out"], jax.random.key(1), (3, 3, 5, 7))


@pytest.mark.parametrize(("ours", "value"), [(zeros, 0), (ones, 1)])
def test_constants(ours, value):
    for array in (ours(jax.random.key(0), (2, 3)), jax.jit(lambda key: ours(key, (2, 3)))(jax.random.key(0))):
        assert array.dtype == jnp.float32
        assert np.array_equal(array, np.full((2, 3), value))


NETWORKS = {
    "residual": ResNet((1, 1), num_classes=3, width=4, stem_type="cifar"),
    "residual, again for the backward pass": ResNet((1, 1), num_classes=3, width=4, stem_type="cifar", remat=True),
    "dense": DenseNet((2, 1), growth_rate=4, num_classes=3, stem_type="cifar"),
    "folded": DenseNet((2, 1), growth_rate=4, num_classes=3, stem_type="cifar", folded=True),
}


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_networks_begin_with_the_same_variables_in_a_program_and_outside(model):
    key, images = jax.random.key(0), jnp.zeros((2, 8, 8, 3))
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    ours = model.init(key, shape, train=False)
    theirs = jax.jit(lambda key: model.init(key, images, train=False))(key)
    of_shapes = jax.eval_shape(lambda key: model.init(key, shape, train=False), key)
    assert jax.tree.map(jnp.shape, of_shapes) == jax.tree.map(jnp.shape, theirs)
    assert set(ours) == {"params", "batch_stats"}
    jax.tree.map(check, ours, theirs)


def test_a_network_is_not_run_to_be_initialised():
    class Model(Network):
        @nn.compact
        def __call__(self, images):
            jax.debug.callback(lambda images: ran.append(True), images)
            return self.param("scale", ones, (3,)) * images.sum()

    ran = []
    variables = Model().init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    jax.effects_barrier()
    assert not ran
    assert np.array_equal(variables["params"]["scale"], np.ones(3))
    assert variables["batch_stats"] == {}
