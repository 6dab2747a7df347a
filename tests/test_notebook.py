"""The notebook for Colab, run from its first cell to its last on this machine."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "colab.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_is_kept_without_outputs():
    nbformat.validate(read())
    for cell in read().cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.slow
def test_the_notebook_stops_goes_on_looks_and_predicts(tmp_path, monkeypatch):
    # The kernel is a process of its own, in which the packages must be importable and warnings are as usual.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parent.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read()
    cells = {cell.id: cell for cell in notebook.cells}
    source = cells["options"].source
    cells["options"].source = re.sub(r"STEPS = \d+", "STEPS = 6", source)
    assert cells["options"].source != source
    again = nbformat.v4.new_code_cell("fit(config)")
    notebook.cells.append(again)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    stopped_after = re.search(r"stopped by SIGTERM after step (\d), which is saved", said(cells["stop"]))
    assert f"going on after step {stopped_after[1]} of 6" in said(cells["train"])
    assert re.search(r"^[\d.]+ % of the test images$", said(cells["train"]), re.MULTILINE)
    assert ["image/png" in output.data for output in cells["look"].outputs] == [True] * 3
    assert len(re.findall(r"^\d \(it is \d\)$", said(cells["predict"]), re.MULTILINE)) == 8
    assert "is finished: 6 steps" in said(again)
    assert (tmp_path / "runs" / "resnet20-digits-6" / "summary.json").exists()
