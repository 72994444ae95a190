"""What a folder keeps of its winner for later reports: found again, or left out with a warning."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

import pytest

from ncap_jax import files
from ncap_jax.report import winner_page
from ncap_jax.report.finished import FinishedRun, RankingSummary
from ncap_jax.run import finish_record
from tests.support import fuzzing
from tests.support.finished import finished_run, without_figures

WEIGHTS = b"the weights, which are not loaded"


def made(folder: pathlib.Path) -> FinishedRun:
    """A run's folder with a winner, as far as its reports look, and what they show of it."""
    place = folder / "winner"
    place.mkdir(parents=True)
    run = finished_run(
        folder=str(place),
        seconds=61.5,
        ranking=RankingSummary("logme", 5, ("model_0", "model_1")),
    )
    (place / "model.safetensors").write_bytes(WEIGHTS)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    run = dataclasses.replace(run, facts=dataclasses.replace(run.facts, sha256=digest))
    (place / "model.json").write_text(run.facts.to_json())
    (folder / "finish").mkdir()
    finish_record.write(folder, run)
    return run


def test_what_is_written_is_found_again(tmp_path: pathlib.Path):
    run = made(tmp_path)
    found = finish_record.found(tmp_path)
    assert files.strict(found) == files.strict(run)  # in which NaN equals NaN


def test_a_folder_without_a_winner_has_nothing_to_show(tmp_path: pathlib.Path):
    assert finish_record.found(tmp_path) is None
    made(tmp_path / "a")
    (tmp_path / "a" / "finish" / "report.json").unlink()
    assert finish_record.found(tmp_path / "a") is None
    made(tmp_path / "b")
    (tmp_path / "b" / "winner").rename(tmp_path / "elsewhere")
    assert finish_record.found(tmp_path / "b") is None


def changed(name: str, change: Callable[[dict], None]) -> Callable[[pathlib.Path], None]:
    """What replaces a file of JSON by one with other fields."""

    def apply(folder: pathlib.Path) -> None:
        fields = json.loads((folder / name).read_text())
        change(fields)
        (folder / name).write_text(json.dumps(fields))

    return apply


def cut(folder: pathlib.Path) -> None:
    (folder / "winner" / "model.safetensors").write_bytes(WEIGHTS[:-1])


def retrained(folder: pathlib.Path) -> None:
    """Another model in the winner's place, sound in itself."""
    (folder / "winner" / "model.safetensors").write_bytes(b"others")
    digest = hashlib.sha256(b"others").hexdigest()
    changed("winner/model.json", lambda f: f.update(sha256=digest))(folder)


REPORT = "finish/report.json"


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (cut, "model.safetensors is damaged: its SHA-256 is not the one in model.json"),
        (lambda f: (f / "winner" / "model.json").write_bytes(b"{"), "model.json is not valid JSON"),
        (lambda f: (f / "winner" / "model.safetensors").unlink(), "No such file or directory"),
        (retrained, "winner holds another model than the one that was finished here"),
        (changed("winner/model.json", lambda f: f.update(metrics={})), "winner has no figures"),
        (lambda f: (f / REPORT).write_bytes(b"\xff"), "report.json: 'utf-8' codec can't decode"),
        (changed(REPORT, lambda f: f.update(schema=2)), "report.json: schema is 2, not 1"),
        (changed(REPORT, lambda f: f.pop("schema")), "report.json: schema is None, not 1"),
        (changed(REPORT, lambda f: f.pop("ranking")), "report.json: ranking is missing"),
        (changed(REPORT, lambda f: f["pictures"].pop()), "report.json: 9 pictures of 10 mistakes"),
        (
            changed(REPORT, lambda f: f["pictures"][0].update(png="%")),
            "report.json: Only base64 data is allowed",
        ),
        (
            changed(REPORT, lambda f: f["models"][0]["records"].pop(3)),
            "report.json: models.model_0 lacks epochs",
        ),
        (
            changed(REPORT, lambda f: f["models"][1].update(best_epoch=99)),
            "report.json: models.model_1 has no epoch 99",
        ),
    ],
)
def test_a_damaged_winner_costs_a_warning(tmp_path: pathlib.Path, damage, cause: str):
    made(tmp_path)
    damage(tmp_path)
    with pytest.warns(UserWarning, match="^the report lacks the winner: ") as warned:
        assert finish_record.found(tmp_path) is None
    (told,) = warned
    assert cause in str(told.message)
    assert str(told.message).endswith(". To save it anew, finish the run again")


@fuzzing.fuzz(fuzzing.st.data(), examples=15, long=1000)
def test_whatever_is_found_can_be_shown(value, tmp_path: pathlib.Path):
    file = tmp_path / REPORT
    if not file.exists():
        made(tmp_path)
        (tmp_path / "genuine").write_bytes(file.read_bytes())
    genuine = (tmp_path / "genuine").read_bytes()
    file.write_bytes(value.draw(fuzzing.mutated(genuine) | fuzzing.with_json(genuine)))
    run = finish_record.found(tmp_path)
    if run is not None:
        with pytest.MonkeyPatch.context() as patch:
            without_figures(patch)
            winner_page.parts(run)
