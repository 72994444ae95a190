"""The notebooks fit the package, run from top to bottom, are paired, and carry no outputs."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jupytext
import nbclient
import nbformat
import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax.api import finish
from ncap_jax.options import check
from ncap_jax.types import Ranking
from ncap_jax.zoo import find_models
from tests.support import package_use
from tests.support.pool import make_trajectory
from tests.support.winners import tiny_winner

OWN = "own_model_and_data"
COLAB = pathlib.Path(__file__).resolve().parents[2] / "colab"
# What the cell tagged `parameters` is followed by here, so that a run takes seconds.
SMALL = {
    "quickstart": ('MODELS, EPOCHS, FINISH_EPOCHS = ["tiny_depthwise", "tiny_plain_barely"], 1, 1'),
    "own_model_and_data": (
        "EPOCHS, FINISH_EPOCHS, TRAIN, VALIDATION, PROBE_WIDTHS = 1, 1, 60, 60, (16, 12, 8)"
    ),
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


def installed_by(cell: str, monkeypatch: pytest.MonkeyPatch, known: tuple[str, ...]) -> list[str]:
    """What a first cell gives to pip in a runtime without the package; pip installs `known`."""
    given: list[str] = []

    def run(command: list[str], check: bool = False) -> subprocess.CompletedProcess:
        assert command[:-1] == [sys.executable, "-m", "pip", "install", "--quiet"]
        given.append(command[-1])
        return subprocess.CompletedProcess(command, 0 if command[-1] in known else 1)

    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        patched.setattr("subprocess.run", run)
        exec(cell, {})
    return given


def test_the_first_cell_installs_by_name(monkeypatch):
    """One cell, the same in every notebook."""
    (cell,) = {first_cell(COLAB, name) for name in SMALL}
    assert installed_by(cell, monkeypatch, known=("ncap_jax",)) == ["ncap_jax"]


def test_the_first_cell_says_what_is_missing_where_the_name_is_unknown(monkeypatch):
    with pytest.raises(SystemExit) as raised:
        installed_by(first_cell(COLAB, "quickstart"), monkeypatch, ())
    assert str(raised.value) == (
        "pip cannot install ncap_jax by its name. "
        "Write the Git address of the project into REPOSITORY and run this cell again."
    )


@pytest.mark.parametrize("name", SMALL)
def test_the_first_cell_falls_back_on_the_address_that_was_published(name, tmp_path, monkeypatch):
    """`make address` writes it into notebook and script."""
    shutil.copytree(COLAB, tmp_path / "colab")
    shutil.copy(COLAB.parent / "Makefile", tmp_path)
    address = "https://example.org/us/ncap_jax.git"
    subprocess.run(["make", "address", f"URL={address}"], cwd=tmp_path, check=True)
    cell = first_cell(tmp_path / "colab", name)
    known = (f"git+{address}",)
    assert installed_by(cell, monkeypatch, known) == ["ncap_jax", f"git+{address}"]
    script = jupytext.read(tmp_path / "colab" / f"{name}.py")
    assert cell in [cell.source for cell in script.cells]


def code_of(name: str) -> str:
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", SMALL)
def test_the_notebook_fits_the_package(name):
    """Every name and every call, those of branches that do not run here included."""
    assert package_use.problems(code_of(name)) == []


def test_what_does_not_fit_is_found():
    """The test above can fail: each of these lines is one mistake."""
    lines = {
        "ncap.rank_modles": "line 3: ncap has no rank_modles",
        "ncap.RankConfig(epoch=1)": (
            "line 3: ncap.RankConfig: got an unexpected keyword argument 'epoch'"
        ),
        "ncap.load_dataset(max_trian=1)": "line 3: ncap.load_dataset: no option max_trian",
        "ncap.ModelSpec('name')": "line 3: ncap.ModelSpec: missing a required argument: 'build'",
        "reference.dense(1)": "line 3: reference has no dense",
        "from ncap_jax.predictor import PREDICTOR": "line 3: ncap_jax.predictor has no PREDICTOR",
    }
    start = "import ncap_jax as ncap\nfrom ncap_jax.capacitance import reference\n"
    for line, problem in lines.items():
        assert package_use.problems(start + line) == [problem]
    fits = "ncap.load_dataset(*a, max_train=1)\nncap.RankConfig(**b).epochs\nunknown.name(1, c=2)"
    assert package_use.problems(start + fits) == []


def ranking_without_training(*arguments: Any, **options: Any) -> Ranking:
    """Stands for `rank_models`: checks what it is given, and ranks made-up trajectories."""
    from ncap_jax.api import rank_models

    call = inspect.signature(rank_models).bind(*arguments, **options)
    call.apply_defaults()
    given = call.arguments
    config = given["config"] or ncap.RankConfig()
    check(config)
    dataset = ncap.load_dataset(given["dataset"], given["data_config"], seed=config.seed)
    rng = np.random.default_rng(0)
    trajectories = [
        dataclasses.replace(
            make_trajectory(spec.name, config.epochs, rng.uniform(0.7, 0.9), 0.6, rng),
            head=config.head,
        )
        for spec in find_models(given["models"])
    ]
    if given["output_dir"] is not None:
        folder = pathlib.Path(given["output_dir"])
        folder.mkdir(parents=True)
        (folder / "ranking.json").write_text("{}")
    return ncap.rank_trajectories(trajectories, dataset.name, config)


def winner_without_training(ranking: Ranking, **options: Any) -> ncap.Winner:
    """Stands for `finish`: checks what it is given; a model that is as it was before training."""
    call = inspect.signature(finish).bind(ranking, **options)
    check(call.arguments["config"])
    winner = tiny_winner()
    winner.save("runs/quickstart/winner")
    return winner


def run_cells(name: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's code, cell by cell, in this process; the kernel's part is tested below."""
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(small(name).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}.ipynb, cell {number}", "exec"), namespace)


@pytest.fixture
def compiled_cheaply():
    """Programs that run a few times are not worth XLA's optimisation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("compiled_cheaply")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_cells_run_on_a_ranking(name, tmp_path, monkeypatch, capsys):
    """All of the code but the fine-tuning of candidates, which `rank_models` is tested for."""
    monkeypatch.setattr(ncap, "rank_models", ranking_without_training, raising=False)
    monkeypatch.setattr(ncap, "finish", winner_without_training, raising=False)
    # Keras takes seconds to import; the slow test below has it.
    monkeypatch.setitem(
        SMALL, "own_model_and_data", f"{SMALL['own_model_and_data']}; WITH_KERAS = 0"
    )
    run_cells(name, tmp_path, monkeypatch)
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "understanding_beta_eff"])
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_the_notebook_runs(name, tmp_path, monkeypatch, capsys):
    """With the fine-tuning; the notebook left out ranks nothing and runs above."""
    run_cells(name, tmp_path, monkeypatch)
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
    tables = [
        output.data["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/html" in output.get("data", ())
    ]
    assert sum("Winner: " in table for table in tables) == (name in ("quickstart", OWN))
