"""The reports of a run that was finished: what they show, and where they find it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import ncap_jax as ncap
from ncap_jax import data, errors
from ncap_jax.finetune import loop, trajectory_files
from ncap_jax.report import finished as finishes
from ncap_jax.report.ranking_files import ranking_to_json, read_ranking
from ncap_jax.run import finish_report
from tests.support import finishing, toy_runs
from tests.support.finished import without_figures
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


def test_the_time_of_ranking_and_finish_is_told(run):
    """Read from the folder: the command `finish` has not seen the ranking's calls."""
    page = Page((run[0] / "report.html").read_text())
    took = r"Wall time in all: [^,]+, [\d.]+ s for the ranking and [\d.]+ s for the finish\."
    assert re.search(took, page.text)
    assert re.search(took, (run[0] / "report.md").read_text())


@pytest.fixture
def finished(run, tmp_path, monkeypatch):
    """A copy of the folder to rank in again; the reports have no figures there."""
    without_figures(monkeypatch)
    return shutil.copytree(run[0], tmp_path / "run")


def rank_again(folder, **changes):
    """Repeat the ranking in its folder, or let it grow; returns it and the page."""
    models = toy_runs.POOL[: changes.pop("models", 3)]
    config = dataclasses.replace(finishing.CONFIG, **changes)
    ranking = ncap.rank_models(models, finishing.data(), config, folder, show_progress=False)
    return ranking, Page((folder / "report.html").read_text())


def test_a_ranking_that_is_repeated_still_shows_the_winner(run, finished, monkeypatch):
    """It trains nothing, and does not open the test part."""
    monkeypatch.setattr(loop, "advance", None)
    monkeypatch.setattr(data, "load_test_part", None)
    _, page = rank_again(finished)
    winner = run[1]
    use = finishes.uses(str(finished / "winner"))
    for words in (finishes.answer(winner.facts), *use, "for the finish."):
        assert words in page.text
    pictures = [
        [a["src"] for tag, a in each.elements if tag == "img" and "taken for" in a["alt"]]
        for each in (page, Page((run[0] / "report.html").read_text()))
    ]
    assert pictures[0] == pictures[1] != []
    for name, end in winner.facts.chosen["finished"].items():
        assert f"2 + {end['epochs'] - 2}{end['best epoch']}" in page.text, name
    assert "newer" not in page.text
    assert finishes.answer(winner.facts).replace("_", r"\_") in (finished / "report.md").read_text()


def test_a_ranking_that_has_changed_shows_the_winner_and_says_so(run, finished):
    _, page = rank_again(finished, models=2, predictor="last_seen")
    told = "ranked by last_seen instead of last_validation_accuracy, without toy_3"
    assert f"The ranking below is newer than this model: {told}." in page.text
    assert finishes.answer(run[1].facts) in page.text
    assert "To train its first models to the end: ncap.finish(ranking)" in page.text
    # The earlier ranking, asked for again, is the one that was finished.
    assert "newer" not in rank_again(finished)[1].text


def test_a_damaged_winner_costs_a_ranking_no_more_than_a_warning(finished):
    (finished / "winner" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"^the report lacks the winner: .*safetensors is damaged"):
        ranking, page = rank_again(finished)
    assert [row.name for row in ranking.models][:2] == list(finishing.NAMES)
    assert "The winner" not in page.text
    assert "To train the first models to the end and keep the best" in page.text


def test_a_picture_that_cannot_be_read_costs_a_warning():
    class Gone:
        def __getitem__(self, index):
            raise errors.ChangedDataError("a.jpg is gone", "Restore it")

    with pytest.warns(UserWarning, match="the report lacks a picture: a.jpg is gone. Restore it."):
        assert finish_report._picture(Gone(), 0) == b""
