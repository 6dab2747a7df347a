"""Learning rates at every boundary, updates against PyTorch's, weight decay and freezing."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from training_flax import RECIPES, TrainConfig, learning_rate, make_optimizer
from training_flax.config.optimizers import OPTIMIZERS, check_momentum
from training_flax.learn.freeze import check_patterns, frozen_leaves
from training_flax.learn.optimizers import kernels, peak_rate

GOLDEN = Path(__file__).parents[2] / "golden" / "sgd.npz"


def rates_at(config, total, steps):
    rate = learning_rate(config, total)
    return [float(rate(step)) for step in steps]


def test_he2015_divides_by_ten_at_32k_and_48k_of_64k():
    config = RECIPES["he2015-cifar"].config
    assert config.steps == 64_000
    steps = [0, 31_999, 32_000, 47_999, 48_000, 63_999]
    np.testing.assert_allclose(rates_at(config, 64_000, steps), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_a_hundred_layers_warm_up_at_a_hundredth_for_400_steps():
    config = RECIPES["he2015-cifar-deep"].config
    steps = [0, 399, 400, 31_999, 32_000, 48_000]
    np.testing.assert_allclose(rates_at(config, 64_000, steps), [0.01, 0.01, 0.1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_huang2017_divides_at_half_and_three_quarters_of_300_epochs():
    total = 300 * 50_000 // 64
    steps = [0, total // 2 - 1, total // 2 + 1, total * 3 // 4 - 1, total * 3 // 4 + 1]
    config = RECIPES["huang2017-cifar"].config
    np.testing.assert_allclose(rates_at(config, total, steps), [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_imagenet_divides_every_30_of_90_epochs():
    total = 90 * 5000
    steps = [0, 149_999, 150_000, 299_999, 300_000, 449_999]
    config = RECIPES["he2015-imagenet"].config
    np.testing.assert_allclose(rates_at(config, total, steps), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_goyal2017_scales_with_the_batch_and_warms_up_for_five_epochs():
    config, epoch = RECIPES["goyal2017"].config, 156
    assert peak_rate(config) == pytest.approx(0.1 * 8192 / 256)
    assert peak_rate(replace(config, batch_size=256)) == pytest.approx(0.1)
    steps = [0, 5 * epoch // 2, 5 * epoch, 30 * epoch - 1, 30 * epoch, 60 * epoch, 80 * epoch]
    expected = [0.1, 1.65, 3.2, 3.2, 0.32, 0.032, 0.0032]
    np.testing.assert_allclose(rates_at(config, 90 * epoch, steps), expected, rtol=1e-5)


def test_a3_warms_up_and_falls_by_a_cosine_to_nothing():
    """The cosine begins with the training, so the rate jumps down at the end of the warm-up, as timm's does."""
    config = RECIPES["a3"].config
    rates = rates_at(config, 1000, [0, 49, 50, 500, 750, 1000])
    cosine = [4e-3 * (1 + np.cos(np.pi * share)) for share in (0.05, 0.5, 0.75)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4 + 7.9e-3 * 0.98, *cosine, 0], rtol=1e-5, atol=1e-9)
    rates = rates_at(replace(config, schedule="cosine"), 1000, [0, 50, 525, 1000])
    np.testing.assert_allclose(rates, [1e-4, 8e-3, 4e-3, 0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["plain", "decay", "momentum", "nesterov"])
def test_updates_are_pytorchs(x64, name):
    """Twenty steps equal those of torch.optim.SGD, with a learning rate that falls half-way."""
    arrays = np.load(GOLDEN)
    settings = {
        "plain": dict(momentum=0.0, weight_decay=0.0, nesterov=False),
        "decay": dict(momentum=0.0, weight_decay=1e-2, nesterov=False),
        "momentum": dict(momentum=0.9, weight_decay=1e-4, nesterov=False),
        "nesterov": dict(momentum=0.9, weight_decay=1e-2, nesterov=True),
    }[name]
    config = TrainConfig("resnet20", recipe="he2015-cifar", decay_at=(0.5,), lr=0.1, **settings)
    optimizer = make_optimizer(config, 20)
    weight = jnp.asarray(arrays["start"])
    state = optimizer.init(weight)
    for gradient, expected in zip(arrays["gradients"], arrays[name], strict=True):
        updates, state = optimizer.update(jnp.asarray(gradient), state, weight)
        weight = optax.apply_updates(weight, updates)
        np.testing.assert_allclose(weight, expected, rtol=1e-12, atol=1e-13)


PARAMS = {"conv1": {"kernel": jnp.ones((3, 3, 2, 2))}, "bn1": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}


@pytest.mark.parametrize(("decay", "moved"), [("all", {"kernel", "scale", "bias"}), ("kernels", {"kernel"})])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_decays_is_what_the_recipe_says(optimizer, decay, moved):
    config = TrainConfig(
        "resnet20", optimizer=optimizer, decay=decay, weight_decay=0.1, schedule="constant", warmup=0.0
    )
    made = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = made.update(zeros, made.init(PARAMS), PARAMS)
    names = {path[-1].key for path, leaf in jax.tree_util.tree_leaves_with_path(updates) if np.any(abs(leaf) > 5e-5)}
    assert names == moved  # yogi moves by 2e-5 without a gradient


def test_clipping_limits_the_norm_of_the_gradient():
    config = TrainConfig("resnet20", recipe="he2015-cifar", momentum=0.0, weight_decay=0.0, lr=1.0, clip_norm=0.5)
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(jax.tree.map(lambda leaf: 3 * leaf, PARAMS), optimizer.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)


def test_kernels_are_what_has_more_than_one_axis():
    assert kernels(PARAMS) == {"conv1": {"kernel": True}, "bn1": {"scale": False, "bias": False}}


def test_patterns_freeze_by_path():
    assert frozen_leaves(PARAMS, ["bn*"]) == {"conv1": {"kernel": False}, "bn1": {"scale": True, "bias": True}}
    assert frozen_leaves(PARAMS, ["*/kernel", "bn1/bias"]) == {
        "conv1": {"kernel": True},
        "bn1": {"scale": False, "bias": True},
    }
    with pytest.raises(ValueError, match=r"unknown freeze pattern 'conv2/\*'; did you mean 'conv1/\*'\?"):
        check_patterns(PARAMS, ["conv2/*"])
    with pytest.raises(ValueError, match=r"freeze leaves nothing to train; given '\*'"):
        check_patterns(PARAMS, ["*"])


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.02, 0.0])
def test_six_steps_of_lamb_are_timms(x64, decay):
    """What does not decay has no trust ratio; without decay nothing has one; gradients are clipped to the norm 1."""
    arrays = np.load(GOLDEN.with_name("lamb.npz"))
    rates = jnp.asarray(arrays["rates"])
    config = replace(RECIPES["a3"].config, weight_decay=decay)
    optimizer = make_optimizer(config, 6, lambda step: rates[jnp.asarray(step, int)])
    names = [name.removeprefix("start/") for name in arrays if name.startswith("start/")]

    def tree(start, *step):
        leaves = {name: jnp.asarray(arrays[f"{start}/{name}"][step]) for name in names}
        return unflatten_dict(leaves, sep=".")

    params = tree("start")
    state = optimizer.init(params)
    for step in range(6):
        updates, state = optimizer.update(tree("gradients", step), state, params)
        params = optax.apply_updates(params, updates)
        for name, ours in flatten_dict(params, sep=".").items():
            np.testing.assert_allclose(ours, arrays[f"{decay}/{step}/{name}"], rtol=1e-12, atol=1e-13, err_msg=name)


