"""A network run on a few images at a time is the same function, with the same derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close, derivatives, random_like

from layers_flax import in_chunks, target_backend
from layers_flax.conv import chunks
from weights_flax import build_model, fold_batch_norm

PIXELS = 32


@pytest.fixture(autouse=True)
def two_images_at_once(x64, monkeypatch):
    monkeypatch.setattr(chunks, "PIXELS_AT_ONCE", 2 * PIXELS**2 + 5)


def mixing(variables, images):
    """A function of each image by itself, quadratic in both arguments."""
    return jnp.square(images.mean((1, 2)) @ variables["kernel"] + variables["bias"])


def arguments(batch):
    rng = np.random.default_rng(0)
    variables = {"kernel": jnp.asarray(rng.standard_normal((3, 4))), "bias": jnp.asarray(rng.standard_normal(4))}
    return variables, jnp.asarray(rng.standard_normal((batch, PIXELS, PIXELS, 3)))


@pytest.mark.parametrize(("batch", "count"), [(4, 2), (6, 3), (3, 3), (7, 7)])
def test_the_batch_is_divided_and_nothing_changes(batch, count):
    variables, images = arguments(batch)
    run = jax.jit(partial(in_chunks, mixing))
    inner = jax.make_jaxpr(run)(variables, images).jaxpr.eqns[0].params["jaxpr"].jaxpr.eqns[0].params["call_jaxpr"]
    assert [eqn.params["length"] for eqn in inner.jaxpr.eqns if eqn.primitive.name == "scan"] == [count]
    assert_close(run(variables, images), mixing(variables, images), 1e-15)


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_what_is_no_larger_than_a_piece_is_not_divided(batch):
    assert in_chunks(mixing, *arguments(batch)) is None


def test_several_devices_and_accelerators_get_the_whole_batch(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert in_chunks(mixing, *arguments(4)) is None
    monkeypatch.undo()
    monkeypatch.setattr(chunks, "PIXELS_AT_ONCE", 2 * PIXELS**2)
    with target_backend("gpu"):
        assert in_chunks(mixing, *arguments(4)) is None


def test_a_batch_whose_size_is_a_symbol_is_not_divided():
    variables, images = arguments(4)
    (batch,) = jax.export.symbolic_shape("b")
    seen = []
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    jax.eval_shape(lambda images: seen.append(in_chunks(mixing, variables, images)), shape)
    assert seen == [None]


def test_derivatives_of_first_and_second_order_and_in_a_batch():
    args = arguments(4)
    ours, theirs = (derivatives(function, args) for function in (partial(in_chunks, mixing), mixing))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-13), ours, theirs)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), args)
    assert_close(jax.vmap(partial(in_chunks, mixing))(*many), jax.vmap(mixing)(*many), 1e-14)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20_v2", dict(width=4)),
        ("densenet_bc_40_12", dict(block_sizes=(2, 2, 2), growth_rate=4)),
    ],
)
def test_folded_networks_run_in_pieces_and_their_gradients_at_once(name, options):
    model = build_model(name, **options, param_dtype=jnp.float64)
    images = arguments(4)[1]
    variables = random_like(model.init(jax.random.key(0), images), 1)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    folded, values = fold_batch_norm(model, variables)
    assert "scan" in str(jax.make_jaxpr(folded.apply)(values, images))
    assert "scan" not in str(jax.make_jaxpr(model.apply)(variables, images))
    assert_close(jax.jit(folded.apply)(values, images), jax.jit(model.apply)(variables, images), 1e-12)
    gradient = jax.grad(lambda images: jnp.square(folded.apply(values, images)).sum())
    assert "scan" not in str(jax.make_jaxpr(gradient)(images))
