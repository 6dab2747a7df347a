"""Shapes of networks of any size, for which no array is made."""

import tracemalloc

import jax
import pytest

from densenet_flax import densenet121, densenet_bc_40_12
from layers_flax import variables_by_shape
from resnet_flax import resnet20, resnet50, resnet56_v2, vgg16_bn

NETWORKS = {
    "resnet20": (resnet20, {"width": 10**7}),
    "resnet20, folded": (resnet20, {"width": 10**8, "num_classes": 10**9}),
    "resnet50": (resnet50, {"width": 10**8}),
    "resnet56_v2": (resnet56_v2, {"width": 10**9}),
    "densenet121": (densenet121, {"growth_rate": 10**7}),
    "densenet_bc_40_12": (densenet_bc_40_12, {"growth_rate": 10**8}),
    "vgg16_bn": (vgg16_bn, {"num_classes": 10**10}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_memory_is_taken_for_networks_of_terabytes(name):
    make, options = NETWORKS[name]
    model = make(**options).clone(folded="folded" in name)
    with_arrays = {id(array) for array in jax.live_arrays()}
    tracemalloc.start()
    leaves = jax.tree.leaves(variables_by_shape(model, (32, 32, 3)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(leaf.size for leaf in leaves) > 10**12
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert peak < 2**27  # of NumPy's arrays, too
    assert max((array.nbytes for array in jax.live_arrays() if id(array) not in with_arrays), default=0) < 2**20


def test_statistics_are_the_same_with_and_without_tracing():
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    made = resnet20(width=4).init(jax.random.key(0), images, train=False)["batch_stats"]
    traced = jax.jit(lambda key: resnet20(width=4).init(key, images, train=False))(jax.random.key(0))["batch_stats"]
    assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(lambda a: (a.shape, a.dtype), traced)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(traced), strict=True))
