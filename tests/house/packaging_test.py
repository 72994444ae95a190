"""What is delivered: the wheel's contents, and the wheel in an empty environment."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

import pytest

from tests.support import syntax

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ncap_jax"
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy of the sources with the installed setuptools: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "ncap_jax", ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package(wheel):
    """Modules, embedded weights and their manifest, report templates, py.typed; nothing else."""
    delivered = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert delivered == source
    assert "ncap_jax/py.typed" in delivered
    assert "ncap_jax/zoo/weights/tiny_resnet.safetensors" in delivered
    assert {"html", "css", "js"} <= {name.rsplit(".", 1)[-1] for name in delivered}


def metadata(wheel: pathlib.Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name).decode().splitlines()


def required(wheel: pathlib.Path) -> set[str]:
    """The packages that a plain installation needs, normalised."""
    return {
        re.match(r"Requires-Dist: ([\w.-]+)", line)[1].lower().replace("_", "-")
        for line in metadata(wheel)
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    }


def test_the_wheel_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "ncap_jax = ncap_jax.__main__:console" in archive.read(entry).decode()
    assert "Requires-Python: >=3.11" in metadata(wheel)
    needed = required(wheel)
    assert {"jax", "flax", "optax", "numpy"} <= needed
    # What a plain installation must not pull in.
    assert not needed & {"tensorflow", "torch", "keras", "ray", "huggingface-hub", "mkdocs"}


def test_version_and_citation_agree():
    version = importlib.metadata.version("ncap_jax")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def extra(name: str) -> set[str]:
    """The packages that an extra names, those of the extras in it included, normalised."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    found: set[str] = set()
    for line in setup["options.extras_require"][name].splitlines():
        if inner := re.match(r"ncap_jax\[([\w,]+)\]", line):
            found = found.union(*map(extra, inner[1].split(",")))
        elif package := re.match(r"[\w.-]+", line):
            found.add(package[0].lower().replace("_", "-"))
    return found


def test_the_notebooks_extra_brings_jupyter_and_what_the_notebooks_import(wheel):
    """`pip install 'ncap_jax[notebooks]'`, then `jupyter lab colab/quickstart.ipynb`."""
    code = "\n".join(path.read_text() for path in (ROOT / "colab").glob("*.py"))
    imported = {name.split(".")[0] for name in syntax.imported(ast.parse(code))}
    owners = importlib.metadata.packages_distributions()
    outside = imported - sys.stdlib_module_names - {"ncap_jax"}
    needed = {owners[name][0].lower().replace("_", "-") for name in outside}
    assert {"keras", "networkx", "matplotlib"} <= needed
    assert needed | {"jupyterlab", "ipykernel"} <= extra("notebooks") | required(wheel)


def installed(requirement: str, folder: pathlib.Path) -> pathlib.Path:
    """The interpreter of a new environment with that alone."""
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", requirement]
    # A checkout on the path would pass for an installation.
    subprocess.run(command, env={**os.environ, "PYTHONPATH": ""}, check=True)
    return python


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """Dependencies from the package index, no checkout in sight, as a user has it."""
    python = installed(str(wheel), tmp_path)
    arguments = ["--models=tiny_depthwise", "--epochs=1", "--max_validation=100"]
    for command in ([str(python), "-m", "ncap_jax"], [str(python.parent / "ncap_jax")]):
        result = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env={"PATH": "", "HOME": str(tmp_path), "NCAP_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "Fine-tune tiny_depthwise" in result.stdout
    for folder in ("digits", "digits-2"):
        ranking = json.loads((tmp_path / "runs" / folder / "ranking.json").read_text())
        assert [model["status"] for model in ranking["models"]] == ["ok"]
        assert (tmp_path / "runs" / folder / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1800)  # mostly the installation of 160 packages
def test_the_notebooks_extra_opens_and_runs_a_notebook(wheel, tmp_path):
    """JupyterLab serves the notebook, and its kernel runs it, in an environment of its own."""
    binaries = installed(f"{wheel}[notebooks]", tmp_path).parent
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "NCAP_OFFLINE": "1"}
    notebook = json.loads((ROOT / "colab" / "quickstart.ipynb").read_text())
    (parameters,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", ()))
    parameters["source"] += ['\nMODELS, EPOCHS = ["tiny_depthwise"], 1']
    (tmp_path / "quickstart.ipynb").write_text(json.dumps(notebook))
    convert = ["jupyter", "nbconvert", "--to", "markdown", "--execute", "quickstart.ipynb"]
    subprocess.run(convert, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert "Fine-tune tiny_depthwise" in (tmp_path / "quickstart.md").read_text()
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=a"]
    lab = subprocess.Popen(
        ["jupyter", "lab", *options, "quickstart.ipynb"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in lab.stderr)
        address = next(filter(None, said))[0]
        assert b"JupyterLab" in answer(f"{address}/lab/tree/quickstart.ipynb?token=a")
        contents = answer(f"{address}/api/contents/quickstart.ipynb?token=a")
        assert json.loads(contents)["type"] == "notebook"
    finally:
        lab.terminate()
        lab.communicate()


def answer(address: str, seconds: float = 30) -> bytes:
    """What a server answers, which says where it listens a moment before it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(address).read()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
