import os
import subprocess
import sys

import jax
import jax.numpy as jnp

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
