"""What every network keeps to: explicit state, parts that compose, images of any kind."""

import jax
import jax.numpy as jnp
import numpy as np


def init(model, images):
    """Variables as the network draws them."""
    return model.init(jax.random.key(0), images, train=False)


def check_contract(model, images):
    """Exactly two collections; apply gives logits and batch_stats; calling it twice gives the same."""
    variables = init(model, images)
    assert set(variables) == {"params", "batch_stats"}
    rngs = {"dropout": jax.random.key(1)}

    def train(variables):
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)

    logits, updates = jax.jit(train)(variables)
    assert logits.shape == (len(images), model.num_classes)
    assert set(updates) == {"batch_stats"}
    assert jax.tree.structure(updates["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    again, _ = jax.jit(train)(variables)
    np.testing.assert_array_equal(logits, again)
    assert np.all(np.isfinite(logits))
    return variables


def check_parts_compose(model, images, stages):
    """Stem, stages and head, called one by one with the same variables, are the network."""
    variables = init(model, images)

    def parts(variables):
        x = model.apply(variables, images, method="stem")
        for index in range(stages):
            x = model.apply(variables, x, index, method="stage")
        return model.apply(variables, x, method="head")

    whole = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(jax.jit(parts)(variables), whole, rtol=1e-5, atol=1e-5)


def check_narrow_compute(model, images):
    """Under bfloat16 parameters, statistics and logits stay float32, and logits are near the float32 network's."""
    narrow = model.clone(dtype=jnp.bfloat16)
    variables = init(model, images)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, variables, init(narrow, images)))
    logits, updates = jax.jit(lambda v: narrow.apply(v, images, train=True, mutable=["batch_stats"]))(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates, logits))} == {jnp.dtype(jnp.float32)}
    # In eval mode, where no statistics of few values magnify rounding: bfloat16 rounds by up to 2^-9, and each of
    # some 20 layers adds a few roundings of its own.
    close, wide = jax.jit(narrow.apply)(variables, images), jax.jit(model.apply)(variables, images)
    error = float(jnp.abs(close - wide).max() / jnp.abs(wide).max())
    assert 0 < error <= 60 * 2**-9


def draw_images(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
