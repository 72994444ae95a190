"""Each notebook of colab/ as a page of the site, unexecuted, with its file to download.

The pages are made when the site is built; nothing beyond MkDocs is needed.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

COLAB = pathlib.Path(__file__).resolve().parents[1] / "colab"
COLAB_SITE = "https://colab.research.google.com/github/{}/blob/main/colab/{}"
DOWNLOAD = (
    "[Download the notebook]({name}){{ download }} and open it with `jupyter lab {name}`; "
    "`pip install 'ncap_jax[notebooks]'` brings Jupyter."
)
OPEN = " Or [open it in Colab]({address})."
# A notebook names a page or another notebook as a file; the site can lead there.
PAGE = re.compile(r"`docs/([\w/-]+\.md)`")
NOTEBOOK = re.compile(r"`(\w+)\.ipynb`")
FENCE = "````"  # longer than any in a notebook


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by MkDocs with the files of the site."""
    for path in sorted(COLAB.glob("*.ipynb")):
        text = "\n\n".join(blocks(path, config.extra["github"]))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    return files


def blocks(path: pathlib.Path, github: str) -> Iterator[str]:
    """The page of a notebook in pieces: title, where to open it, texts and code.

    Args:
        path: the notebook.
        github: owner and name of the repository that Colab opens; empty before publication.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, _, first = source(cells[0]).partition("\n")
    yield title
    yield where_to_open(path.name, github)
    yield linked(first)
    for cell in cells[1:]:
        if cell["cell_type"] == "markdown":
            yield linked(source(cell))
        else:
            yield f"{FENCE}python\n{source(cell)}\n{FENCE}"


def where_to_open(name: str, github: str) -> str:
    """How the reader gets the notebook to run."""
    address = OPEN.format(address=COLAB_SITE.format(github, name)) if github else ""
    return DOWNLOAD.format(name=name) + address


def source(cell: dict) -> str:
    """The text of a cell, which the format keeps in lines."""
    return "".join(cell["source"])


def linked(text: str) -> str:
    """The text with links to the pages and notebooks that it names."""
    return NOTEBOOK.sub(r"[`\1.ipynb`](\1.md)", PAGE.sub(r"[`docs/\1`](../\1)", text))