def moved_by(name, params, gradients, **options):
    """Returns the parameters after a step for each of the gradients."""
    config = TrainConfig("resnet20", optimizer=name, lr=0.1, schedule="constant", warmup=0.0, **options)
    optimizer = make_optimizer(config, len(gradients))
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_table_tells_if_updates_are_elementwise(x64, name):
    """Blocks that are stacked in one array move as they do apart, unless an optimizer sees an array as a whole."""
    rng = np.random.default_rng(0)
    pairs = [np.stack([scale * rng.standard_normal((130, 128)) for scale in scales]) for scales in ((1, 10), (3, 0.1))]
    start, *steps = ({"rest": {"kernel": jnp.asarray(pair)}} for pair in (*pairs, pairs[1] + 1))
    single, *gradients = (
        {name: {"kernel": tree["rest"]["kernel"][i]} for i, name in enumerate("ab")} for tree in (start, *steps)
    )
    stacked = moved_by(name, start, steps, weight_decay=0.1)["rest"]["kernel"]
    apart = moved_by(name, single, gradients, weight_decay=0.1)
    # A few roundings of the largest weight, 40: a mean over a whole array makes far more.
    same = np.allclose(stacked, np.stack([apart[name]["kernel"] for name in "ab"]), rtol=0, atol=1e-13)
    assert same == OPTIMIZERS[name].elementwise


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("sgd", "lamb")])
def test_the_table_tells_how_weights_decay(name):
    """Without a gradient decoupled weights shrink by lr times weight decay at each step.

    So do SGD's, whose gradient the decay is; LAMB's ratio of norms takes the decay out.
    """
    rng = np.random.default_rng(0)
    start = {"kernel": jnp.asarray(rng.uniform(1, 2, (3, 4)), jnp.float32)}
    end = moved_by(name, start, 8 * [{"kernel": jnp.zeros((3, 4))}], weight_decay=0.1)
    shrunk = np.allclose(end["kernel"], (1 - 0.1 * 0.1) ** 8 * start["kernel"], rtol=1e-5)
    assert shrunk == (OPTIMIZERS[name].decay == "weights")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_is_used_where_the_table_says_so(name):
    rng = np.random.default_rng(0)
    start = {"kernel": jnp.asarray(rng.uniform(1, 2, (3, 4)), jnp.float32)}
    gradients = [{"kernel": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)} for _ in range(3)]
    ends = [
        moved_by(name, start, gradients, momentum=m, nesterov=n) for m, n in ((0.5, False), (0.9, False), (0.9, True))
    ]
    for end in ends[1:]:
        assert (not np.array_equal(end["kernel"], ends[0]["kernel"])) == OPTIMIZERS[name].momentum


