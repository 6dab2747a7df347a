"""Tables of networks: totals that equal the counts, rows that equal the modules, memory that equals torchinfo's."""

import re
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from small_networks import SMALL

from layers_flax import count_multiply_adds, count_parameters
from weights_flax import ARCHS, build_model, summary
from weights_flax.look.summary import table

PUBLISHED = {  # parameters, and 10^9 multiply-adds of one image
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "densenet121": (7_978_856, 2.834),
    "vgg19": (143_667_240, 19.632),
    "resnet20": (269_722, 0.041),
    "densenet_bc_100_12": (769_162, 0.288),
}
SOME = (*PUBLISHED, "resnet18_v2", "resnext50_32x4d", "plain20", "vgg11_bn", "densenet_40_12")


def image_shape(model):
    size = 32 if getattr(model, "stem_type", "imagenet") == "cifar" else 224
    return size, size, 3


def check_totals(arch):
    """Checks that the totals equal the counts, and that each part is the sum of its parts."""
    model = build_model(arch)
    rows = table(model, image_shape(model))
    assert rows[()].parameters == count_parameters(model, image_shape(model))
    assert rows[()].multiply_adds == count_multiply_adds(model, image_shape(model))
    inner = {}
    for place, row in rows.items():
        if place:
            inner.setdefault(place[:-1], []).append(row)
    for place, parts in inner.items():
        assert rows[place].parameters == sum(row.parameters for row in parts), place
        assert rows[place].multiply_adds == sum(row.multiply_adds for row in parts), place


@pytest.mark.parametrize("arch", SOME)
def test_the_rows_add_up_to_the_network(arch):
    check_totals(arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(set(ARCHS) - set(SOME)))
def test_the_rows_add_up_to_the_network_in_every_architecture(arch):
    check_totals(arch)


def read(text):
    """Reads the rows of a table: name with its indent, shape, parameters, multiply-adds."""
    found = []
    for line in text.splitlines():
        if match := re.fullmatch(r"( *\S+) {2,}([\d × ]+?) {2,} *([\d,]+) {2,}([\d,]+)", line):
            name, shape, *numbers = match.groups()
            found.append((name, tuple(map(int, shape.split(" × "))), *(int(n.replace(",", "")) for n in numbers)))
    return found


@pytest.mark.parametrize("arch", PUBLISHED)
def test_totals_are_the_published_ones(arch):
    parameters, billions = PUBLISHED[arch]
    model = build_model(arch)
    name, shape, *totals = read(summary(model, image_shape(model)))[-1]
    assert (name, shape) == ("total", (model.num_classes,))
    assert totals[0] == parameters
    assert totals[1] / 1e9 == pytest.approx(billions, abs=0.0005)


@pytest.mark.parametrize(
    ("arch", "activations", "parameters"),
    # torchinfo 1.8.0 for one image of 224×224; its pass is forward and backward, twice this.
    [("resnet50", 177.83 / 2, 102.23), ("densenet121", 180.54 / 2, 31.92), ("vgg19", 118.89 / 2, 574.67)],
)
def test_memory_is_torchinfos(arch, activations, parameters):
    text = summary(build_model(arch), depth=1)
    for name, megabytes in (("parameters", parameters), ("activations", activations)):
        [found] = re.findall(rf"^{name} +([\d.]+) MB$", text, re.MULTILINE)
        assert float(found) == pytest.approx(megabytes, abs=0.01)


def test_half_the_width_of_the_compute_type_is_half_the_memory_of_activations():
    wide, narrow = (table(build_model("resnet20", dtype=dtype), (32, 32, 3)) for dtype in (None, jnp.bfloat16))
    for place, row in wide.items():
        stays_wide = place in ((), ("head",), ("head", "fc"), ("head", "global_avg_pool"))
        assert narrow[place].bytes == row.bytes // (1 if stays_wide else 2), place


