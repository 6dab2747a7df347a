"""The fast layers on several devices compute what they compute on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from small_networks import SMALL

ROOT = Path(__file__).parent.parent.parent


def errors_on_four_devices(*arguments):
    """What `helpers/sharded_layers.py` prints."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "helpers" / "sharded_layers.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("axes", ["auto", "explicit"])
def test_a_batch_spread_over_four_devices_gives_the_same_values_and_derivatives(axes):
    """Explicit axes, which `jax.make_mesh` gives, stand in the types: JAX refuses what would not keep them."""
    errors = errors_on_four_devices("layers", axes)
    assert len(errors) == 19
    assert max(errors.values()) <= 1e-12, errors


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALL)
def test_networks_learn_and_infer_on_a_mesh_with_explicit_axes(network):
    errors = errors_on_four_devices(network, "explicit")
    assert errors.keys() == {"step", "folded"}
    assert max(errors.values()) <= 1e-12, errors
