"""The notebooks, run from their first cell to their last on this machine."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LLVM = 3
EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def read(name):
    return nbformat.read(EXAMPLES / name, as_version=4)


def execute(notebook, steps, folder, monkeypatch):
    """Runs the cells in a folder, with fewer steps than are written there."""
    # The kernel is a process of its own, in which the packages must be importable and warnings are as usual.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    cells = {cell.id: cell for cell in notebook.cells}
    source = cells["options"].source
    cells["options"].source = re.sub(r"STEPS = \d+", f"STEPS = {steps}", source)
    assert cells["options"].source != source
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return cells


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_kept_without_outputs(name):
    nbformat.validate(read(name))
    for cell in read(name).cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.slow
def test_the_notebook_stops_goes_on_looks_and_predicts(tmp_path, monkeypatch):
    notebook = read("colab.ipynb")
    again = nbformat.v4.new_code_cell("fit(config)")
    notebook.cells.append(again)
    cells = execute(notebook, 6, tmp_path, monkeypatch)
    stopped_after = re.search(r"stopped by SIGTERM after step (\d), which is saved", said(cells["stop"]))
    assert f"going on after step {stopped_after[1]} of 6" in said(cells["train"])
    assert re.search(r"^[\d.]+ % of the test images$", said(cells["train"]), re.MULTILINE)
    assert pictures(cells["look"]) == 3
    assert len(re.findall(r"^\d \(it is \d\)$", said(cells["predict"]), re.MULTILINE)) == 8
    assert "is finished: 6 steps" in said(again)
    assert (tmp_path / "runs" / "resnet20-digits-6" / "summary.json").exists()


@pytest.mark.slow
def test_the_lecture_goes_from_degradation_to_dense_networks(tmp_path, monkeypatch):
    cells = execute(read("theory.ipynb"), 12, tmp_path, monkeypatch)
    first = re.findall(
        r"(\w+), (\d+) layers: training loss [\d.]+; .* first step ([\d.]+)", said(cells["degradation-run"])
    )
    assert [network[:2] for network in first] == [(k, d) for k in ("PlainNet", "ResNet") for d in ("8", "44")]
    assert "the deepened network's logits are the same: True\nPlainNet has no shortcuts" in said(cells["nesting-run"])
    assert len(re.findall(r"blocks: error [\d.]+ plain, [\d.]+ residual", said(cells["identity-run"]))) == 2
    error = re.search(r"differ by (\S+) of the gradient's norm", said(cells["carried-run"]))[1]
    assert float(error) <= 1e-5
    assert said(cells["dense-run"]).rstrip().endswith(" 100%")  # the last layer has none behind it
    assert "13 of identity, 3 of projection" in said(cells["side-run"])
    drawn = ("degradation-run", "shattering-run", "carried-run", "dense-run", "side-run")
    assert [pictures(cells[name]) for name in drawn] == [1] * 5
