"""Traced networks: totals that equal the counts, depths that equal the names, connections that equal the papers'."""

import json
import re
from collections import Counter

import pytest
from flax import linen as nn
from PIL import Image

from layers_flax import count_multiply_adds, count_parameters
from resnet_flax import BasicBlock, ResNet, plain34, resnet20, resnet34, vgg19
from theory_flax import architecture, by_stage, shortcuts
from theory_flax.__main__ import main
from theory_flax.architectures.claim import blocks, main_path, shown
from training_flax import ARCHS, TrainConfig, fit

SOME = ("vgg19_bn", "plain34", "resnet50", "resnet34_v2", "resnext50_32x4d", "densenet_40_12", "densenet_bc_40_12")


def image_shape(model):
    size = 32 if getattr(model, "stem_type", "imagenet") == "cifar" else 224
    return size, size, 3


def trace(arch, **options):
    model = ARCHS[arch](**options)
    return architecture(model, image_shape(model), arch)


def check_totals(arch):
    model, found = ARCHS[arch](), trace(arch)
    assert found.parameters == count_parameters(model, found.image_shape)
    assert found.multiply_adds == count_multiply_adds(model, found.image_shape)
    stages = by_stage(found)
    assert sum(stage.parameters for stage in stages) == found.parameters
    assert sum(row.multiply_adds for stage in stages for row in stage.rows) == found.multiply_adds


@pytest.mark.parametrize("arch", SOME)
def test_the_layers_add_up_to_the_network(arch):
    check_totals(arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(set(ARCHS) - set(SOME)))
def test_the_layers_add_up_to_the_network_in_every_architecture(arch):
    check_totals(arch)


def test_multiply_adds_are_those_of_the_papers_figure_3():
    """The caption says: VGG-19 19.6 billion FLOPs, the plain and the residual network of 34 layers 3.6 billion each.

    The residual network has option A, as in the paper: projections would add .02 billion.
    """
    for model, billions in ((vgg19(), 19.6), (plain34(), 3.6), (resnet34(shortcut="A"), 3.6)):
        assert round(architecture(model).multiply_adds / 1e9, 1) == billions


@pytest.mark.parametrize("arch", ["vgg19", "plain34", "resnet34", "resnet50", "resnet56_v2", "densenet_bc_40_12"])
def test_layers_with_weights_on_the_main_path_are_as_many_as_the_name_says(arch):
    found = trace(arch)
    weighty = [i for i in main_path(found) if found.layers[i].kind in ("conv", "fc")]
    assert len(weighty) == int(re.findall(r"\d+", arch)[0])


def test_vgg_is_the_table_of_its_paper():
    """Simonyan 2015, table 1, E: 3×3 convolutions, a max pool behind each stage, three dense layers."""
    found = trace("vgg19")
    rows = [[(row.what, row.count, row.size) for row in stage.rows] for stage in by_stage(found)]
    widths, counts, sizes = (64, 128, 256, 512, 512), (2, 2, 4, 4, 4), (224, 112, 56, 28, 14)
    for stage, width, count, size in zip(rows, widths, counts, sizes, strict=False):
        assert stage == [
            (f"3×3 conv, {width}", count, (size, size)),
            ("2×2 max pool, /2", 1, (size // 2, size // 2)),
        ]
    assert rows[5] == [("fc, 4096", 2, (1, 1)), ("fc, 1000", 1, (1, 1))]


@pytest.mark.parametrize(
    ("shortcut", "kinds"),
    [
        ("A", {"identity": 13, "zero padding": 3}),
        ("B", {"identity": 13, "projection": 3}),
        ("C", {"projection": 16}),
    ],
)
@pytest.mark.parametrize("arch", ["resnet34", "resnet34_v2"])
def test_shortcuts_skip_two_convolutions_each(arch, shortcut, kinds):
    found = trace(arch, shortcut=shortcut)
    boxes, arcs = shown(found), shortcuts(found)
    assert Counter(arc.kind for arc in arcs) == kinds
    assert all(boxes.index(arc.end) - boxes.index(arc.start) == 2 for arc in arcs)
    assert [arc.start for arc in arcs[1:]] == [arc.end for arc in arcs[:-1]]


def test_without_additions_there_are_no_shortcuts():
    assert shortcuts(trace("vgg19_bn")) == shortcuts(trace("plain34")) == ()
    assert shortcuts(architecture(ResNet((1, 1), BasicBlock, shortcut=None))) == ()


@pytest.mark.parametrize("arch", ["densenet_40_12", "densenet_bc_40_12"])
def test_every_layer_of_a_dense_block_reads_all_earlier_ones(arch):
    """L layers, with the input and the reader of the block, have L (L + 1) / 2 connections beside the main path."""
    found = trace(arch)
    convs = 2 if "bc" in arch else 1
    boxes, size = shown(found), 12 // convs
    places = {(boxes.index(arc.start), boxes.index(arc.end)) for arc in shortcuts(found)}
    assert {arc.kind for arc in shortcuts(found)} == {"concatenation"}
    expected = set()
    for first in (0, convs * size + 2, 2 * (convs * size + 2)):  # stem or pool; then layers and a transition of two
        makers = [first + convs * layer for layer in range(size + 1)]
        readers = [first + convs * layer + 1 for layer in range(size + 1)]
        expected |= {(maker, reader) for maker in makers for reader in readers if maker < reader - 1}
    assert places == expected
    assert len(places) == 3 * size * (size + 1) // 2


def test_options_that_change_no_layer_change_no_trace():
    assert trace("resnet20", remat=True).layers == trace("resnet20").layers
    assert trace("densenet_bc_40_12", remat=True).layers == trace("densenet_bc_40_12").layers


def test_equal_blocks_that_follow_each_other_are_merged():
    found = trace("resnet56_v2")
    assert [block.times for block in blocks(found)] == [1, 9, 1, 8, 1, 8, 1, 1]
    assert sum(len(block.layers) * block.times for block in blocks(found)) == len(shown(found))
    assert tuple(index for block in blocks(found, merge=False) for index in block.layers) == shown(found)


@pytest.mark.slow
def test_other_modules_and_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Dense is none"):
        architecture(nn.Dense(3))
    with pytest.raises(ValueError, match="does not fit"):
        architecture(ARCHS["densenet121"](), (16, 16, 3))


def test_the_command_writes_a_figure_of_a_page_and_a_table(tmp_path, capsys):
    assert main(["architectures", "--arch", "densenet_bc_40_12", "resnet20_v2", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "densenet_bc_40_12 on 32×32×3: 176,122 parameters" in printed
    assert "7 of identity, 2 of zero padding" in printed
    picture = tmp_path / "architectures.png"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.width > 500
    networks = json.loads((tmp_path / "architectures.json").read_text())["result"]
    assert [network["parameters"] for network in networks] == [176122, 269722]


@pytest.mark.slow
def test_the_network_of_a_run_is_shown_as_it_was_trained(tmp_path, capsys):
    fit(TrainConfig("resnet20", steps=1, width=4, augment=(), out=tmp_path / "run"))
    assert main(["architectures", "--run", str(tmp_path / "run"), "--out", str(tmp_path)]) == 0
    assert f"resnet20 on 32×32×3: {count_parameters(resnet20(width=4), (32, 32, 3)):,} param" in capsys.readouterr().out
