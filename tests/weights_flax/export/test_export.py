import errno
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from common_flax import __version__
from densenet_flax import DenseNet
from layers_flax import Conv, adaptive_avg_pool, avg_pool, max_pool, target_backend
from resnet_flax import VGG, BasicBlock, BottleneckBlock, PlainNet, PreActBasicBlock, PreActBottleneckBlock, ResNet
from weights_flax import ARCHS, build_model, export, fold_batch_norm, to_torch
from weights_flax.formats.open import open_weights

CIFAR = dict(stem_type="cifar", num_classes=5)
NETWORKS = {
    "basic blocks, A": (ResNet((1, 2), BasicBlock, width=4, shortcut="A", **CIFAR), (8, 8, 3)),
    "bottlenecks, B, grey": (ResNet((1, 1, 2), BottleneckBlock, width=8, num_classes=5), (37, 32, 1)),
    "bottlenecks, C, v1, again": (
        ResNet((2, 1), BottleneckBlock, width=4, shortcut="C", bottleneck_stride="v1", remat=True, **CIFAR),
        (9, 8, 3),
    ),
    "groups": (ResNet((1, 1), BottleneckBlock, width=16, groups=4, width_per_group=16, **CIFAR), (8, 8, 3)),
    "padded same": (ResNet((1, 1, 2), BottleneckBlock, width=8, padding="same", num_classes=5), (37, 32, 3)),
    "v2, A, drop path": (ResNet((1, 2), PreActBasicBlock, width=4, shortcut="A", drop_path=0.5, **CIFAR), (8, 8, 3)),
    "v2 bottlenecks": (ResNet((1, 2), PreActBottleneckBlock, width=4, num_classes=5), (32, 48, 3)),
    "plain": (PlainNet((1, 2), BasicBlock, width=4, **CIFAR), (8, 8, 3)),
    "VGG": (VGG((1,) * 5, width=4, num_classes=5), (32, 32, 3)),
    "VGG with BatchNorm, other sizes": (VGG((1, 2, 1, 1, 1), True, width=2, num_classes=5), (96, 288, 3)),
    "VGG of the pool's own size": (VGG((1,) * 5, width=2, num_classes=5), (224, 224, 3)),
    "DenseNet": (DenseNet((2, 3), growth_rate=4, num_classes=5), (32, 40, 3)),
    "DenseNet without bottleneck, again": (
        DenseNet((2, 2), growth_rate=4, bottleneck_width=None, compression=1.0, remat=True, dropout=0.2, **CIFAR),
        (9, 8, 3),
    ),
}
RUN_BY_JAX_ALONE = ("basic blocks, A", "groups", "v2 bottlenecks", "VGG", "DenseNet")
# A dozen layers with sums of up to some thousand products, in another order.
ROUNDING = 64 * np.finfo(np.float32).eps


def random_variables(model, image_shape, seed=0):
    """Draws variables with logits of about 1, and with statistics and biases that are not trivial."""
    rng = np.random.default_rng(seed)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)

    def leaf(path, like):
        values = rng.standard_normal(like.shape, np.float32)
        match path[-1].key:
            case "var":
                return rng.uniform(0.5, 1.5, like.shape).astype(np.float32)
            case "scale":
                return 1 + 0.1 * values
            case "kernel":
                return values / np.float32(np.sqrt(np.prod(like.shape[:-1])))
            case _:
                return 0.1 * values

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_images(count, image_shape):
    return np.random.default_rng(1).standard_normal((count, *image_shape), np.float32)


@pytest.fixture(scope="module")
def networks():
    """Returns by name a model, its variables, 17 images and their logits."""
    made = {}

    def get(name):
        if name not in made:
            model, image_shape = NETWORKS[name]
            variables, images = random_variables(model, image_shape), random_images(17, image_shape)
            logits = np.asarray(jax.jit(model.apply)(variables, images))
            assert 0.01 < np.abs(logits).max() < 100
            made[name] = SimpleNamespace(
                model=model, variables=variables, images=images, logits=logits, image_shape=image_shape
            )
        return made[name]

    return get


def assert_close(found, logits, tolerance=ROUNDING):
    assert found.dtype == np.float32 and found.shape == logits.shape
    assert np.abs(found - logits).max() <= tolerance * np.abs(logits).max()


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images.transpose(0, 3, 1, 2)})[0]


