import gc
import os
import re
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from densenet_flax import DenseNet
from resnet_flax import BasicBlock, ResNet
from training_flax import compiler_options
from training_flax.runtime import compilation
from training_flax.runtime.compilation import compile_together, garbage_left


def test_programs_compiled_together_keep_their_order():
    functions = [jnp.sin, jnp.cos, jnp.tanh]
    x = jnp.float32(0.3)
    programs = compile_together([jax.jit(function).lower(x) for function in functions])
    for program, function in zip(programs, functions, strict=True):
        assert float(program.result()(x)) == float(jax.jit(function)(x))


def test_a_program_is_compiled_while_the_next_is_traced():
    compiling = []

    class Lowered:
        def compile(self, compiler_options):
            compiling.append(self)
            compiled.set()
            return compiler_options

    def lowered():
        yield Lowered()
        assert compiled.wait(60)
        yield Lowered()

    compiled = threading.Event()
    programs = compile_together(lowered(), {"option": "yes"})
    assert [program.result() for program in programs] == [{"option": "yes"}] * 2
    assert len(compiling) == 2


def test_an_error_while_tracing_or_compiling_is_told():
    def lowered():
        yield jax.jit(jnp.sin).lower(1.0)
        raise ValueError("not a network")

    with pytest.raises(ValueError, match="not a network"):
        compile_together(lowered())
    (program,) = compile_together([jax.jit(jnp.sin).lower(1.0)], {"xla_of_another_year": "yes"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_another_year"):
        program.result()


def test_garbage_is_left_for_a_time_alone():
    assert gc.isenabled()
    with garbage_left():
        assert not gc.isenabled()
        with garbage_left():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.slow
def test_programs_are_kept_in_the_users_cache_folder_or_where_jax_was_told(tmp_path):
    code = "from training_flax import keep_compiled_programs; print(keep_compiled_programs())"
    told = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "told")}
    environment = {name: value for name, value in os.environ.items() if name not in told}

    def folder(**extra):
        command, kept = [sys.executable, "-c", code], environment | extra
        return subprocess.run(command, env=kept, check=True, capture_output=True, text=True).stdout.strip()

    assert folder(XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path)).startswith(str(tmp_path))
    assert folder(**told) == str(tmp_path / "told")


def test_options_change_what_xla_compiles_a_convolution_to():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 16, 16, 32), (3, 3, 32, 32))]
    lowered = jax.jit(convolve).lower(*shapes)
    assert set(compiler_options(remat=True)) == set(compilation.CPU_OPTIONS)
    assert set(compiler_options()) == set(compilation.CPU_OPTIONS) | set(compilation.CPU_ORDER)
    assert "ynn" in lowered.compile().as_text()
    assert "ynn" not in compile_together([lowered], compiler_options())[0].result().as_text()


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    known = compiler_options()
    monkeypatch.setattr(compilation, "CPU_OPTIONS", compilation.CPU_OPTIONS | {"xla_cpu_of_another_year": "yes"})
    assert compiler_options() == known


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        lambda blocks: ResNet((blocks,), block=BasicBlock, num_classes=3, stem_type="cifar", width=4),
        lambda layers: DenseNet((layers,), growth_rate=4, num_classes=3, stem_type="cifar"),
    ],
    ids=["blocks", "dense layers"],
)
def test_no_operation_reads_what_all_earlier_ones_gave(network):
    """The widest operation of a gradient reads as many arrays in a network of twice the depth."""

    def widest(depth):
        model = network(depth)
        images = jnp.zeros((8, 16, 16, 3))
        variables = model.init(jax.random.key(0), images)

        def loss(params):
            logits, stats = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            return logits.sum(), stats

        gradient = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])
        text = gradient.compile(compiler_options=compiler_options()).as_text()
        operands = re.findall(r" fusion\((.*?)\)", text)
        return max(each.count("%") for each in operands)

    assert widest(4) == widest(8)