def test_a_momentum_that_would_have_no_effect_is_refused():
    for name, about in OPTIMIZERS.items():
        check_momentum(name, None, None)
        check_momentum(name, 0.0, False)
        if about.momentum or name in ("adamw", "lamb"):
            check_momentum(name, 0.8, True)
            continue
        with pytest.raises(ValueError) as error:
            check_momentum(name, 0.8, None)
        assert str(error.value) == (f"momentum is for sgd, rmsprop, lars; {name} keeps Optax's own values; given 0.8")
        with pytest.raises(ValueError, match=f"^nesterov is for sgd, rmsprop, lars; {name} keeps .* given True$"):
            check_momentum(name, None, True)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Adam", "adam"), ("adm", "adam"), ("rms_prop", "rmsprop"), ("AdamW", "adamw"), ("SGD", "sgd"), ("best", None)],
)
def test_an_unknown_optimizer_suggests_the_nearest(name, meant):
    hint = f"did you mean '{meant}'" if meant else "allowed: 'sgd', 'rmsprop'"
    with pytest.raises(ValueError, match=f"^unknown optimizer '{name}'; {hint}"):
        make_optimizer(TrainConfig("resnet20", optimizer=name), 10)


def states_survive(tmp_path, names):
    script = Path(__file__).parents[2] / "helpers" / "optimizer_states.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *names], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(names)


@pytest.mark.slow
def test_factored_states_survive_a_stop(tmp_path):
    """Two steps with a checkpoint between them, sharded over four devices, end with the bits of two without."""
    states_survive(tmp_path, ["adafactor"])


@pytest.mark.slow
def test_all_states_survive_a_stop(tmp_path):
    states_survive(tmp_path, [name for name in OPTIMIZERS if name != "adafactor"])


def test_the_docs_have_each_optimizer_with_what_its_options_mean():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    rows = [
        line.strip("|").split("|") for line in page.split("## Optimizers")[1].splitlines() if line.startswith("| `")
    ]
    listed = {name: row[1:] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert list(listed) == sorted(OPTIMIZERS, key=list(listed).index)
    for name, (decay, momentum, update) in listed.items():
        about = OPTIMIZERS[name]
        assert ("decoupled" in decay) == (about.decay == "weights")
        assert bool(momentum.strip()) == about.momentum
        assert ("each number" in update) == about.elementwise
