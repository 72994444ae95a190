"""`finish` on the command line: its flags, what it prints, and its refusals."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax.commands import finish
from ncap_jax.options import FinishConfig
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.command_line import here
from tests.support.pool import make_pool
from tests.support.winners import toy_winner


@pytest.fixture
def asked(monkeypatch):
    """What `ncap_jax.finish` is asked for; it gives a toy."""
    calls = []

    def finish(ranking, config):
        calls.append((ranking, config))
        return toy_winner()

    monkeypatch.setattr("ncap_jax.api.finish", finish)
    return calls


def test_the_flags_are_the_options(asked, tmp_path):
    said = here("finish", "runs/my run", "--top=3", "--schedule=plateau", cwd=tmp_path)
    assert said.code == 0, said.err
    assert asked == [("runs/my run", FinishConfig(top=3, schedule="plateau"))]
    lines = said.out.splitlines()
    assert lines[0] == "Winner: toy_1"
    assert lines[1].startswith("Validation part: 75.00 % of 4 images right (95 % interval ")
    assert lines[2].startswith("Test part: 50.00 % of 2 images right")
    assert lines[3:] == [
        "Model: runs/my run/winner",
        "Use it: python -m ncap_jax predict 'runs/my run/winner' IMAGES",
    ]


@pytest.mark.parametrize(("words", "count"), [([], 0), (["a", "b"], 2)])
def test_one_run_is_finished(tmp_path, words, count):
    said = here("finish", *words, cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"error: finish takes one run, not {count}. Write python -m ncap_jax finish RUN, with the "
        "folder of a ranking.\n"
    )


def test_a_folder_that_is_no_run_and_an_option_that_cannot_work(tmp_path):
    said = here("finish", "nothing", cwd=tmp_path)
    assert (said.code, said.err) == (
        2,
        "error: nothing has no run.json: no run was made there. Give the folder in which models "
        "were ranked (output_dir).\n",
    )
    said = here("finish", "nothing", "--patience=0", cwd=tmp_path)
    assert said.err == "error: patience=0. Give a whole number of at least 1.\n"


def test_ctrl_c_says_how_to_resume(monkeypatch, tmp_path, capfd):
    def interrupted(ranking, config):
        raise KeyboardInterrupt

    monkeypatch.setattr("ncap_jax.api.finish", interrupted)
    assert here("finish", "runs/a", cwd=tmp_path).code == 130
    assert capfd.readouterr().err == ("interrupted; python -m ncap_jax finish runs/a resumes\n")


def paced(seconds: float, start: float):
    """A ranking of three models of five epochs, the first of which compiles."""
    pool = []
    for run in make_pool(models=3, epochs=5):
        records = [
            dataclasses.replace(r, seconds=seconds * (1 + (r.epoch == 1))) for r in run.records
        ]
        whole = start + sum(record.seconds for record in records[1:])
        pool.append(dataclasses.replace(run, records=tuple(records), seconds=whole))
    return rank_trajectories(pool, "set")


@pytest.mark.parametrize(
    ("top", "budget", "epochs"),
    [
        (1, None, 25),
        (1, 90.0, 10),  # of 30 seconds 10 are a start, and an epoch takes 2
        (2, 90.0, 2),  # two starts
        (1, 3600.0, 25),
        (2, 9.0, 1),
    ],
)
def test_as_many_epochs_as_fit_into_what_is_kept(top, budget, epochs):
    found = finish.within(paced(2.0, 10.0), top, budget)
    assert found == FinishConfig(top=top, max_epochs=epochs)


def test_two_thirds_are_the_rankings():
    assert finish.ranking_seconds(90.0) == pytest.approx(60.0)
    assert finish.ranking_seconds(None) is None
