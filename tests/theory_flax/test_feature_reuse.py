"""Direct supervision by the loss, and reuse measured by weights: laws, twins, and the errors of the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from densenet_flax import DenseNet, densenet121, densenet_40_12, densenet_bc_40_12, feature_reuse
from layers_flax import count_parameters
from resnet_flax import BasicBlock, PlainNet, PreActBasicBlock, ResNet, vgg11
from theory_flax import PUBLISHED, of_same_depth, reuse_of, supervision
from theory_flax.__main__ import main
from theory_flax.base.estimates import estimate, geometric
from training_flax import ARCHS, TrainConfig, fit

DENSE = densenet_bc_40_12(block_sizes=(3, 2), growth_rate=4, num_classes=5)
NETWORKS = {
    "dense": DENSE,
    "dense without bottleneck": densenet_40_12(block_sizes=(3, 2), growth_rate=4, num_classes=5),
    "residual": ResNet((3, 2), BasicBlock, width=4, num_classes=5, stem_type="cifar"),
    "pre-activation": ResNet((3, 2), PreActBasicBlock, width=4, num_classes=5, stem_type="cifar", shortcut="A"),
    "plain": PlainNet((3, 2), BasicBlock, width=4, num_classes=5, stem_type="cifar"),
}


def init(model, seed=0):
    return model.init(jax.random.key(seed), jnp.zeros((1, 8, 8, 3)), train=False)


def batch(count=4):
    draw = np.random.default_rng(0)
    return jnp.asarray(draw.standard_normal((count, 8, 8, 3))), jnp.asarray(draw.integers(0, 5, count))


def gradients(model, variables, stage, hold):
    """∂L/∂h_l by a term added to h_l; with `hold`, later layers do not see this term."""
    images, labels = batch()
    dense = isinstance(model, DenseNet)
    bound = model.bind(variables)

    def loss(taps):
        x = bound.stem(images, True)
        for index in range(2):
            if index != stage:
                x = bound.stage(x, index, True)
                continue
            if dense and index > 0:
                x = bound.transitions[index - 1](x, True)
            blocks = bound.blocks[index].layers if dense else bound.stages[index]
            for block, tap in zip(blocks, taps, strict=True):
                seen = jax.lax.stop_gradient(x) if hold else x
                if dense:
                    x = jnp.concatenate([x, block(seen, True) + tap], -1)
                else:
                    x = block.branches(x, True)[0] + block.branches(seen, True)[1] + tap
                    x = x if block.pre_activation else nn.relu(x)
        logits = bound.head(x, True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    count = (model.block_sizes if dense else model.stage_sizes)[stage]
    size = 8 if stage == 0 else 4
    channels = model.growth_rate if dense else 4 * 2**stage
    return jax.grad(loss)([jnp.zeros((4, size, size, channels))] * count)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_both_parts_are_those_of_the_models_blocks(x64, name, stage):
    model = NETWORKS[name]
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(model))
    found = supervision(model, variables, *batch(), stage=stage, train=True)
    whole, direct = (gradients(model, variables, stage, hold) for hold in (False, True))
    np.testing.assert_allclose(found.total, [jnp.linalg.norm(part) for part in whole], rtol=1e-10)
    np.testing.assert_allclose(found.direct, [jnp.linalg.norm(part) for part in direct], rtol=1e-10, atol=1e-18)
    rest = [jnp.linalg.norm(all_ - part) for all_, part in zip(whole, direct, strict=True)]
    np.testing.assert_allclose(found.through_layers, rest, rtol=1e-9, atol=1e-15)
    shares = [jnp.vdot(part, all_) / jnp.vdot(all_, all_) for all_, part in zip(whole, direct, strict=True)]
    np.testing.assert_allclose(found.direct_share, shares, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_is_supervised_directly_alone_and_a_plain_networks_others_never(name):
    found = supervision(NETWORKS[name], init(NETWORKS[name]), *batch(), stage=0, train=True)
    assert found.direct_share[-1] == pytest.approx(1, abs=1e-6)
    assert found.through_layers[-1] <= 1e-6 * found.total[-1]
    if name == "plain":
        assert not found.direct[:-1].any()
    else:
        assert (found.direct > 0).all()


@pytest.mark.slow
def test_at_initialisation_dense_layers_get_more_directly_than_residual_blocks_of_the_same_depth():
    """Huang 2017, section 5: implicit deep supervision, for the first of six layers. 95 % intervals of five seeds."""
    dense = densenet_bc_40_12(block_sizes=(6,), growth_rate=12, num_classes=5)
    shares = []
    for model in (dense, of_same_depth(dense)[0]):
        found = [supervision(model, init(model, seed), *batch(16), stage=0, train=True) for seed in range(5)]
        shares.append(estimate([one.direct_share[0] for one in found]))
    assert shares[1].high < shares[0].low


def test_images_and_networks_that_cannot_be_taken_apart_are_refused():
    with pytest.raises(ValueError, match="VGG has none"):
        supervision(vgg11(), {}, *batch(), stage=0)
    with pytest.raises(ValueError, match="stage must be from 0 to 1; given 2"):
        supervision(DENSE, {}, *batch(), stage=2)
    with pytest.raises(ValueError, match="dropout would draw another network"):
        supervision(DENSE.clone(dropout=0.2), {}, *batch(), stage=0, train=True)


@pytest.mark.parametrize(
    ("model", "sizes", "width"),
    [
        (densenet_bc_40_12(), (6, 6, 6), 16),
        (densenet_40_12(), (6, 6, 6), 16),
        (densenet_40_12(block_sizes=(5, 4)), (3, 2), 16),
        (densenet121(num_classes=7), (6, 12, 24, 16), 64),
    ],
)
def test_twins_have_the_dense_networks_depth(model, sizes, width):
    for twin in of_same_depth(model):
        assert (twin.stage_sizes, twin.width, twin.num_classes) == (sizes, width, model.num_classes)
        assert twin.stem_type == model.stem_type
    shapes = [jax.eval_shape(twin.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))) for twin in of_same_depth(model)]
    assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, shapes[1])


def test_at_initialisation_all_sources_weigh_the_same():
    """All weights of a kernel are normal with one deviation σ: a source's mean |w| is σ √(2/π), within its error."""
    model = densenet_bc_40_12(num_classes=10)
    variables = init(model)
    for index, block in enumerate(feature_reuse(model, variables)):
        inputs = variables["params"][f"denseblock{index + 1}"]["denselayer1"]["conv1"]["kernel"].shape[2]
        for target in range(len(block) - 1):
            sigma = np.sqrt(2 / (inputs + 12 * target))
            counts = np.array([inputs] + [12] * target) * 48
            errors = sigma * np.sqrt((1 - 2 / np.pi) / counts)
            assert (np.abs(block[: target + 1, target] - sigma * np.sqrt(2 / np.pi)) < 4.5 * errors).all()
    assert max(reuse_of(feature_reuse(model, variables)).unevenness) < 0.05


