"""The notebooks run from top to bottom, are paired, and carry no outputs."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import jupytext
import nbclient
import nbformat
import pytest

COLAB = pathlib.Path(__file__).resolve().parents[2] / "colab"
# What the cell tagged `parameters` is followed by here, so that a run takes seconds.
SMALL = {
    "quickstart": 'MODELS, EPOCHS = ["tiny_depthwise", "tiny_plain_barely"], 1',
    "own_model_and_data": "EPOCHS, TRAIN, VALIDATION, PROBE_WIDTHS = 1, 60, 60, (16, 12, 8)",
    "understanding_beta_eff": "STEPS, SIZES = 60, (4,)",
    # The models of the first one again: their programs are compiled once.
    "reproduce_paper": (
        'SMALL_MODELS, EPOCHS, EARLY = ["tiny_depthwise", "tiny_plain_barely"], 2, 2'
    ),
}


def test_all_notebooks_are_here():
    assert {path.stem for path in COLAB.glob("*.py")} == set(SMALL)
    assert {path.stem for path in COLAB.glob("*.ipynb")} == set(SMALL)


def small(name: str) -> nbformat.NotebookNode:
    """The notebook with small values injected behind its parameters."""
    notebook = jupytext.read(COLAB / f"{name}.ipynb")
    tagged = [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    ]
    assert len(tagged) == 1, "one cell holds the parameters"
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(SMALL[name]))
    return notebook


@pytest.mark.parametrize("name", SMALL)
def test_the_notebook_is_its_script_without_outputs(name):
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    script = jupytext.read(COLAB / f"{name}.py")

    def content(nb):
        return [(cell.cell_type, cell.source, cell.metadata.get("tags")) for cell in nb.cells]

    assert content(notebook) == content(script), "run: jupytext --to ipynb colab/*.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "REPOSITORY" in code[0].source, "the first cell installs"


def first_cell(folder: pathlib.Path, name: str) -> str:
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", SMALL)
def test_the_first_cell_installs_from_the_address_that_was_published(name, tmp_path, monkeypatch):
    """`make address` writes it; before that, a runtime without the package is told what to do."""
    commands: list[list[str]] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    with pytest.raises(SystemExit, match="address of this repository"):
        exec(first_cell(COLAB, name), {})
    assert not commands

    shutil.copytree(COLAB, tmp_path / "colab")
    shutil.copy(COLAB.parent / "Makefile", tmp_path)
    monkeypatch.undo()
    url = "https://example.org/us/ncap_jax.git"
    subprocess.run(["make", "address", f"URL={url}"], cwd=tmp_path, check=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    exec(first_cell(tmp_path / "colab", name), {})
    assert commands[0][1:4] == ["-m", "pip", "install"]
    assert commands[0][-1] == f"git+{url}"
    script = jupytext.read(tmp_path / "colab" / f"{name}.py")
    assert first_cell(tmp_path / "colab", name) in [cell.source for cell in script.cells]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_the_notebook_runs(name, tmp_path, monkeypatch, capsys):
    """Its code, cell by cell, in this process; the kernel's part is tested below."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for number, cell in enumerate(small(name).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}.ipynb, cell {number}", "exec"), namespace)
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_notebook_runs_in_a_kernel(name, tmp_path):
    """As Jupyter and Colab run it: figures and tables are shown."""
    notebook = small(name)
    nbclient.NotebookClient(
        notebook, timeout=1200, resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown = {
        kind
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", ())
    }
    assert "image/png" in shown or name == "own_model_and_data"
    assert "text/html" in shown or name == "understanding_beta_eff"
