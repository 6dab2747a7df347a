"""What README and docs say: code that runs, links that lead somewhere."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from training_flax import RECIPES, with_recipe
from training_flax.config import check

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (page.parent / path).read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


@pytest.mark.parametrize(("page", "function"), [("README.md", "densenet121"), ("docs/densenet.md", "densenet121")])
def test_the_first_example_runs(page, function):
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    # The same lines with a network of the same class that compiles in seconds.
    assert f"model = {function}(num_classes=10)" in code
    code = code.replace(f"{function}(num_classes=10)", f"{function}(num_classes=10, block_sizes=(1, 1), growth_rate=4)")
    values = {}
    exec(compile(code, page, "exec"), values)
    assert values["logits"].shape == (8, 10)
    assert set(values["variables"]) == {"params", "batch_stats"}
    assert set(values["updates"]) == {"batch_stats"}


def commands(page):
    """The options of every `python train.py` on a page; what the shell fills in is a number."""
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"python train\.py ([^`\n]*)", text):
        yield shlex.split(re.sub(r"\$\w+", "0", line), comments=True)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_commands_are_ones_that_train_py_understands(page, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    train = importlib.import_module("train")
    for options in commands(page):
        if options != ["--help"]:
            check(with_recipe(train.parse(options).training))


def test_all_recipes_are_described_as_they_are():
    page = (ROOT / "docs" / "recipes.md").read_text()
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {recipe.source} | {recipe.target} |" in page


def test_the_lines_on_training_as_a_library_run(tmp_path, monkeypatch, capsys):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # The same lines with a network that compiles and trains faster.
    assert 'TrainConfig("resnet20", steps=4, ' in code
    values = {}
    exec(compile(code.replace("steps=4, ", "steps=1, width=4, augment=(), "), "training.md", "exec"), values)
    assert values["evaluation"].accuracy == values["result"].summary["test_accuracy"]
    assert (tmp_path / "runs" / "library" / "summary.json").exists()
    assert "test accuracy" in capsys.readouterr().out


def test_every_module_of_training_is_in_the_reading_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))
    modules = {path.stem for path in (ROOT / "training_flax").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(modules)
