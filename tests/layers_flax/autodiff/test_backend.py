"""Programs for a backend that need not be there: formulas, numbers, and JAX's memory of traces."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from densenet_flax import DenseNet
from layers_flax import BatchNorm, target_backend
from layers_flax.autodiff.backend import backend
from layers_flax.nn.norm_pool import norm_relu_max_pool
from resnet_flax import BasicBlock, BottleneckBlock, ResNet

ACCELERATORS = ("gpu", "tpu")


def test_the_backend_is_jax_s_own_or_the_one_that_is_told():
    assert backend() == jax.default_backend() == "cpu"
    with target_backend("tpu"):
        assert backend() == "tpu"
        with target_backend("cpu"):
            assert backend() == "cpu"
        assert backend() == "tpu"
    assert backend() == "cpu"


def test_another_thread_is_not_told():
    seen = []
    with target_backend("tpu"):
        thread = threading.Thread(target=lambda: seen.append(backend()))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


@pytest.mark.parametrize("name", ["cuda", "TPU", "", None])
def test_an_unknown_backend_is_named(name):
    with pytest.raises(ValueError, match=f"unknown backend {name!r}"), target_backend(name):
        pass


def test_a_function_is_traced_again_for_another_backend():
    """Otherwise JAX would take the program of the backend that asked first."""
    traced = []

    @jax.jit
    def function(x):
        traced.append(backend())
        return x

    for name in ("tpu", "cpu", "tpu", "gpu"):
        with target_backend(name):
            function(jnp.ones(3))
    function(jnp.ones(3))
    assert traced == ["tpu", "cpu", "gpu", "cpu"]


NETWORKS = {
    "basic blocks": ResNet((1, 1), BasicBlock, num_classes=3, width=4, stem_type="cifar"),
    "bottlenecks, a large stem": ResNet((1, 1), BottleneckBlock, num_classes=3, width=4, running_variance="unbiased"),
    "remat": ResNet((1, 1), BasicBlock, num_classes=3, width=4, stem_type="cifar", remat=True),
    "dense": DenseNet((2, 2), 4, 3, "cifar"),
    "dense, a large stem": DenseNet((2, 2), 4, 3, "imagenet"),
    "dense, remat": DenseNet((2, 2), 4, 3, "cifar", remat=True),
    "dense, no bottleneck, remat": DenseNet((2, 2), 4, 3, "cifar", remat=True, bottleneck_width=None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same_for_all_backends(name, x64):
    """Logits, statistics and gradients in float64; BatchNorm's scales have both signs."""
    model = NETWORKS[name].clone(param_dtype=jnp.float64)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, 32, 32, 3)))
    variables = drawn(model)
    variables["params"] = jax.tree.map(lambda leaf: leaf - 0.5, variables["params"])
    key = jax.random.key(1)

    def results(variables):
        def loss_of(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updates = model.apply(given, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            return (logits**2).sum(), (logits, updates)

        gradients, (logits, updates) = jax.grad(loss_of, has_aux=True)(variables["params"])
        return logits, updates, gradients, model.apply(variables, images)

    expected = jax.jit(results)(variables)
    for backend_name in ACCELERATORS:
        with target_backend(backend_name):
            found = jax.jit(results)(variables)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_pool_before_the_norm_gives_the_same_maps_to_the_bit(frozen, dtype):
    """Rounding keeps the order of values too. A negative scale turns it round, a scale of 0 makes all values equal."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 9, 5)), dtype)
    scale = jnp.array([1.0, -1.0, 0.0, 1e-3, -7.0])
    norm = BatchNorm(dtype=dtype, frozen=frozen)
    params = {"scale": scale, "bias": jnp.asarray(rng.standard_normal(5), jnp.float32)}
    stats = {"mean": jnp.asarray(rng.standard_normal(5), jnp.float32), "var": jnp.full(5, 2.0)}

    def pooled(name):
        with target_backend(name):
            bound = norm.bind({"params": params, "batch_stats": stats}, mutable=["batch_stats"])
            return norm_relu_max_pool(bound, x, True, 3, 2, padding=1)

    near, far = pooled("cpu"), pooled("tpu")
    assert far.dtype == near.dtype
    if frozen:  # the batch's statistics round differently
        np.testing.assert_array_equal(np.asarray(near, np.float32), np.asarray(far, np.float32))
    np.testing.assert_allclose(np.asarray(near, np.float32), np.asarray(far, np.float32), rtol=2**-7, atol=1e-6)