def test_reuse_is_summed_up_as_said():
    nan = np.nan
    block = np.array([[4.0, 1, 2, 3], [nan, 2, 4, 3], [nan, nan, 4, 6], [nan, nan, nan, 12]])
    found = reuse_of([block])
    assert found.input_row == pytest.approx([(1 / 2 + 2 / 4) / 2])
    assert found.last_sources == pytest.approx([12 / 3])
    spreads = [np.std([1, 2]) / 1.5, np.std([2, 4, 4]) / (10 / 3), np.std([3, 3, 6, 12]) / 6]
    assert found.unevenness == pytest.approx([np.mean(spreads)])


def test_intervals_cover_the_mean_as_often_as_they_say():
    """95 % of 2,000 intervals of five normal values cover the mean, within 5 standard errors of that share."""
    values = np.random.default_rng(0).standard_normal((2000, 5)) + 3
    covered = np.mean([low < 3 < high for _, low, high in map(estimate, values)])
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 2000)
    assert np.isnan(estimate([1.0]).low)
    assert geometric([1.0, 4.0]).mean == pytest.approx(2)


def test_published_networks_are_ours_and_have_the_parameters_that_the_papers_give():
    """Compares with He 2015, table 6, and Huang 2017, table 2: millions, to the printed digits."""
    millions = {"resnet20": 0.27, "resnet110": 1.7, "densenet_40_12": 1.0, "densenet_bc_100_12": 0.8}
    assert {known.arch for known in PUBLISHED} <= set(ARCHS)
    for arch, printed in millions.items():
        digits = 2 if printed < 0.5 else 1
        assert round(count_parameters(ARCHS[arch](), (32, 32, 3)) / 1e6, digits) == printed


@pytest.mark.slow
def test_runs_of_a_densenet_are_shown_and_of_a_resnet_refused(tmp_path, capsys):
    common = dict(steps=2, augment=(), image_size=8)
    fit(TrainConfig("densenet_bc_40_12", growth_rate=4, out=tmp_path / "dense", **common))
    fit(TrainConfig("resnet20", width=4, out=tmp_path / "residual", **common))
    capsys.readouterr()
    command = ["feature_reuse", "--quick", "--out", str(tmp_path), "--run"]
    assert main([*command, str(tmp_path / "residual")]) == 2
    assert capsys.readouterr().err == "theory_flax: error: feature reuse is that of a DenseNet; given ResNet\n"
    assert main([*command, str(tmp_path / "dense")]) == 0
    result = json.loads((tmp_path / "feature_reuse.json").read_text())["result"]
    error = 100 * (1 - json.loads((tmp_path / "dense" / "summary.json").read_text())["test_accuracy"])
    assert result["points"][0]["error"]["mean"] == pytest.approx(error)
    assert [len(block) for block in result["weights"]] == [7, 7, 7]
    assert (tmp_path / "feature_reuse.png").stat().st_size < 150_000
