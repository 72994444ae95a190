"""What a finish goes on from, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

import ncap_jax as ncap
from ncap_jax import distributed, errors
from ncap_jax.options import FinishConfig
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.run import finish_source
from ncap_jax.run.request import Source
from ncap_jax.types import RankedModel
from tests.support import fake_training, finishing, toy_runs

ROW = RankedModel("toy_1", "ok", 1, *(0.5, 0.1, 0.5, 0.5, 2, (), (), 1.0))


@pytest.fixture(scope="module")
def ranking():
    """Of three toys whose training is fake."""
    with pytest.MonkeyPatch.context() as patch:
        fake_training.install(patch)
        return finishing.rank()


@pytest.fixture
def folder(ranking, tmp_path):
    return finishing.in_folder(ranking, tmp_path / "run")


def find(ranking, **more):
    return finish_source.find(finish_source.FinishRequest(ranking, FinishConfig(), **more))


def refusal(kind, *arguments, **more):
    """Cause and remedy of the refusal of a run."""
    with pytest.raises(kind) as error:
        find(*arguments, **more)
    assert type(error.value) is kind
    return error.value.cause, error.value.remedy


def test_a_ranking_in_memory_knows_its_run(ranking):
    ranked = find(ranking)
    assert ranked.ranking is ranking
    assert ranked.request is ranking.source.request
    assert ranked.folder == ranking.source.folder == ranked.scratch.path


def test_a_folder_is_read(ranking, folder):
    for place in (folder, folder / "run.json", str(folder)):
        ranked = find(place, dataset=finishing.data(), models=toy_runs.POOL)
        assert ranked.folder == folder
        assert ranked.ranking.models == read_ranking(folder).models
        assert ranked.request.config == ranking.config
        assert ranked.request.models is toy_runs.POOL


def test_what_the_command_line_ranked_needs_nothing_more(folder):
    content = json.loads((folder / "run.json").read_text())
    content["command"] = "python -m ncap_jax --models=tiny_plain --dataset=digits"
    (folder / "run.json").write_text(json.dumps(content))
    request = find(folder).request
    assert (request.models, request.dataset) == (("toy_1", "toy_2", "toy_3"), "digits")


def test_a_run_on_arrays_needs_them_again(folder):
    assert refusal(errors.ConfigError, folder) == (
        f"{folder} holds a run on arrays, or of models made in Python",
        "Give what it was made with again, in Python: finish(folder, dataset=..., models=...)",
    )


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_no_runs_is_refused(tmp_path, there):
    place = tmp_path / "nothing"
    if there:
        place.mkdir()
    assert refusal(errors.OutputError, place) == (
        f"{place} has no run.json: no run was made there",
        "Give the folder in which models were ranked (output_dir)",
    )


def test_a_run_that_is_not_ranked_yet_is_refused(folder):
    (folder / "ranking.json").unlink()
    assert refusal(errors.OutputError, folder) == (
        f"the models in {folder} are not ranked yet",
        "Repeat the command that began it, which resumes",
    )


def test_a_ranking_that_was_read_does_not_know_its_run(folder):
    assert refusal(errors.ConfigError, read_ranking(folder)) == (
        "this ranking does not know its run: it was read from a file, or copied",
        "Give the run's folder instead",
    )


def test_a_run_that_was_removed_is_refused(ranking, tmp_path):
    gone = dataclasses.replace(
        ranking, source=Source(ranking.source.request, tmp_path / "gone", None)
    )
    assert refusal(errors.OutputError, gone) == (
        f"the run's folder {tmp_path / 'gone'} is gone",
        "Rank again",
    )


def test_several_processes_are_refused(ranking, monkeypatch):
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    assert refusal(errors.ConfigError, ranking) == (
        "finish as one of several processes",
        "Finish in one process; it may use a mesh",
    )


def test_without_a_ranked_model_there_is_nothing_to_finish(ranking):
    failed = tuple(dataclasses.replace(row, rank=None) for row in ranking.models)
    ranked = find(dataclasses.replace(ranking, models=failed))
    with pytest.raises(errors.ModelError, match=r"^no model could be ranked\. See the status"):
        ranked.first(2)


def test_the_first_models_are_those_with_the_first_ranks(ranking):
    last = dataclasses.replace(ranking.models[-1], rank=None)
    ranked = find(dataclasses.replace(ranking, models=(*ranking.models[:-1], last)))
    assert [row.name for row in ranked.first(9)] == [row.name for row in ranking.models[:-1]]
    assert [row.name for row in ranked.first(1)] == [ranking.models[0].name]


@pytest.mark.parametrize(
    ("removed", "cause", "remedy"),
    [
        (
            ["toy_2"],
            "toy_2",
            "Finish fewer models (top=1), or rank again in another folder with keep_states=2",
        ),
        (["toy_1"], "toy_1", "Rank again in another folder with keep_states=1"),
        (["toy_1", "toy_2"], "toy_1, toy_2", "Rank again in another folder with keep_states=2"),
    ],
)
def test_states_that_were_removed_are_named(folder, removed, cause, remedy):
    ranked = find(folder, dataset=finishing.data(), models=toy_runs.POOL)
    for name in removed:
        shutil.rmtree(folder / "checkpoints" / name)
    rows = [dataclasses.replace(ROW, name=f"toy_{n}", rank=n) for n in (1, 2)]
    with pytest.raises(errors.OutputError) as error:
        finish_source.check_states(ranked, rows)
    assert error.value.cause == f"the fine-tuned state of {cause} was not kept"
    assert error.value.remedy == remedy


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dataset": toy_runs.small_digits(96, 60)}, "data.num_validation was 70, is 60"),
        ({"models": [toy_runs.toy(9, "toy_1")]}, 'models.toy_2 was {"weights_sha256": null}'),
    ],
)
def test_what_has_changed_since_the_ranking_is_named(folder, changes, named):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(errors.DataError) as error:
        ncap.finish(folder, **{"dataset": finishing.data(), "models": toy_runs.POOL, **changes})
    assert error.value.cause.startswith(
        f"this is not what the models in {folder} were ranked on; different: "
    )
    assert named in error.value.cause
    assert error.value.remedy == "Restore it, or rank again in another folder"
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
