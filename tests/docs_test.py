"""The documents: what they name exists, their links lead somewhere, the site builds."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

import ncap_jax as ncap

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "colab").glob("*.py")),
]
FLAG = re.compile(r"(?<![\w-])--(?:no)?([a-z][a-z_]+)\b")
# A command of a benchmark or an experiment, over several lines where it must.
SCRIPT = re.compile(r"`python -m (?P<name>(?:benchmarks|experiments)\.\w+)[^`]*`")
# Flags of other programs that the documents mention.
FOREIGN = {
    *("file_format", "to", "help", "build", "editable", "quiet"),
    "xla_cpu_experimental_ynn_fusion_type",
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_public_names_exist(path):
    for name in re.findall(r"\bncap\.([A-Za-z]\w*)", path.read_text()):
        assert getattr(ncap, name) is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_dotted_names_exist(path):
    """`ncap_jax.a.b.c`: modules as far as they go, then attributes."""
    for dotted in re.findall(r"\bncap_jax\.([\w.]*\w)", path.read_text()):
        value: object = ncap
        for part in dotted.split("."):
            if not hasattr(value, part):
                value = importlib.import_module(f"{value.__name__}.{part}")  # type: ignore[attr-defined]
            else:
                value = getattr(value, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_flags_exist(path):
    importlib.import_module("ncap_jax.__main__")
    known = set(flags.FLAGS) | FOREIGN
    text = SCRIPT.sub("", path.read_text())
    commands = "\n".join(line for line in text.splitlines() if "-m experiments" not in line)
    named = set(FLAG.findall(commands))
    assert named <= known, named - known


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_flags_of_scripts_exist(path):
    for script in SCRIPT.finditer(path.read_text()):
        source = (ROOT / f"{script['name'].replace('.', '/')}.py").read_text()
        known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
        named = set(FLAG.findall(script[0]))
        assert named <= known, (script["name"], named - known)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_links_of_the_front_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_site_builds_without_a_warning(tmp_path):
    """`make docs`: strict, so a dead link or a missing docstring stops it."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    method = (tmp_path / "site" / "method.html").read_text()
    assert method.count("<math") > 20
    assert "\\(" not in method
