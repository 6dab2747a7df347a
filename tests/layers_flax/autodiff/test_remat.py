"""Rematerialised blocks draw in the backward pass the random numbers of the forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from layers_flax import Dropout
from resnet_flax import BasicBlock, PreActBasicBlock, ResNet


class DroppingBlock(BasicBlock):
    """A block that drops values twice, by a layer of ours and by one of Flax."""

    def setup(self):
        super().setup()
        self.first, self.second = Dropout(0.3), nn.Dropout(0.5)

    def branches(self, x, train=False):
        skip, residual = super().branches(self.first(x, train), train)
        return skip, self.second(residual, deterministic=not train)


@pytest.mark.parametrize(
    ("block", "options"),
    [
        (BasicBlock, dict(drop_path=0.4)),
        (PreActBasicBlock, dict(drop_path=0.4)),
        (BasicBlock, dict(drop_path=0.4, scan=True)),
        (DroppingBlock, {}),
    ],
)
@pytest.mark.parametrize("compile", [jax.jit, lambda function: function], ids=["jit", "eager"])
def test_gradients_are_those_without_remat(x64, block, options, compile):
    images = jax.random.normal(jax.random.key(7), (4, 8, 8, 3), jnp.float64)

    def gradient(**more):
        options = dict(num_classes=3, stem_type="cifar", width=4, param_dtype=jnp.float64, **more)
        model = ResNet((2, 2), block, **options)
        variables = model.init(jax.random.key(0), images)

        def loss(params):
            rngs = {"dropout": jax.random.key(3)}
            variables_now = {**variables, "params": params}
            logits, _ = model.apply(variables_now, images, train=True, mutable=["batch_stats"], rngs=rngs)
            return jnp.square(logits).sum()

        return compile(jax.value_and_grad(loss))(variables["params"])

    (plain, expected), (again, found) = gradient(**options), gradient(**options, remat=True)
    assert float(plain) == pytest.approx(float(again), rel=1e-13)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    # Sums of some hundred terms in float64, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12 * scale), found, expected)
