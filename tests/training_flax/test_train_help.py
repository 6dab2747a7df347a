"""The help of train.py, and of every other command."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from training_flax import RECIPES, parse_options, train_command
from training_flax.config.train_help import GROUPS, how_to_start
from weights_flax import ARCHS

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(
    f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py") if "class Options" in path.read_text()
)
COMMANDS = (
    *("training_flax", "training_flax.predict", "training_flax.compare", "training_flax.prepare", "theory_flax"),
    *("weights_flax", "weights_flax inspect", "weights_flax convert", "weights_flax export", "theory_flax nesting"),
    *("theory_flax gradient_identity", "theory_flax all"),
)


def test_every_option_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(option.name for option in fields(train_command.CommandLine))


def helped(command, capsys, monkeypatch, columns):
    """Returns the help of a command, in this process."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    module, *arguments = command.split()
    with pytest.raises(SystemExit) as stopped:
        if module.startswith("benchmarks"):
            kind = importlib.import_module(module).Options
            parse_options(kind, ["--help"], prog=module, description="")
        elif module == "training_flax":
            train_command.main(["--help"])
        elif module == "training_flax.predict":
            importlib.import_module("training_flax.inference.command").main(["--help"])
        elif module == "training_flax.compare":
            importlib.import_module("training_flax.run.comparison").main(["--help"])
        elif module == "training_flax.prepare":
            importlib.import_module("training_flax.prepare_command").main(["--help"])
        else:
            importlib.import_module(f"{module}.__main__").main([*arguments, "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [*COMMANDS, *BENCHMARKS])
def test_no_help_shows_a_default_of_none(command, capsys, monkeypatch):
    text = helped(command, capsys, monkeypatch, 100)
    assert "usage:" in text
    words = " ".join(text.replace("│", " ").split())
    assert "default: None" not in words and "default: )" not in words and "listed above" not in words


def run(*arguments, cwd=ROOT, **environment):
    """Runs train.py as from a shell."""
    command = [sys.executable, "-W", "error", str(ROOT / "train.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_help_of_train_is_in_groups_and_fits_the_terminal(columns):
    done = run("--help", COLUMNS=str(columns))
    assert (done.returncode, done.stderr) == (0, "")
    titles = re.findall(r"─ (\w+) options ─", done.stdout)
    assert titles == list(GROUPS)
    assert {"data", "model", "optimizer", "augmentation", "devices", "logging"} <= set(titles)
    boxes = [line for line in done.stdout.splitlines() if line.startswith(("│", "╭", "╰"))]
    assert {len(line) for line in boxes} == {columns}
    own = [name for name, arch in ARCHS.items() if arch.__module__.startswith(("resnet_flax", "densenet_flax"))]
    for name in (*own, *RECIPES):  # tests add architectures of theirs
        assert re.search(rf"\b{name}\b", done.stdout)
    for title, names in GROUPS.items():
        box = done.stdout.split(f"─ {title} options ─")[1].split("╰")[0]
        assert re.findall(r"│ --([\w-]+)", box) == [name.replace("_", "-") for name in names]


@pytest.mark.parametrize("prog", ["train.py", "python -m training_flax"])
def test_the_command_alone_shows_how_to_start(prog, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_command.main([], prog) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == how_to_start(prog)
    assert not list(tmp_path.iterdir())
    command = "python train.py" if prog == "train.py" else prog
    examples = [line.split("#")[0] for line in err.splitlines() if line.startswith("  ")]
    assert len(examples) == 4
    for example in examples:
        assert example.startswith(f"  {command} --")
        options = train_command.parse(shlex.split(example.removeprefix(f"  {command}")))
        assert options.arch in ARCHS or options.out == Path("runs/RUN")
    assert err.splitlines()[-1].endswith(f"{command} --help")


@pytest.mark.slow
def test_the_command_alone_from_the_shell(tmp_path):
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == how_to_start("train.py")
