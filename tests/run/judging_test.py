"""How a winner is described; its figures are tested in finishing_test, on one that was trained."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.held_out import HeldOut
from ncap_jax.options import FinishConfig, RankConfig
from ncap_jax.run import judging
from ncap_jax.types import ClassCounts, EpochRecord, RankedModel, Ranking
from ncap_jax.winner.facts import LEAKS
from ncap_jax.winner.training import Converged, Weights
from tests.support.small import small_config, small_digits
from tests.support.toy_runs import POOL

NAN = float("nan")


def test_how_a_winner_was_chosen():
    rows = tuple(
        RankedModel(name, "ok", rank, *(0.5, 0.1, 0.5, 0.5, 2, (), (), 1.0))
        for rank, name in enumerate("abc", start=1)
    )
    ranking = Ranking("data", RankConfig(epochs=2, seed=7), rows, predictor="last_seen")
    records = tuple(EpochRecord(n, NAN, NAN, 1.0, right) for n, right in enumerate((0.1, 0.7, 0.6)))
    ended = Converged(records, 1, Weights({}, {}))
    said = judging.how_chosen(ranking, FinishConfig(top=1), {"b": ended})
    assert said["candidates"] == ["a", "b", "c"]
    assert said["ranked by"] == "last_seen after 2 epochs"
    assert said["finished"] == {
        "b": {"rank": 2, "epochs": 2, "best epoch": 1, "validation accuracy": 0.7}
    }
    by_class = dataclasses.replace(ranking, config=RankConfig(epochs=2, metric="macro_f1"))
    counts = ClassCounts((2, 2), ((1, 2),), ((1, 3),))
    counted = tuple(dataclasses.replace(record, validation_counts=counts) for record in records)
    ended = Converged(counted, 1, Weights({}, {}), "macro_f1")
    other = judging.how_chosen(by_class, FinishConfig(top=1), {"b": ended})
    assert other["ranked by"] == "last_seen after 2 epochs, macro F1"
    assert other["finished"]["b"]["validation macro F1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert said["options"]["top"] == 1
    assert said["seed"] == 7


def job(**dataset: Any) -> Any:
    """As much of a job as is looked at."""
    changed = dataclasses.replace(small_digits(), **dataset)
    return SimpleNamespace(specs=POOL, dataset=changed, config=small_config())


def test_copies_in_the_test_part_are_counted_and_warned_of():
    digits = small_digits()
    assert LEAKS not in judging.describe_data(job(), None)
    test = HeldOut(digits.images[:3], np.zeros(3, np.int32))
    with pytest.warns(UserWarning, match="^3 of 3 test images are also among"):
        described = judging.describe_data(job(), test)
    assert described[LEAKS] == 3
    assert described["test images"] == 3
    assert judging.draft(job(), POOL[0].name, described).leaks == 3


@pytest.mark.parametrize(
    ("dataset", "problem"),
    [
        (
            {"class_names": ("", *"123456789")},
            "class_names is ('', '1', '2', '3', '4', '5', '6', '7', '8', '9'), not 2 to 100000 "
            "names, none of them empty or twice",
        ),
        (
            {"images": np.broadcast_to(np.uint8(0), (96, 5000, 4000, 3))},
            "preprocessing.image_size is (5000, 4000), not height and width of at most 16777216 "
            "pixels",
        ),
    ],
)
def test_what_no_package_could_hold_is_refused(dataset: Any, problem: str):
    with pytest.raises(errors.PackageError) as caught:
        judging.draft(job(**dataset), POOL[0].name, {})
    name = POOL[0].name
    assert caught.value.cause == f"{name} could not be saved once it is finished: {problem}"
    assert caught.value.remedy == "Change that, and rank again"
