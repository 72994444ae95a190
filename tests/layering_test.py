"""The import rules of the house, checked on the syntax tree of every module."""

from __future__ import annotations

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ncap_jax"
STAGES = ["data", "zoo", "finetune", "capacitance", "predictor", "selection", "report"]

MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: pathlib.Path) -> set[str]:
    """Dotted names of everything a module imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def reads_argv(path: pathlib.Path) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "argv"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
        for node in ast.walk(ast.parse(path.read_text()))
    )


def stage_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: pathlib.Path, package: str) -> bool:
    return any(name == package or name.startswith(package + ".") for name in imported(path))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_rules(path):
    stage = stage_of(path)
    assert not imports(path, "experiments")
    assert not imports(path, "benchmarks")
    assert not imports(path, "tests")
    if path.name != "__main__.py":
        assert not imports(path, "absl.flags"), "flags belong in __main__.py"
        assert not imports(path, "absl.app")
        assert not reads_argv(path)
    if stage not in ("zoo", "finetune"):
        assert not imports(path, "flax"), "Flax lives in zoo and finetune only"
    if stage == "capacitance":
        ours = {name for name in imported(path) if name.startswith("ncap_jax")}
        allowed = ("ncap_jax.types", "ncap_jax.errors", "ncap_jax.capacitance")
        assert all(
            n.startswith(allowed) or n in ("ncap_jax.types", "ncap_jax.errors") for n in ours
        )
    if path.name == "reference.py":
        assert not imports(path, "jax")
    assert not imports(path, "tensorflow"), "TensorFlow is never imported at run time"
    assert not imports(path, "pickle"), "weights and checkpoints are never pickled"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    """A stage never imports one that comes after it; the kernels stand outside the order."""
    order = ["data", "zoo", "finetune", "predictor", "selection", "report"]
    stage = stage_of(path)
    if stage not in order:
        return
    for later in order[order.index(stage) + 1 :]:
        assert not imports(path, f"ncap_jax.{later}")


def test_two_folder_levels():
    for path in MODULES:
        assert len(path.relative_to(PACKAGE).parts) <= 3, path
