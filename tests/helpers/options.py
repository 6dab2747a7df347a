"""What options that both families have must do, whatever the network."""

import jax
import jax.numpy as jnp
import numpy as np
from laws import assert_close


def train_scalar(model, variables, images, key=0):
    """A scalar of the logits in training as a function of the parameters; beside it logits and new statistics."""

    def scalar(params):
        logits, updates = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(key)},
        )
        return jnp.square(logits).sum(), (logits, updates["batch_stats"])

    return scalar


def compiled_gradient(scalar, params):
    """The compiled gradient of a scalar with auxiliary output, and the megabytes that it needs beside its arguments."""
    compiled = jax.jit(jax.grad(scalar, has_aux=True)).lower(params).compile()
    return compiled, compiled.memory_analysis().temp_size_in_bytes / 1e6


def check_remat(model, variables, images, less_than):
    """Running blocks again in the backward pass changes no number, and takes less memory, once compiled."""
    scalars = [train_scalar(m, variables, images) for m in (model, model.clone(remat=True))]
    (plain, kept), (again, kept_again) = (compiled_gradient(scalar, variables["params"]) for scalar in scalars)
    # The same sums in another order; before a BatchNorm, gradients of scales are small differences of large numbers.
    assert_close(again(variables["params"]), plain(variables["params"]), 1e-10)
    assert 0 < kept_again < less_than * kept


def check_frozen_batch_norm(model, variables, images):
    """In training the logits are those of evaluation, and the statistics stay, while gradients flow."""
    scalar = train_scalar(model.clone(frozen_batch_norm=True), variables, images)
    gradient, (logits, batch_stats) = jax.jit(jax.grad(scalar, has_aux=True))(variables["params"])
    assert_close(logits, jax.jit(model.apply)(variables, images), 1e-12)
    jax.tree.map(np.testing.assert_array_equal, batch_stats, variables["batch_stats"])
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))
