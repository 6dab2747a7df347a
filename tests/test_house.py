"""How the packages stand to each other: what imports what, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "common_flax": set(),
    "layers_flax": {"common_flax"},
    "resnet_flax": {"common_flax", "layers_flax"},
    "densenet_flax": {"common_flax", "layers_flax"},
    "weights_flax": {"common_flax", "layers_flax", "resnet_flax", "densenet_flax"},
    "training_flax": {"common_flax", "layers_flax", "resnet_flax", "densenet_flax", "weights_flax"},
    "theory_flax": {"common_flax", "layers_flax", "resnet_flax", "densenet_flax", "weights_flax"},
    "theory_flax/commands": {
        "common_flax",
        "layers_flax",
        "resnet_flax",
        "densenet_flax",
        "weights_flax",
        "training_flax",
    },
    "theory_flax/__main__.py": {"common_flax", "layers_flax", "training_flax"},
}
HEAVY = ["tensorflow", "optax", "orbax", "matplotlib", "sklearn", "PIL", "tyro"]


def imported_packages(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_point_down(room):
    """Of rooms within rooms the inner one's arrows hold."""
    inner = [ROOT / other for other in MAY_IMPORT if other.startswith(f"{room}/")]
    files = [ROOT / room] if room.endswith(".py") else list((ROOT / room).rglob("*.py"))
    files = [file for file in files if not any(file.is_relative_to(path) for path in inner)]
    assert files
    for file in files:
        ours = set(imported_packages(file.read_text())) & MAY_IMPORT.keys()
        assert ours <= MAY_IMPORT[room] | {room.split("/")[0]}, file


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_importing_the_families_loads_nothing_heavy():
    code = f"import sys, resnet_flax, densenet_flax; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_importing_the_families_takes_little_longer_than_jax_and_flax():
    code = """
import time, jax, flax.linen
start = time.process_time()
import resnet_flax, densenet_flax
print(time.process_time() - start)
"""
    assert min(float(run(code)) for _ in range(3)) < 0.3
