"""The reports of a run that was finished: what they show, and where they find it."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.report import finished as finishes
from ncap_jax.report.ranking_files import ranking_to_json, read_ranking
from ncap_jax.run import finish_report
from tests.support import finishing
from tests.support.page import Page


@pytest.fixture(scope="module")
def ranking():
    return finishing.rank()


@pytest.fixture(scope="module")
def run(ranking, tmp_path_factory):
    """A folder finished with reports, and the winner."""
    folder = finishing.in_folder(ranking, tmp_path_factory.mktemp("finished") / "run")
    return folder, finishing.finish(folder, reports=True)


def test_the_page_of_a_folder_shows_ranking_and_winner(run):
    folder, winner = run
    page = Page((folder / "report.html").read_text())
    ranking = read_ranking(folder)
    use = finishes.uses(str(folder / "winner"))
    for words in (finishes.answer(winner.facts), *use, f"Fine-tune {ranking.best.name}"):
        assert words in page.text
    ends = [
        trajectory_files.read(folder / "finish/trajectories" / f"{name}.jsonl")
        for name in finishing.NAMES
    ]
    for rank, (name, records) in enumerate(zip(finishing.NAMES, ends), 1):
        best = winner.facts.chosen["finished"][name]["best epoch"]
        assert f"{name}{rank}2 + {records[-1].epoch - 2}{best}" in page.text
    # The ranking's own figures and facts, read from the folder.
    figures = [a.get("aria-label", "") for tag, a in page.elements if tag == "svg"]
    assert any(
        label.startswith("Validation accuracy of 3 models over 2 epochs") for label in figures
    )
    assert json.loads((folder / "run.json").read_text())["device"] in page.text
    assert finishes.answer(winner.facts).replace("_", r"\_") in (folder / "report.md").read_text()


def test_the_wrong_images_are_those_of_the_test_part(run):
    folder, winner = run
    page = Page((folder / "report.html").read_text())
    shown = [a["src"] for tag, a in page.elements if tag == "img" and "taken for" in a["alt"]]
    mistakes = winner.facts.metrics["test"].mistakes
    assert len(shown) == len(mistakes) > 0
    for source, mistake in zip(shown, mistakes):
        png = base64.b64decode(source.split(",")[1])
        pixels = finishing.data().test_images[mistake.index]
        picture = np.asarray(Image.open(io.BytesIO(png))).reshape(pixels.shape)
        np.testing.assert_array_equal(picture, pixels)


def test_the_rankings_own_file_stays_what_it_was(run, ranking):
    assert (run[0] / "ranking.json").read_text() == ranking_to_json(ranking)


def test_a_picture_that_cannot_be_read_costs_a_warning():
    class Gone:
        def __getitem__(self, index):
            raise errors.ChangedDataError("a.jpg is gone", "Restore it")

    with pytest.warns(UserWarning, match="the report lacks a picture: a.jpg is gone. Restore it."):
        assert finish_report._picture(Gone(), 0) == b""
