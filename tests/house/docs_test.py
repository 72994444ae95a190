"""The documents: what they name exists, their links lead somewhere."""

from __future__ import annotations

import importlib
import pathlib
import re
import shutil
import subprocess

import pytest
from absl import flags

import ncap_jax as ncap
from ncap_jax.options import FinishConfig, options_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLES = ROOT / "experiments" / "tables"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "results").glob("*.md"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES, *sorted((ROOT / "colab").glob("*.py"))]
FLAG = re.compile(r"(?<![\w-])--(?:no)?([a-z][a-z_]+)\b")
# A command of a benchmark or an experiment, over several lines where it must.
SCRIPT = re.compile(
    r"(?:`|^)python -m (?P<name>(?:benchmarks|experiments)\.\w+)"
    r"(?:\\\n|[^`\n]|\n(?=[^`\n]+`))*",
    re.MULTILINE,
)
# Flags of other programs that the documents mention.
FOREIGN = {
    *("file_format", "to", "help", "build", "editable", "quiet", "update", "write"),
    "xla_cpu_experimental_ynn_fusion_type",
}
# Page -> the generated tables that it quotes lines of, and nothing else.
QUOTED = {
    "early-signals": ("compare_predictors_embedded",),
    "embedded-pool": ("embedded_study",),
    "few-images": ("few_images_study",),
    "finish": ("finish_study", "finish_live"),
    "from-scratch": ("nas_cells",),
    "halving": ("halving_study",),
    "long-epochs": ("long_epochs_study",),
    "long-lists": ("long_list_study",),
    "race": ("race_study",),
    "recall": ("recall_study",),
    "rivals": ("rivals_study", "power_study"),
    "shortlist": ("shortlist_study", "few_images_live", "growth_study"),
    "published-weights": (
        "compare_predictors_genuine",
        "published_study",
        "batch_norm_memory",
    ),
}
INTERVAL = re.compile(r"-?\d\.\d\d\s\[-?\d\.\d\d,\s-?\d\.\d\d\]")


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def table_lines(path: pathlib.Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")]


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s+", "-", title) for title in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_public_names_exist(path):
    for name in re.findall(r"\bncap\.([A-Za-z]\w*)", path.read_text()):
        assert getattr(ncap, name) is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_dotted_names_exist(path):
    """`ncap_jax.a.b.c`: modules as far as they go, then attributes."""
    for dotted in re.findall(r"\bncap_jax\.([\w.]*\w)", path.read_text()):
        value: object = ncap
        for part in dotted.split("."):
            if not hasattr(value, part):
                value = importlib.import_module(f"{value.__name__}.{part}")  # type: ignore[attr-defined]
            else:
                value = getattr(value, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_flags_exist(path):
    importlib.import_module("ncap_jax.__main__")
    commands = [file.read_text() for file in (ROOT / "ncap_jax" / "commands").glob("*.py")]
    own = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', "\n".join(commands))
    finish = [option.name for option in options_of(FinishConfig)]
    known = {*flags.FLAGS, *FOREIGN, *own, *finish}
    text = SCRIPT.sub("", path.read_text())
    lines = "\n".join(line for line in text.splitlines() if "-m experiments" not in line)
    named = set(FLAG.findall(lines))
    assert named <= known, named - known


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_flags_of_scripts_exist(path):
    for script in SCRIPT.finditer(path.read_text()):
        source = (ROOT / f"{script['name'].replace('.', '/')}.py").read_text()
        known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
        named = set(FLAG.findall(script[0]))
        assert named <= known, (script["name"], named - known)


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.suffix == ".md"], ids=name_of)
def test_links_lead_somewhere(path):
    """To files and to headings; from a page of the site to the site alone."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if file.parent == ROOT / "docs" / "notebooks":  # a page made from the notebook
            assert path in PAGES, target
            assert (ROOT / "colab" / f"{file.stem}.ipynb").exists(), target
            continue
        assert file.exists(), target
        if path in PAGES:
            assert file.is_relative_to(ROOT / "docs"), target
        if anchor and file.name != "api.md":  # whose anchors come from docstrings
            assert anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("page", QUOTED)
def test_pages_quote_generated_tables(page):
    """The tests of the scripts compare the tables with what the scripts print."""
    generated = {line for name in QUOTED[page] for line in table_lines(TABLES / f"{name}.md")}
    quoted = table_lines(ROOT / "docs" / "results" / f"{page}.md")
    assert len(quoted) > 5
    assert [line for line in quoted if line not in generated] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_intervals_are_those_of_generated_tables(path):
    """`0.55 [0.38, 0.71]`, wherever it is said."""
    generated = "\n".join(file.read_text(encoding="utf-8") for file in TABLES.glob("*.md"))
    said = {" ".join(found.split()) for found in INTERVAL.findall(path.read_text())}
    assert {interval for interval in said if interval not in generated} == set()


def test_every_result_is_on_the_site_and_in_the_index():
    index = (ROOT / "docs" / "results" / "index.md").read_text()
    site = (ROOT / "mkdocs.yml").read_text()
    for path in sorted((ROOT / "docs" / "results").glob("*.md")):
        assert f"results/{path.name}" in site
        assert path.name == "index.md" or f"({path.name})" in index


def test_the_badge_opens_the_published_notebook(tmp_path):
    """And the site's pages of notebooks know the repository (`site_test.py`)."""
    for name in ("Makefile", "README.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "colab", tmp_path / "colab")
    url = "https://github.com/us/them.git"
    subprocess.run(["make", "address", f"URL={url}"], cwd=tmp_path, check=True)
    opened = "https://colab.research.google.com/github/us/them/blob/main/colab/quickstart.ipynb"
    assert f"colab-badge.svg)]({opened})" in (tmp_path / "README.md").read_text()
    assert '\n  github: "us/them"  #' in (tmp_path / "mkdocs.yml").read_text()
