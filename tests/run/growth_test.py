"""A run that goes on with other options: what it takes of its folder, lacks and says."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax import errors
from ncap_jax.options import RankConfig
from ncap_jax.run import growth
from ncap_jax.run.recorded import Recorded
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

CONFIG = RankConfig(epochs=2)


def record(epoch, beta=True):
    values = ({"absolute": (0.5,)}, {"absolute": ("ok",)}) if beta else ({}, {})
    return EpochRecord(epoch, 1.0, 0.5, 1.0, 0.5, None, *values)


RECORDS = tuple(record(epoch, beta=epoch == 3) for epoch in range(4))
MODEL = Recorded("a", RECORDS, state=3)


def test_of_what_a_folder_keeps_a_ranking_is_made_of_a_part():
    ranking = rank_trajectories([MODEL.until(1, RankConfig(epochs=1))], "set")
    kept = [Trajectory(name, "linear", RECORDS) for name in ("a", "set aside")]
    (found,) = growth.as_ranked(kept, ranking, CONFIG, num_train=100)
    assert (found.model, found.records) == ("a", RECORDS[:2])


def test_a_predictor_needs_what_it_reads_after_every_epoch(tmp_path):
    by_beta = RankConfig(epochs=3, predictor="scaled_ridge")
    with pytest.raises(errors.OutputError) as error:
        growth.check_measured({"a": MODEL}, by_beta, tmp_path, followed=False)
    assert error.value.cause == (
        f"{tmp_path} was recorded without what predictor='scaled_ridge' reads: a has no "
        "absolute beta_eff after epochs 0, 1, 2"
    )
    assert error.value.remedy == "Choose another folder, or a predictor that reads no beta_eff"
    growth.check_measured({"a": MODEL}, RankConfig(), tmp_path, followed=False)
    always = {"b": Recorded("b", tuple(record(epoch) for epoch in range(4)))}
    growth.check_measured(always, by_beta, tmp_path, followed=False)


def test_a_model_that_was_followed_without_any_has_none(tmp_path):
    """Its network is too short, or a race stopped it before it was measured: `followed` tells."""
    by_beta = RankConfig(epochs=3, predictor="scaled_ridge")
    bare = {"a": Recorded("a", tuple(record(epoch, beta=False) for epoch in range(4)))}
    growth.check_measured(bare, by_beta, tmp_path, followed=True)
    with pytest.raises(errors.OutputError, match="a has no absolute beta_eff after epochs 0, 1, 2"):
        growth.check_measured(bare, by_beta, tmp_path, followed=False)
    with pytest.raises(errors.OutputError):
        growth.check_measured({"a": MODEL}, by_beta, tmp_path, followed=True)


@pytest.mark.parametrize(
    ("earlier", "config", "expected"),
    [
        ({"predictor": "default", "epochs": 3}, RankConfig(predictor="scaled_ridge"), False),
        ({"predictor": "scaled_ridge", "epochs": 3}, RankConfig(), True),
        ({"beta_eff": "every_epoch", "epochs": 3}, RankConfig(beta_eff="every_epoch"), True),
        ({"epochs": 3}, RankConfig(head="probe"), True),
    ],
)
def test_what_an_earlier_ranking_followed(earlier, config, expected):
    assert growth.was_followed(earlier, config, 100) == expected


def test_a_metric_by_class_needs_answers_by_class(tmp_path):
    by_class = RankConfig(epochs=2, metric="macro_f1")
    with pytest.raises(errors.OutputError) as error:
        growth.check_counted({"a": MODEL}, by_class, tmp_path)
    assert error.value.cause == (
        f"{tmp_path} was recorded without the answers by class that metric='macro_f1' is computed "
        "from: a has none after epochs 0, 1, 2"
    )
    assert error.value.remedy == "Choose another folder, or metric='accuracy'"
    growth.check_counted({"a": MODEL}, RankConfig(), tmp_path)
    counts = ClassCounts((1,), ((1,),), ((1,),))
    whole = tuple(dataclasses.replace(r, validation_counts=counts) for r in RECORDS[:3])
    beyond = Recorded("a", (*whole, RECORDS[3]))  # what is not ranked need not be counted
    growth.check_counted({"a": beyond}, by_class, tmp_path)


def test_what_is_said_of_the_folder_before_training():
    known = {
        "new": Recorded("new", RECORDS[:1]),  # of which no epoch was trained
        "whole": Recorded("whole", tuple(record(epoch) for epoch in range(4))),
        "cut": MODEL,
        "kept": Recorded("kept", RECORDS[:2], state=1),
        "lost": Recorded("lost", RECORDS[:2]),
    }
    assert growth.notes(known, CONFIG, 100) == [
        "All epochs are in the folder already: whole, a.",
        "Going on from the states that were kept: kept.",
        "Repeating the epochs in the folder, because no state was kept: lost.",
        "Without a beta_eff after the last epoch, where it was not measured: a.",
    ]
    assert growth.notes({}, CONFIG, 100) == []
