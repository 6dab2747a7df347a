import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from layers_flax import BatchNorm, Conv, Linear, ScaleShift

IMAGES = jnp.ones((2, 4, 4, 3))
LAYERS = [Conv(5, use_bias=True), Linear(5), BatchNorm(), ScaleShift()]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_parameters_of_another_shape_are_refused_by_name_as_flax_does(layer):
    variables = layer.init(jax.random.key(0), IMAGES)
    for name in variables["params"]:
        wrong = variables | {"params": variables["params"] | {name: jnp.ones((7, 7))}}
        with pytest.raises(ScopeParamShapeError, match=rf'"{name}".*\(7, 7\)'):
            layer.apply(wrong, IMAGES)
        fewer = {key: value for key, value in variables["params"].items() if key != name}
        if fewer:
            with pytest.raises(ScopeParamNotFoundError, match=f'"{name}"'):
                layer.apply(variables | {"params": fewer}, IMAGES)


def test_initialisers_are_not_run_where_the_parameters_are_there():
    asked = []

    def draw(key, shape, dtype):
        asked.append(shape)
        return jnp.full(shape, 0.5, dtype)

    layer = Conv(5, kernel_init=draw)
    variables = layer.init(jax.random.key(0), IMAGES)
    assert asked == [(3, 3, 3, 5)]
    jax.jit(layer.apply)(variables, IMAGES)
    assert asked == [(3, 3, 3, 5)]


def test_parameters_that_flax_has_boxed_are_used_as_they_are():
    layer = BatchNorm(scale_init=nn.with_partitioning(nn.initializers.constant(2.0), ("channels",)))
    variables = layer.init(jax.random.key(0), IMAGES)
    assert isinstance(variables["params"]["scale"], nn.Partitioned)
    assert jnp.array_equal(layer.apply(variables, IMAGES), layer.apply(nn.unbox(variables), IMAGES))
