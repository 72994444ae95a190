"""The built site, opened as files: pages, search, signatures, notebooks; nothing from a network."""

from __future__ import annotations

import configparser
import html.parser
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from ncap_jax import options
from ncap_jax.options import DataConfig, FinishConfig, RankConfig
from tests.support.browser import CHROMIUM, browse

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# What a browser fetches on its own when it shows a page; a link that a reader follows is not here.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LONGEST_LINE = 80  # characters of a signature that a screen of 1280 pixels shows
# Types a word into the field of the search, as a reader does.
TYPE = """<script>addEventListener("load", () => setTimeout(() => {
  const field = document.querySelector("[data-md-component=search-query]");
  field.focus();
  field.value = "halving";
  field.dispatchEvent(new Event("keyup", {bubbles: true}));
}, 1000));</script></body>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """`make docs`: strict, so a dead link or a missing docstring stops it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


class Fetches(html.parser.HTMLParser):
    """The addresses that a page makes a browser fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address and dict(attrs).get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(address)


def plain(text: str) -> str:
    """A piece of HTML as the reader sees it."""
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_equations_are_mathml_and_every_option_is_listed(site):
    method = (site / "method.html").read_text()
    assert method.count("<math") > 20
    assert "\\(" not in method
    page = (site / "options.html").read_text()
    for record in (RankConfig, DataConfig, FinishConfig):
        for option in options.options_of(record):
            assert f"<code>{option.name}</code>" in page


def test_no_page_fetches_anything_from_a_network(site):
    """Scripts, styles, fonts and pictures lie beside the pages."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    outside = {
        (page.name, address)
        for page in pages
        for address in Fetches(page.read_text()).addresses
        if re.match(r"(https?:)?//", address)
    }
    assert outside == set()
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_search_finds_what_is_typed_into_a_page_that_is_opened_as_a_file(site, tmp_path):
    page = (site / "index.html").read_text()
    typed = site / "typed.html"
    typed.write_text(page.replace("</body>", TYPE))
    dom, messages, requests = browse(typed, tmp_path / "profile")
    typed.unlink()
    hits = re.findall(r'<a href="([^"]*)" class="md-search-result__link"', dom)
    assert (site / "results" / "halving.html").as_uri() in hits
    assert messages == []
    assert requests == []


def test_signatures_are_broken_into_lines(site):
    found = re.findall(
        r'<div class="doc-signature highlight"><pre>(.*?)</pre>',
        (site / "api.html").read_text(),
        re.DOTALL,
    )
    signatures = [plain(signature) for signature in found]
    assert len(signatures) > 40
    (ranking,) = (s for s in signatures if s.startswith("rank_models("))
    assert ranking.splitlines()[0] == "rank_models("
    assert [s for s in signatures if max(map(len, s.splitlines())) > LONGEST_LINE] == []
    (config,) = (s for s in signatures if s.startswith("RankConfig("))
    assert config.splitlines()[1] == "    epochs: int = 5,"


def test_what_builds_the_documents_brings_the_formatter_of_signatures():
    """Without one, mkdocstrings leaves each signature in one line and does not complain."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options.extras_require"]["docs"]
    assert re.search(r"^(ruff|black)\b", needed, re.MULTILINE), needed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_a_page(site, path):
    """In the navigation, with its text and its code, highlighted, and the file to download."""
    page = (site / "notebooks" / f"{path.stem}.html").read_text()
    cells = json.loads(path.read_text())["cells"]
    title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
    assert re.search(rf"<h1[^>]*>{re.escape(title)}<", page)
    code = re.findall(r'<div class="highlight"><pre>(.*?)</pre>', page, re.DOTALL)
    assert [plain(block).strip() for block in code] == [
        "".join(cell["source"]).strip() for cell in cells if cell["cell_type"] == "code"
    ]
    assert '<span class="kn">import</span>' in page
    assert f'<a download href="{path.name}">' in page
    assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()
    assert f'href="notebooks/{path.stem}.html"' in (site / "index.html").read_text()


def test_lists_and_references_of_notebooks_are_lists_and_links(site):
    quickstart = (site / "notebooks" / "quickstart.html").read_text()
    assert re.search(r"<li><em>predicted</em>", quickstart)
    assert '<a href="own_model_and_data.html">' in quickstart
    theory = (site / "notebooks" / "understanding_beta_eff.html").read_text()
    assert '<a href="../method.html">' in theory
    assert theory.count("<math") > 5


def test_the_page_of_a_published_notebook_leads_to_colab():
    """`make address` writes the repository into mkdocs.yml; before that there is no such link."""
    path = ROOT / "docs" / "notebook_pages.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    address = "https://colab.research.google.com/github/us/them/blob/main/colab/quickstart.ipynb"
    notebook = ROOT / "colab" / "quickstart.ipynb"
    assert f"[open it in Colab]({address})" in "\n".join(pages.blocks(notebook, "us/them"))
    assert "colab.research" not in "\n".join(pages.blocks(notebook, ""))
