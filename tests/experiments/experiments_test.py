"""The studies: importable side by side and beside the main program, each with its command."""

from __future__ import annotations

import importlib
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import experiments

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODULES = sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))
STUDIES = [
    name
    for name in MODULES
    if "app.run(main)" in (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
]


def test_studies_and_main_program_share_a_process():
    """Absl keeps one table of flags a process: modules that are imported must define none twice."""
    importlib.import_module("ncap_jax.__main__")
    for name in MODULES:
        importlib.import_module(f"experiments.{name}")


@pytest.fixture(scope="module")
def help_texts() -> dict[str, str]:
    """What every study prints for `--helpshort`."""
    command = [sys.executable, "-m", "tests.support.study_help", *STUDIES]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_prints_its_flags(name: str, help_texts: dict[str, str]):
    assert f"-m experiments.{name}" in help_texts[name]
    assert "--" in help_texts[name].split("flags:")[-1]
