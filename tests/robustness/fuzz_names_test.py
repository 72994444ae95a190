"""Random names and paths from outside: reports show them as text, lists reach no other file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil

from hypothesis import strategies as st

from ncap_jax import errors
from ncap_jax.data.listing import list_csv
from ncap_jax.finetune import trajectory_files
from ncap_jax.report import html, markdown
from ncap_jax.run import ledger
from ncap_jax.run.folder import RunFolder
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.fuzzing import FACTS, LINE, fuzz, lines, mutated
from tests.support.page import Page, whole_info
from tests.support.pool import make_pool

# What means something to a browser, to Markdown, to a template or to a file system.
PIECES = st.sampled_from(
    ["<script>", "</", "-->", "]]>", "&lt;", '"', "'", "`", "|", "{{", "{%", "\n", "$x$", "\\", "#"]
)
NAMES = st.lists(PIECES | st.text(max_size=4), min_size=1, max_size=5).map("".join)


@fuzz(NAMES, examples=200)
def test_words_in_markdown(words, folder):
    """One line, and no character that has a meaning stands there unescaped."""
    text = markdown.escape(words)
    assert "\n" not in text
    bare = text.replace("\\\\", "").replace("\\", "\0")
    assert all(bare[at - 1] == "\0" for at, c in enumerate(bare) if c in "`*_{}[]<>#|~!")


def shape(name):
    """Tags and attributes' names of a page whose every word from outside is `name`."""
    pool = [dataclasses.replace(t, model=f"{t.model}{name}") for t in make_pool(2)]
    pool[1] = dataclasses.replace(pool[1], status="failed", message=f"x{name}")
    info = whole_info(class_names=(f"x{name}",), data={"x": f"x{name}"}, command=f"x{name}")
    page = html.render(rank_trajectories(pool, f"x{name}", info=info))
    page.encode("utf-8")
    elements = Page(page).elements
    # Glyphs are drawn once each: their number follows from the words.
    return [(tag, sorted(a)) for tag, a in elements if tag not in ("path", "use", "defs", "g")]


@fuzz(NAMES, examples=3, long=60)
def test_names_in_the_page(name, folder):
    """The same elements with the same attributes, whatever the names."""
    assert shape(name) == shape("plain")


PATHS = st.lists(
    st.sampled_from(["..", ".", "/", "a", "b.png", "\\", "~", "\0", "etc", "\udcff", " "]),
    min_size=1,
    max_size=6,
).map("/".join)
ROWS = st.lists(st.tuples(PATHS, st.sampled_from(["cat", "dog"])), min_size=1, max_size=3)
CSV = ROWS.map(lambda rows: "".join(f'"{path}",{label}\n' for path, label in rows))
CSV_FILES = CSV.map(lambda text: text.encode("utf-8", "surrogateescape")) | mutated(
    b"path,label,split\na/b.png,cat,train\nc.png,dog,validation\n"
)


@fuzz(CSV_FILES, examples=200)
def test_lists_of_images(content, folder):
    (folder / "list.csv").write_bytes(content)
    try:
        listing = list_csv(folder / "list.csv")
    except errors.DataError:
        return
    for source, labels in listing.parts.values():
        assert len(source.paths) == len(labels)
        for path in source.paths:
            assert os.path.normpath(path) == path
            assert os.path.commonpath([path, folder]) == str(folder)
            with contextlib.suppress(OSError):
                os.stat(path)  # no ValueError: a path that the system can be asked for


ENTRIES = b"".join(
    json.dumps(dataclasses.asdict(ledger.Entry(name, "ok", "", 1.0, 2))).encode() + b"\n"
    for name in FACTS["models"]
)
FOLDERS = st.tuples(lines(LINE), mutated(ENTRIES))


@fuzz(FOLDERS, examples=100)
def test_a_folder_that_a_run_resumes_in(contents, folder):
    """What was done before is taken as it was, or repeated; with warnings only."""
    (model,) = FACTS["models"]
    shutil.rmtree(folder / "run", ignore_errors=True)
    with RunFolder(folder / "run", FACTS) as run:
        (run.path / trajectory_files.FOLDER / f"{model}.jsonl").write_bytes(contents[0])
        (run.path / ledger.FILE).write_bytes(contents[1])
        with contextlib.suppress(errors.OutputError):
            trajectory_files.load_trajectories(run.path)
        for name, known in run.recorded().items():
            assert name == model
            assert [record.epoch for record in known.records] == list(range(len(known.records)))
        run.files.halving_note(model)
        resumed = run.files.position(model)
        assert resumed.state is None
        assert repr(trajectory_files.read(run.files.trajectory(model))) == repr(resumed.records)
