"""The code on README and the pages, under mypy and pyright in strict mode: every call has the types that it shows."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What is not about a call of this project: functions on pages need no annotations, and JAX, Flax and Optax leave parts
# of their own types open, which makes half of all values "partially unknown".
MYPY = ["--strict", "--allow-redefinition", "--ignore-missing-imports", "--config-file=", "--follow-imports=silent"]
MYPY += [word for code in ("no-untyped-def", "no-untyped-call") for word in ("--disable-error-code", code)]
PYRIGHT = {
    "typeCheckingMode": "strict",
    "extraPaths": [str(ROOT)],
    **dict.fromkeys([f"reportUnknown{kind}Type" for kind in ("Member", "Argument", "Variable", "Lambda")], False),
    **dict.fromkeys(["reportUnknownParameterType", "reportMissingParameterType", "reportMissingTypeStubs"], False),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The Python of each page that has any, as a module of its own."""
    folder = tmp_path_factory.mktemp("pages")
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        if blocks:
            name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
            (folder / f"{name}.py").write_text("\n".join(blocks))
    assert len(list(folder.iterdir())) > 10
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT | {"include": ["."]}))
    return folder


def checked_by(module, arguments, folder):
    """Runs a checker, with its caches beside the modules."""
    caches = {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(folder / ".mypy"), "HOME": str(folder)}
    caches |= {"PYRIGHT_PYTHON_CACHE_DIR": str(folder / ".pyright")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | caches, capture_output=True, text=True)


def mypy(folder):
    return checked_by("mypy", [*MYPY, "--explicit-package-bases", *(path.name for path in folder.glob("*.py"))], folder)


def pyright(folder):
    return checked_by("pyright", ["--pythonpath", sys.executable], folder)


# Pyright is a program for Node, which its extra [nodejs] brings along, without any download later.
TOOLS = [
    mypy,
    pytest.param(
        pyright,
        marks=pytest.mark.skipif(not importlib.util.find_spec("pyright"), reason="pip install 'pyright[nodejs]'"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_every_call_on_the_pages_has_the_types_that_it_shows(tool, modules):
    result = tool(modules)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert re.search("Success: no issues|0 errors", said)


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_a_call_with_a_wrong_type_is_found(tool, tmp_path):
    wrong = 'from training_flax import TrainConfig, fit\nfit(TrainConfig("resnet20", out=7), loss="focal")\n'
    (tmp_path / "wrong.py").write_text(wrong)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT | {"include": ["."]}))
    result = tool(tmp_path)
    assert result.returncode == 1
    assert all(name in result.stdout for name in ('"out"', '"loss"')), result.stdout
