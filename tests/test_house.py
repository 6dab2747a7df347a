"""How the packages stand to each other: what imports what, and what importing costs."""

import ast
import graphlib
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
}
# Claims and figures take what they train with as an argument.
MAY_TRAIN = ("theory_flax/*/experiment.py", "theory_flax/experiments/*.py", "theory_flax/__main__.py")
# The rooms of a package, lowest first: a room's modules import their own room and those before it; modules beside the
# rooms are the package's doors, which import any.
ROOMS = {
    "layers_flax": ("autodiff", "parameters", "conv", "nn", "model"),
    "weights_flax": ("unread", "formats", "names", "look", "io", "export"),
    "training_flax": ("runtime", "augment", "files", "data", "config", "learn", "given", "plots", "run", "inference"),
    "theory_flax": (
        *("base", "experiments", "gradient_identity", "shattering", "degradation", "identity_mapping", "nesting"),
        *("architectures", "feature_reuse"),
    ),
}
HEAVY = ["tensorflow", "optax", "orbax", "matplotlib", "sklearn", "PIL", "tyro"]


def imported_packages(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_down(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        trains = any(file in ROOT.glob(pattern) for pattern in MAY_TRAIN)
        allowed = MAY_IMPORT[package] | {package} | ({"training_flax"} if trains else set())
        assert set(imported_packages(file.read_text())) & MAY_IMPORT.keys() <= allowed, file


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for package in MAY_IMPORT for file in (ROOT / package).rglob("*.py")}


def imported_modules(file):
    """The modules of the house that a file imports, functions' own imports too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_stand_on_those_below(package):
    rooms = ROOMS[package]
    assert {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} == set(rooms)
    for number, room in enumerate(rooms):
        allowed = tuple(f"{package}.{lower}." for lower in rooms[: number + 1])
        for file in (ROOT / package / room).glob("*.py"):
            own = [name for name in imported_modules(file) if name.split(".")[0] == package]
            assert all(name.startswith(allowed) for name in own), f"{file} imports {own}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_tests_stand_in_the_rooms_of_the_package(package):
    folders = {path.name for path in (ROOT / "tests" / package).iterdir() if any(path.glob("test_*.py"))}
    assert folders <= set(ROOMS.get(package, ()))


def test_no_module_imports_itself_by_others():
    graph = {name: set(imported_modules(file)) for name, file in MODULES.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert len(order) == len(MODULES)


@pytest.mark.parametrize("room", sorted({file.parent for file in MODULES.values()}), ids=module_name)
def test_a_room_has_at_most_twelve_modules(room):
    assert len([file for file in room.glob("*.py") if file.stem != "__init__"]) <= 12


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_module_has_at_most_300_lines(package):
    for file in (ROOT / package).rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 300, file


BLOCKS = ["resnet_flax/blocks.py", "resnet_flax/pre_activation.py", "densenet_flax/blocks.py"]


@pytest.mark.parametrize("module", BLOCKS)
def test_a_block_is_read_at_a_glance(module):
    classes = [node for node in ast.parse((ROOT / module).read_text()).body if isinstance(node, ast.ClassDef)]
    assert classes
    for block in classes:
        assert (block.end_lineno or 0) - block.lineno + 1 <= 40, block.name


def printed_to_the_terminal(file):
    """The places of a file that write to the terminal by themselves."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "tqdm.write") or name.endswith(("stdout.write", "stderr.write", "writelines")):
                yield f"{file}:{node.lineno} {name}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_lines_reach_the_terminal_by_one_module(package):
    """`say` makes control characters visible, and the progress bar takes lines that went through it."""
    doors = {ROOT / "common_flax/terminal.py", ROOT / "training_flax/runtime/terminal.py"}
    files = set((ROOT / package).rglob("*.py")) - doors
    assert [place for file in files for place in printed_to_the_terminal(file)] == []
    assert all(any(printed_to_the_terminal(door)) for door in doors)


RIDDLES = ("What", "How", "Whether", "Which", "Where", "When", "Why", "Of", "As", "If", "Its", "Up")


@pytest.mark.parametrize("package", [*MAY_IMPORT, "benchmarks"])
def test_docstrings_begin_with_a_noun_or_a_verb(package):
    for file in (ROOT / package).rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        documented = [node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        texts = [text for text in map(ast.get_docstring, documented) if text]
        assert [text for text in texts if text.split()[0].rstrip(",") in RIDDLES] == [], file


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_importing_the_families_loads_nothing_heavy():
    code = f"import sys, resnet_flax, densenet_flax; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(code).strip() == "[]"


@pytest.mark.slow
def test_importing_the_families_takes_little_longer_than_jax_and_flax():
    code = """
import time, jax, flax.linen
start = time.process_time()
import resnet_flax, densenet_flax
print(time.process_time() - start)
"""
    assert min(float(run(code)) for _ in range(3)) < 0.3