ALONE = """
import sys
from pathlib import Path

NAMES = {"layers_flax", "resnet_flax", "densenet_flax", "weights_flax", "training_flax", "theory_flax", "flax"}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
for name in NAMES:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is installed")

import jax.export
import numpy as np

for path in Path(sys.argv[1]).glob("*.stablehlo"):
    images = np.load(path.with_suffix(".npy"))
    call = jax.export.deserialize(path.read_bytes()).call
    found = {str(batch): call(images[:batch]) for batch in (1, 3, 17)}
    np.savez(path.with_suffix(".npz"), **found)
assert not NAMES & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_stablehlo_runs_by_jax_alone_at_any_batch_size(networks, tmp_path):
    for number, name in enumerate(RUN_BY_JAX_ALONE):
        network = networks(name)
        path = tmp_path / f"{number}.stablehlo"
        export(network.model, network.variables, path, image_shape=network.image_shape)
        np.save(path.with_suffix(".npy"), network.images)
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number, name in enumerate(RUN_BY_JAX_ALONE):
        with np.load(tmp_path / f"{number}.npz") as found:
            for batch in (1, 3, 17):
                assert_close(found[str(batch)], networks(name).logits[:batch])


@pytest.mark.parametrize("name", NETWORKS)
def test_stablehlo_is_one_program_for_all_platforms(networks, name, tmp_path):
    """The program is the same on all backends, makes no call that only some platforms have, and has no gather."""
    network = networks(name)
    programs = []
    for backend in ("cpu", "gpu", "tpu"):
        path = tmp_path / backend
        with target_backend(backend):
            export(network.model, network.variables, path, image_shape=network.image_shape)
        exported = jax.export.deserialize(path.read_bytes())
        assert exported.platforms == ("cpu", "cuda", "tpu")
        # Places in the source code, and the numbers of equal functions, may differ.
        programs.append(re.sub(r"loc\(.*\)|#loc.*\n|(?<=@relu)_\d+", "", exported.mlir_module()))
    assert programs[0] == programs[1] == programs[2]
    assert "stablehlo.convolution" in programs[0]
    assert set(re.findall(r"custom_call @(\w+)", programs[0])) == {"shape_assertion"}  # that the batch is not empty
    assert "gather" not in programs[0]


def test_stablehlo_keeps_the_compute_type(networks, tmp_path):
    network = networks("basic blocks, A")
    half = network.model.clone(dtype=jnp.bfloat16)
    export(half, network.variables, tmp_path / "half", image_shape=network.image_shape)
    exported = jax.export.deserialize((tmp_path / "half").read_bytes())
    logits = np.asarray(jax.jit(half.apply)(network.variables, network.images))
    # The same program: logits that are rounded to bfloat16 on the way differ by much more.
    assert_close(np.asarray(exported.call(network.images)), logits, 1e-6)
    assert np.abs(logits - network.logits).max() > 1e-3 * np.abs(logits).max()


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_float64_becomes_float32(networks, format, tmp_path, x64):
    network = networks("basic blocks, A")
    model = network.model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    variables = jax.tree.map(np.float64, network.variables)
    path = tmp_path / format
    export(model, variables, path, format=format, image_shape=network.image_shape)
    jax.config.update("jax_enable_x64", False)
    if format == "stablehlo":
        program = jax.export.deserialize(path.read_bytes())
        assert "f64" not in program.mlir_module()
        assert_close(np.asarray(program.call(network.images)), network.logits)
    else:
        assert_close(run_onnx(path, network.images), network.logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_gives_the_same_logits_at_any_batch_size(networks, name, tmp_path):
    network = networks(name)
    path = tmp_path / "network.onnx"
    export(network.model, network.variables, path, format="onnx", image_shape=network.image_shape)
    onnx.checker.check_model(path, full_check=True)
    for batch in (1, 5):
        assert_close(run_onnx(path, network.images[:batch]), network.logits[:batch])


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_has_a_node_for_each_layer_and_no_detours(networks, name, tmp_path):
    network = networks(name)
    export(network.model, network.variables, tmp_path / "net", format="onnx", image_shape=network.image_shape)
    graph = onnx.load(tmp_path / "net").graph
    assert_has_each_weight_once(graph, network.variables)
    counts = Counter(node.op_type for node in graph.node)
    imagenet = isinstance(network.model, VGG) or network.model.stem_type == "imagenet"
    assert counts["MaxPool"] == (5 if isinstance(network.model, VGG) else int(imagenet))
    assert counts["AveragePool"] == (1 if isinstance(network.model, DenseNet) else 0)
    assert counts["Transpose"] == 0 and len(graph.node) < 3 * len(jax.tree.leaves(network.variables["params"]))


def assert_has_each_weight_once(graph, variables):
    """Checks that each tensor is in the file once, that one node reads it, and that nodes have the layers' names."""
    leaves = {"/".join(path[1:]): leaf for path, leaf in flatten_dict(variables).items()}
    kept = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if "/" in tensor.name}
    assert len({tensor.name for tensor in graph.initializer}) == len(graph.initializer)
    assert {name: sorted(shape) for name, shape in kept.items()} == {
        name: sorted(leaf.shape) for name, leaf in leaves.items()
    }
    read = Counter(name for node in graph.node for name in node.input)
    assert {read[name] for name in kept} == {1}
    assert {name.rpartition("/")[0] for name in kept} <= {node.name for node in graph.node}


