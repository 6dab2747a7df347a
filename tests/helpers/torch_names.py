"""What the exchange of variables with PyTorch keeps to, for one network of either family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def drawn_state_dict(package, model, channels=3):
    """A state dict of the network's own names with random float32 values."""
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
    return package.to_torch(model, variables)


def check_round_trip(package, model):
    """to_torch(from_torch(s)) == s, bit for bit, types included."""
    state_dict = drawn_state_dict(package, model)
    back = package.to_torch(model, package.from_torch(model, state_dict))
    assert back.keys() == state_dict.keys()
    for name, value in state_dict.items():
        assert back[name].dtype == value.dtype
        assert np.array_equal(back[name], value), name


def check_wrappers_and_counters(package, model):
    """A `module.` prefix and PyTorch's batch counters make no difference."""
    state_dict = drawn_state_dict(package, model)
    wrapped = {f"module.{name}": value for name, value in state_dict.items()}
    wrapped |= {f"module.{n[:-12]}num_batches_tracked": np.array(7) for n in state_dict if n.endswith("running_mean")}
    ours, theirs = package.from_torch(model, wrapped), package.from_torch(model, state_dict)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def check_errors(package, model, first, second):
    """Missing, unused and misshapen entries are named, all at once."""
    state_dict = drawn_state_dict(package, model)
    wrong = {name: value for name, value in state_dict.items() if name != first}
    wrong |= {"stranger.weight": np.zeros(3), second: state_dict[second][..., None]}
    with pytest.raises(ValueError) as error:
        package.from_torch(model, wrong)
    message = str(error.value)
    shape = state_dict[second].shape
    assert f"missing: {first}" in message
    assert "unused: stranger.weight" in message
    assert f"misshapen: {second} {(*shape, 1)}, not {shape}" in message
    assert "\n" not in message


def check_parts_of_variables(package, model):
    """Gradients, a bare tree of them, and changed statistics go under the same names."""
    variables = package.from_torch(model, drawn_state_dict(package, model))
    whole = package.to_torch(model, variables)
    params = package.to_torch(model, {"params": variables["params"]})
    assert package.to_torch(model, variables["params"]).keys() == params.keys()
    stats = package.to_torch(model, {"batch_stats": variables["batch_stats"]})
    assert params.keys() | stats.keys() == whole.keys()
    assert not params.keys() & stats.keys()
    with pytest.raises(ValueError, match="no PyTorch name for 'params/conv1/wrong'"):
        package.to_torch(model, {"conv1": {"wrong": np.zeros(3)}})