@pytest.mark.parametrize(("param_dtype", "megabytes"), [(jnp.float32, "1.08"), (jnp.bfloat16, "0.54")])
def test_memory_of_parameters_is_of_their_type(param_dtype, megabytes):
    text = summary(build_model("resnet20", param_dtype=param_dtype), (32, 32, 3))
    assert re.findall(r"^parameters +([\d.]+) MB$", text, re.MULTILINE) == [megabytes]  # 269,722 of 4 or 2 bytes


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("shape", [(32, 32, 3), (50, 71, 1)])
def test_shapes_of_rows_are_the_modules_outputs(arch, shape):
    model = SMALL[arch].clone(param_dtype=jnp.float32)
    rows = table(model, shape)

    def outputs(images):
        variables = model.init(jax.random.key(0), images)
        return model.apply(variables, images, capture_intermediates=True)[1]["intermediates"], variables["params"]

    captured, params = map(flatten_dict, jax.eval_shape(outputs, jnp.zeros((1, *shape))))
    modules = {path[:end] for path in params for end in range(1, len(path))}  # dropout has no parameters, and no row
    called = {path[:-1]: value[0].shape[1:] for path, value in captured.items() if path[-1] == "__call__"}
    expected = {path: called[path] for path in called.keys() & modules}
    found = {path[1:]: row.shape for path, row in rows.items() if len(path) > 1 and "_pool" not in path[-1]}
    blocks = [path for path in found if path[-1].startswith("denseblock")]  # DenseNet calls their `grow` instead
    assert len(blocks) == len(getattr(model, "block_sizes", ()))
    assert {path: shape for path, shape in found.items() if path not in blocks} == expected


def test_pools_are_rows_and_blocks_end_with_their_concatenation():
    rows = table(build_model("densenet121"))
    assert rows["stem", "max_pool_3x3_2"].shape == (56, 56, 64)
    assert rows["stage1", "transition1", "avg_pool_2x2_2"].shape == (28, 28, 128)
    assert rows["stage1", "denseblock2"].shape == (28, 28, 512)
    assert rows["head", "global_avg_pool"].shape == (1024,)


def test_depth_takes_parts_apart():
    model = build_model("densenet_bc_40_12")
    by_depth = [read(summary(model, (32, 32, 3), depth=depth))[:-1] for depth in (1, 2, 3, 4, 9)]
    assert [row[0] for row in by_depth[0]] == ["stem", "stage0", "stage1", "stage2", "head"]
    assert [row[0] for row in by_depth[1]] == [
        *("stem", "  conv0", "stage0", "  denseblock1", "stage1", "  transition1", "  denseblock2"),
        *("stage2", "  transition2", "  denseblock3", "head", "  norm5", "  global_avg_pool", "  classifier"),
    ]
    # Three blocks of six layers, two transitions of norm, convolution and pool; then four modules in each layer.
    assert len(by_depth[2]) == len(by_depth[1]) + 3 * 6 + 2 * 3
    assert len(by_depth[3]) == len(by_depth[2]) + 3 * 6 * 4
    assert by_depth[4] == by_depth[3]
    for shallow, deep in pairwise(by_depth):
        assert [row for row in deep if row in shallow] == shallow


@pytest.mark.parametrize(("arch", "depth"), [("vgg19", 2), ("resnet152", 3), ("densenet_bc_40_12", 4)])
def test_columns_are_aligned_and_narrow(arch, depth):
    model = build_model(arch)
    lines = summary(model, image_shape(model), depth=depth).splitlines()
    rows = lines[1:-2]
    assert len({len(line) for line in rows}) == 1
    assert max(map(len, lines)) <= 100
    assert len({line.index(" MB") for line in lines[-2:]}) == 1
    assert len(read("\n".join(lines))) == len(rows) - 5  # without four rules and the heads of the columns


@pytest.mark.parametrize("arch", ["resnet20", "densenet_bc_40_12"])
def test_options_that_change_no_number_change_no_row(arch):
    assert table(build_model(arch, remat=True, axis_name="data"), (32, 32, 3)) == table(build_model(arch), (32, 32, 3))


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="a model must be a ResNet, PlainNet, VGG or DenseNet; given Dense"):
        summary(nn.Dense(3))
    with pytest.raises(ValueError, match="depth must be a positive integer; given 0"):
        summary(build_model("resnet20"), depth=0)
    with pytest.raises(ValueError, match="does not fit in an image 1 pixels wide"):
        summary(build_model("vgg11"), (16, 16, 3))
    with pytest.raises(ValueError, match="images must have rank 4"):
        summary(build_model("resnet20"), (32, 32))
