"""Programs for TPUs and GPUs that are not there, as their own compilers make them.

The compilers come with the extra [tpu-compiler] and with jax-cuda13-plugin and jax-cuda13-pjrt of JAX's version.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.absent import AbsentWork
from benchmarks.accelerators import count
from benchmarks.chips import environment
from benchmarks.hlo import COLLECTIVES, Program

ROOT = Path(__file__).parent.parent
TPU, GPU = "v5e:2x4", "cuda:8"
ROWS = 64  # images a chip
# Of the smallest networks.
NORMS = {"resnet": 6, "densenet": 10}
CONVOLUTIONS = {"resnet": 6, "densenet": 10}
pytestmark = [pytest.mark.compilers, pytest.mark.slow]


def has(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


COMPILERS = {"v5e": has("libtpu"), "cuda": has("jax_plugins.xla_cuda13")}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Makes the function (kind, topology) → the text of XLA's optimised program, or of what it was given."""
    folder, texts = tmp_path_factory.mktemp("programs"), {}

    def compiled(kind, topology, given=False):
        if not COMPILERS[topology.partition(":")[0]]:
            pytest.skip(f"the compiler for {topology.partition(':')[0]} is not installed")
        if (kind, topology) not in texts:
            file = folder / f"{len(texts)}.txt"
            command = [sys.executable, str(ROOT / "tests/helpers/absent_programs.py"), kind, topology, str(file)]
            found = {**environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"}
            done = subprocess.run(command, env=found, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            texts[kind, topology] = file.read_text(), file.with_name(f"{file.name}.mlir").read_text()
        return texts[kind, topology][given]

    return compiled


def operations(text, *kinds):
    """All operations of some kinds, those within fusions too."""
    found = Program(text).computations.values()
    return [operation for each in found for operation in each if operation.kind in kinds]


STEPS = [("jit resnet", TPU), ("jit densenet", TPU), ("pmap resnet", TPU)]


@pytest.mark.parametrize(("kind", "topology"), STEPS)
def test_no_convolution_is_in_float32_but_the_classifier(kind, topology, program):
    """A TPU computes dots as convolutions, so the classifier and its gradients are some. Sums over pixels, which become
    gradients, are float32 of factors in bfloat16.
    """
    wide = []
    for each in Program(program(kind, topology)).computations.values():
        types = {operation.name: operation.type for operation in each}
        for operation in each:
            if operation.kind == "convolution":
                maps = [operation.type, *(types[name] for name in operation.operands)]
                wide += [kind for kind in maps if re.match(rf"f32\[{ROWS},\d+,\d+,\d+\]", kind)]
    assert operations(program(kind, topology), "convolution")
    assert wide == []


@pytest.mark.parametrize(("kind", "topology"), STEPS)
def test_no_float32_map_is_written_beside_a_convolution(kind, topology, program):
    """BatchNorm's statistics are sums of a convolution's output, taken where it is computed."""
    text = program(kind, topology)
    beside = re.findall(r"= \([^=]*f32\[\d+,\d+,\d+,\d+\][^=]*bf16\[\d+,\d+,\d+,\d+\][^=]*\) fusion", text)
    assert beside == []


@pytest.mark.parametrize(("kind", "topology"), STEPS)
def test_a_batch_norm_has_one_collective_in_each_direction(kind, topology, program):
    assert Program(program(kind, topology)).count(*COLLECTIVES) <= 2 * NORMS[kind.split()[1]] + 2


@pytest.mark.parametrize(("kind", "topology"), STEPS)
def test_gradients_are_added_in_float32(kind, topology, program):
    added = [each.type for each in operations(program(kind, topology), *COLLECTIVES)]
    assert any("f32[3,3," in each for each in added)
    assert not any("bf16[" in each for each in added)


@pytest.mark.parametrize(("kind", "topology"), [*STEPS, ("run", "v5e:1x1")])
def test_a_step_calls_nothing_of_the_host(kind, topology, program):
    assert operations(program(kind, topology), "infeed", "outfeed", "send", "recv") == []
    assert "callback" not in program(kind, topology)


def test_a_step_reads_only_its_images_of_a_data_set(program):
    """The data set goes into the operation that gathers, and into none else."""
    text = program("run", "v5e:1x1")
    whole = [each for each, _ in Program(text).executed() if "u8[50000" in each.type]
    assert whole == []
    gathers = [each for each in operations(text, "parameter") if each.type.startswith("u8[50000")]
    assert len(gathers) == 2  # the program's, and the fusion's
    assert "u8[64,3072]" in text


@pytest.mark.parametrize("kind", ["jit resnet", "jit densenet"])
def test_convolutions_on_a_gpu_are_calls_of_cudnn_in_bfloat16(kind, program):
    text = program(kind, GPU)
    calls = [each.type for each in operations(text, "custom-call") if "__cudnn$conv" in each.rest]
    assert len(calls) == 3 * CONVOLUTIONS[kind.split()[1]] - 1  # nobody asks for the gradient of the images
    assert all(each.startswith("(bf16[") for each in calls)
    assert operations(text, "convolution") == []


@pytest.mark.parametrize("topology", ["v5e:1x1", "cuda:1"])
@pytest.mark.parametrize("kind", ["folded resnet", "folded densenet", "exported resnet", "exported densenet"])
def test_networks_for_inference_are_taken_as_they_are(kind, topology, program):
    """Formulas for the CPU, a row too many or a dot of patches, are in no program for others, as it is given to XLA."""
    assert operations(program(kind, topology), "convolution", "custom-call")
    given = program(kind, topology, given=True)
    assert not re.search(r"x(65x64|33x32|17x16)x", given)  # maps of 64, 32 and 16 pixels have no row more
    dots = re.findall(r"stablehlo.dot_general .*-> tensor<(.*)>", given)  # an export has one for each platform
    assert dots and all(re.fullmatch(r"(64|\?)x10xf32", each) for each in dots)  # the classifier


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_the_benchmark_counts_a_step(parallel):
    """It finds the step among all programs that XLA writes down, whatever JAX calls it."""
    if not COMPILERS["v5e"]:
        pytest.skip("the compiler for v5e is not installed")
    counted = count(AbsentWork("resnet20", TPU, 16, parallel=parallel), "ours")
    assert counted["all_reduces"] <= 2 * 19 + 2  # one for each norm and direction, gradients, and metrics
    assert 0.9 * 4 * 272_474 < 1e6 * counted["all_reduced_mb"] < 4 * 4 * 272_474  # the gradients, and statistics
    assert counted["traffic_gb"] > 0 and counted["temp_gb"] > 0