def test_onnx_says_what_it_is(networks, tmp_path):
    network = networks("bottlenecks, B, grey")
    path = tmp_path / "network.onnx"
    about = dict(metadata={"licence": "MIT"}, card={"normalisation": {"mean": [0.5], "std": [0.25]}})
    export(network.model, network.variables, path, format="onnx", image_shape=network.image_shape, **about)
    proto = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]
    assert proto.producer_name == "resnet-densenet-flax"
    (images,), (logits,) = proto.graph.input, proto.graph.output
    dims = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (images, logits)]
    assert (images.name, logits.name, dims) == ("images", "logits", [["batch", 1, 37, 32], ["batch", 5]])
    assert {entry.key: entry.value for entry in proto.metadata_props} == {
        "architecture": "ResNet(stage_sizes=(1, 1, 2), block=BottleneckBlock, num_classes=5, width=8)",
        "image_shape": "[37, 32, 1]",
        "layout": "NCHW",
        "input": "images",
        "output": "logits",
        "dtype": "float32",
        "pixels": "normalised",
        "mean": "[0.5]",
        "std": "[0.25]",
        "producer": f"resnet-densenet-flax {__version__}",
        "licence": "MIT",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic blocks, A", "v2, A, drop path", "DenseNet", "padded same", "VGG"])
def test_onnx_is_written_for_each_opset(name, networks, tmp_path):
    """As runtimes compute it, as ONNX' checker knows it, and on the way up by ONNX' own converter."""
    network, path = networks(name), tmp_path / "network.onnx"
    for opset in range(9, 23):
        export(network.model, network.variables, path, format="onnx", image_shape=network.image_shape, opset=opset)
        proto = onnx.load(path)
        assert proto.opset_import[0].version == opset
        assert "Identity" not in {node.op_type for node in proto.graph.node}
        if opset in (9, 10, 12, 14, 21):
            assert_close(run_onnx(path, network.images), network.logits)
        if opset == 9:
            for later in (13, 17, 22):
                onnx.save(onnx.version_converter.convert_version(proto, later), tmp_path / "later.onnx")
                assert_close(run_onnx(tmp_path / "later.onnx", network.images), network.logits)


@pytest.mark.parametrize(
    ("format", "opset", "message"),
    [
        ("onnx", 8, "opset must be from 9 to 22; given 8"),
        ("onnx", 23, "opset must be from 9 to 22; given 23"),
        ("torch", 17, "opset is for format 'onnx'; given 17 for 'torch'"),
    ],
)
def test_other_opsets_are_refused(format, opset, message, networks, tmp_path):
    network = networks("DenseNet")
    options = dict(format=format, image_shape=network.image_shape, opset=opset)
    with pytest.raises(ValueError, match=f"^{message}$"):
        export(network.model, network.variables, tmp_path / "network", **options)
    assert not list(tmp_path.iterdir())


def test_onnx_computes_in_float32_whatever_the_network_does(networks, tmp_path):
    network = networks("DenseNet")
    half = network.model.clone(dtype=jnp.bfloat16)
    export(half, network.variables, tmp_path / "net", format="onnx", image_shape=network.image_shape)
    assert_close(run_onnx(tmp_path / "net", network.images), network.logits)


FOLDED = ("bottlenecks, B, grey", "v2 bottlenecks", "VGG with BatchNorm, other sizes", "DenseNet")


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize("name", FOLDED)
def test_folded_networks(networks, tmp_path, name, format):
    """A folded network computes the same by other layers."""
    network = networks(name)
    model, variables = fold_batch_norm(network.model, network.variables)
    export(model, variables, tmp_path / "net", format=format, image_shape=network.image_shape)
    if format == "onnx":
        found = run_onnx(tmp_path / "net", network.images)
    else:
        found = np.asarray(jax.export.deserialize((tmp_path / "net").read_bytes()).call(network.images))
    assert_close(found, network.logits, 4 * ROUNDING)


def test_torch_gets_the_tensors_by_pytorchs_names(networks, tmp_path):
    network = networks("basic blocks, A")
    export(network.model, network.variables, tmp_path / "net.pt", format="torch", image_shape=network.image_shape)
    tensors = open_weights(tmp_path / "net.pt").tensors
    right = to_torch(network.model, network.variables)
    assert tensors.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_array_equal(np.asarray(tensors[name]), value)


def test_nothing_is_written_where_something_is_wrong(networks, tmp_path, monkeypatch):
    network = networks("basic blocks, A")
    model, variables = network.model, network.variables
    leaves = flatten_dict(variables)
    kernel = ("params", "conv1", "kernel")

    def fails(message, variables=variables, path=tmp_path / "net", **options):
        with pytest.raises(ValueError, match=message) as caught:
            export(model, variables, path, **{"image_shape": network.image_shape, **options})
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    fails("unknown format 'onx'; did you mean 'onnx'", format="onx")
    fails("metadata is for formats 'onnx' and 'stablehlo'; a file", metadata={"licence": "MIT"}, format="torch")
    fails("cannot write .*: no such folder", path=tmp_path / "missing" / "net")
    fails("cannot write .*: it is a folder", path=tmp_path)
    for format in ("stablehlo", "onnx", "torch"):
        less = unflatten_dict({path: leaf for path, leaf in leaves.items() if path != kernel})
        fails("do not fit the ResNet for images .*params/conv1/kernel is missing$", less, format=format)
        more = unflatten_dict({**leaves, ("params", "conv9", "kernel"): np.ones(1)})
        fails("params/conv9/kernel is not the model's", more, format=format)
        wide = unflatten_dict({**leaves, kernel: np.ones((3, 3, 3, 8))})
        fails(r"params/conv1/kernel has shape \(3, 3, 3, 8\), not \(3, 3, 3, 4\)", wide, format=format)
        fails(r"for images \(8, 8, 1\): params/conv1/kernel has shape", format=format, image_shape=(8, 8, 1))
        fails(r"image_shape must be \(height, width, channels\); given \(8, 8\)", format=format, image_shape=(8, 8))
        fails("image_shape must be .* given 8", format=format, image_shape=8)
        fails("width in image_shape must be a positive integer; given 0", format=format, image_shape=(8, 0, 3))
    fails("is missing; .* is missing; .* is missing; … \\(14 such\\)$", {"params": variables["params"]})
    monkeypatch.setattr(sys.modules["weights_flax.export.export"], "LARGEST", 1000)
    for format in ("stablehlo", "onnx"):
        fails("weights of [0-9,]+ bytes are too many for format .*: at most 1,000", format=format)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    fails(r"format 'onnx' needs onnx: pip install 'resnet-densenet-flax\[onnx\]'", format="onnx")


def test_a_file_that_cannot_be_written_leaves_nothing(networks, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    network = networks("basic blocks, A")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot write '.*net': .*No space left on device"):
        export(network.model, network.variables, tmp_path / "net", image_shape=network.image_shape)
    assert not list(tmp_path.iterdir())


def test_images_too_small_for_the_network_are_named(networks, tmp_path):
    network = networks("VGG")
    with pytest.raises(ValueError, match="a window of 2 with padding 0 does not fit in an image 1 pixels"):
        export(network.model, network.variables, tmp_path / "net", image_shape=(16, 16, 3))
    assert not list(tmp_path.iterdir())


class OneConvolution(nn.Module):
    """A network that does `what` with the output of its only layer."""

    what: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, images, train=False):
        x = self.what(Conv(4, 3)(images))
        return x.reshape(x.shape[0], -1)


@pytest.mark.parametrize(
    "what, known",
    [
        (lambda x: 2 * x + jnp.arange(4.0), True),
        (lambda x: lax.slice(x, (0, 1, 0, 0), x.shape, (1, 1, 3, 1)) * jnp.arange(7.0)[:, None, None], True),
        (lambda x: jnp.pad(x, ((0, 0), (1, 0), (2, 3), (0, 4)), constant_values=0.5), True),
        (lambda x: x + x.transpose(0, 2, 1, 3), True),
        (lambda x: jnp.concatenate([x, lax.slice_in_dim(x.transpose(0, 1, 3, 2), 1, 5, axis=3)], 2), True),
        (lambda x: avg_pool(x, 3, 1, padding=1), True),
        (lambda x: lax.slice(x, (0, 0, 0, 0), x.shape) + 1, True),
        (lambda x: adaptive_avg_pool(adaptive_avg_pool(x, 3), 5), True),
        (lambda x: max_pool(max_pool(x, 2), 2), False),
        (lambda x: max_pool(max_pool(x, 3, 1, 1), 3, 1, 1), False),
        (lambda x: nn.Dense(3)(x), False),
        (jnp.sin, False),
    ],
)
def test_onnx_of_other_operations_is_right_or_refused(what, known, tmp_path):
    model = OneConvolution(what)
    variables, images = random_variables(model, (8, 8, 4)), random_images(3, (8, 8, 4))
    if not known:
        with pytest.raises(ValueError, match="which the ONNX export does not know"):
            export(model, variables, tmp_path / "net", format="onnx", image_shape=(8, 8, 4))
        assert not list(tmp_path.iterdir())
        return
    export(model, variables, tmp_path / "net", format="onnx", image_shape=(8, 8, 4))
    assert_close(run_onnx(tmp_path / "net", images), np.asarray(model.apply(variables, images)))


NARROW = {"VGG": dict(width=2), "DenseNet": dict(growth_rate=4)}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_onnx_of_every_architecture_has_its_layers(arch, tmp_path):
    """Each network is narrow, at its own depth; the tests above compare logits for each kind of network."""
    options = NARROW.get(type(build_model(arch)).__name__, dict(width=16))
    model, image_shape = build_model(arch, **options), (32, 32, 3)
    variables = random_variables(model, image_shape)
    export(model, variables, tmp_path / "net", format="onnx", image_shape=image_shape)
    onnx.checker.check_model(tmp_path / "net", full_check=True)
    assert_has_each_weight_once(onnx.load(tmp_path / "net").graph, variables)


PUBLISHED = {
    "resnet34": 64,
    "resnet50": 224,
    "densenet121": 64,
    "densenet169": 64,
    "vgg19_bn": 64,
    "resnext50_32x4d": 64,
    "resnet20": 32,
    "densenet_bc_100_12": 32,
}


@pytest.fixture
def kept_by_nobody():
    """Keeps no compiled program between runs: one with 140 million constants takes longer to pack than to compile."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)


@pytest.mark.slow
@pytest.mark.parametrize("arch, pixels", PUBLISHED.items())
def test_published_networks_give_the_same_logits_from_both_files(arch, pixels, kept_by_nobody, tmp_path):
    model, image_shape = build_model(arch), (pixels, pixels, 3)
    variables, images = random_variables(model, image_shape), random_images(5, image_shape)
    logits = np.asarray(jax.jit(model.apply)(variables, images))
    for format in ("stablehlo", "onnx"):
        export(model, variables, tmp_path / format, format=format, image_shape=image_shape)
    program = jax.jit(jax.export.deserialize((tmp_path / "stablehlo").read_bytes()).call)
    for batch in (1, 5):
        for found in (program(images[:batch]), run_onnx(tmp_path / "onnx", images[:batch])):
            assert np.abs(np.asarray(found) - logits[:batch]).max() <= 1e-4
