"""What is delivered: the wheel's contents, and the wheel in an empty environment."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

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


def test_the_wheel_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        (entry,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "ncap_jax = ncap_jax.__main__:console" in archive.read(entry).decode()
    lines = metadata.splitlines()
    assert "Requires-Python: >=3.11" in lines
    needed = {
        re.match(r"Requires-Dist: ([\w.-]+)", line)[1].lower()
        for line in lines
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    }
    assert {"jax", "flax", "optax", "numpy"} <= needed
    # What a plain installation must not pull in.
    assert not needed & {"tensorflow", "torch", "keras", "ray", "huggingface-hub", "mkdocs"}


def test_version_and_citation_agree():
    version = importlib.metadata.version("ncap_jax")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """Dependencies from the package index, no checkout in sight, as a user has it."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
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
