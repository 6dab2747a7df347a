import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from training_flax import compilation, compiler_options
from training_flax.compilation import compile_together


def test_programs_compiled_together_keep_their_order():
    functions = [jnp.sin, jnp.cos, jnp.tanh]
    x = jnp.float32(0.3)
    programs = compile_together([jax.jit(function).lower(x) for function in functions])
    for program, function in zip(programs, functions, strict=True):
        assert float(program(x)) == float(jax.jit(function)(x))


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
    assert set(compiler_options()) == set(compilation.CPU_OPTIONS)
    assert "ynn" in lowered.compile().as_text()
    assert "ynn" not in lowered.compile(compiler_options=compiler_options()).as_text()
    assert "ynn" not in compile_together([lowered])[0].as_text()


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "CPU_OPTIONS", compilation.CPU_OPTIONS | {"xla_cpu_of_another_year": "yes"})
    compiler_options.cache_clear()
    try:
        assert "xla_cpu_of_another_year" not in compiler_options()
        assert len(compiler_options()) == len(compilation.CPU_OPTIONS) - 1
    finally:
        compiler_options.cache_clear()
