"""Families of functions: nested ones only come nearer to a target, others do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax import BasicBlock, PlainNet, ResNet
from theory_flax import distance_bound, fit_families, gain_bound, reach
from theory_flax.nesting.experiment import POINTS, RADIUS, WIDTH, targets

SEEDS = 5


def towers(kind, depths):
    return [kind((depth,), BasicBlock, num_classes=1, stem_type="cifar", width=WIDTH) for depth in depths]


def fits(kind, depths, steps=150, names=None):
    """Distances (families, targets, seeds), and all fits."""
    names = names or tuple(targets())
    goals = np.repeat([targets()[name] for name in names], SEEDS, 0)
    found = fit_families(
        towers(kind, depths), POINTS, goals, radius=RADIUS, steps=steps, seeds=list(range(SEEDS)) * len(names)
    )
    assert np.all(found.norms <= RADIUS * (1 + 1e-5))
    return found.distances.reshape(len(depths), len(names), SEEDS), found


@pytest.mark.slow
def test_residual_families_only_come_nearer_and_plain_ones_go_away_again():
    """Fits five targets from five seeds. The deepest plain towers are farther away for any search."""
    depths = (1, 2, 8)
    residual, found = fits(ResNet, depths)
    assert np.all(np.diff(residual, axis=0) <= 1e-6)
    assert np.all(residual[-1] > 0)  # the targets are outside all families
    np.testing.assert_allclose(found.embedded[1:], found.distances[:-1], rtol=1e-6)
    assert (residual[-1] < residual[0] - 1e-3).mean() > 0.5  # more blocks do help

    plain, found = fits(PlainNet, depths)
    # A start with dead ReLUs alone never gets better than a constant, and then depth cannot make it worse.
    constants = np.std(list(targets().values()), axis=1)[:, None]
    alive = plain.min(0) < 0.99 * constants
    assert np.all(alive.sum(1) >= SEEDS - 1)
    assert np.all(plain[-1][alive] > plain.min(0)[alive])
    bound = [
        distance_bound(POINTS, goal, gain_bound(towers(PlainNet, depths)[-1], RADIUS)) for goal in targets().values()
    ]
    assert np.all(plain[-1] >= np.array(bound)[:, None])
    nearest = plain[:-1].min((0, 2))
    assert np.all(nearest < bound)
    assert np.all(found.embedded[1:] >= found.distances[1:] - 1e-6)


@pytest.mark.slow
def test_a_fit_is_a_member_of_the_deeper_family():
    distances, found = fits(ResNet, (1, 2), steps=40, names=("sine",))
    assert np.all(np.diff(distances, axis=0) <= 1e-6)
    np.testing.assert_allclose(found.embedded[1], found.distances[0], rtol=1e-6)
    errors = np.sqrt(np.square(found.values - targets()["sine"]).mean(-1))
    np.testing.assert_allclose(errors, found.distances, rtol=1e-4)
    assert np.isnan(found.embedded[0]).all()
    assert np.std(found.distances[0]) > 0  # seeds differ


@pytest.mark.parametrize("depth", [1, 3])
def test_no_plain_tower_in_the_ball_changes_faster_than_its_bound(x64, depth):
    """Checks random towers, and towers at the bound: one channel, all factors equal."""
    radius = 4.0
    (tower,) = towers(PlainNet, [depth])
    variables = jax.jit(tower.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 1)))
    bound = gain_bound(tower, radius)
    x = jnp.linspace(0, 1, 9)

    @jax.jit
    def slope(params):
        norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params)))
        params = jax.tree.map(lambda leaf: radius / norm * leaf, params)
        y = tower.apply({**variables, "params": params}, x[:, None, None, None])[:, 0]
        return jnp.abs(jnp.diff(y) / jnp.diff(x)).max()

    leaves, structure = jax.tree.flatten(variables["params"])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = [jnp.asarray(np.abs(rng.normal(size=leaf.shape))) for leaf in leaves]
        assert slope(jax.tree.unflatten(structure, drawn)) <= bound

    def single(path, leaf):
        if path[-1].key == "kernel":
            return jnp.zeros_like(leaf).at[(1, 1, 0, 0) if leaf.ndim == 4 else (0, 0)].set(1)
        return jnp.zeros_like(leaf).at[0].set(path[-1].key == "scale")

    assert slope(jax.tree_util.tree_map_with_path(single, variables["params"])) == pytest.approx(bound, rel=1e-3)


def test_the_bound_falls_to_nothing_with_depth():
    gains = [gain_bound(tower, RADIUS) for tower in towers(PlainNet, [1, 2, 4, 8, 16])]
    assert gains[0] > 100
    assert gains[-1] < 1e-6
    sine = targets()["sine"]
    bounds = [distance_bound(POINTS, sine, gain) for gain in gains]
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(np.std(sine), rel=1e-3)  # only constants are left


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0])
def test_the_distance_bound_holds_for_functions_that_change_so_slowly(gain):
    goal = targets()["steps"]
    bound = distance_bound(POINTS, goal, gain)
    for slope in np.linspace(-gain, gain, 7):
        for c in np.linspace(-1, 1, 9):
            assert np.sqrt(np.square(slope * POINTS + c - goal).mean()) >= bound - 1e-9
    assert distance_bound(POINTS, gain * POINTS + 2, gain) == pytest.approx(0, abs=1e-9)


def test_reach_reads_where_the_distance_passes_a_level():
    lengths = np.array([0.5, 1.0, 2.0])
    exact = np.array([[0.0, 0.5, 1.5], [0.0, 0.0, 0.0], [0.5, 1.0, 2.0]])
    np.testing.assert_allclose(reach(lengths, exact, 0.5), [1.0, 2.0, 0.5])
    # The search missed: a family near to a function is, in proportion, near to all its multiples below 1.
    np.testing.assert_allclose(reach(lengths, np.array([0.5, 0.1, 1.0]), 0.1), 1.0)


def test_wrong_input_is_refused():
    goals = np.ones((2, len(POINTS)))
    options = dict(radius=1.0, steps=1)
    with pytest.raises(ValueError, match=r"deeper than the one before; given depths \[2, 1\]"):
        fit_families(towers(ResNet, [2, 1]), POINTS, goals, **options)
    with pytest.raises(ValueError, match="radius must be over 0; given -1"):
        fit_families(towers(ResNet, [1]), POINTS, goals, radius=-1, steps=1)
    with pytest.raises(ValueError, match="as many as targets: 2; given 3"):
        fit_families(towers(ResNet, [1]), POINTS, goals, seeds=[1, 2, 3], **options)
    with pytest.raises(ValueError, match="given ResNet, PlainNet"):
        fit_families([*towers(ResNet, [1]), *towers(PlainNet, [2])], POINTS, goals, **options)
    with pytest.raises(ValueError, match="bound is that of plain towers; given a ResNet"):
        gain_bound(towers(ResNet, [1])[0], 1.0)
