"""The records: what they derive from their own fields, and what they do not import."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.options import RankConfig
from ncap_jax.types import (
    Dataset,
    EpochRecord,
    InferenceCost,
    InferenceSpeed,
    Prediction,
    RankedModel,
    Ranking,
    RunInfo,
    Trajectory,
)


def record(epoch: int, accuracy: float = 0.5, **changes: object) -> EpochRecord:
    return EpochRecord(epoch, 1.0, 0.5, 1.0, accuracy, **changes)  # type: ignore[arg-type]


def row(rank: int | None, status: str = "ok", message: str = "") -> RankedModel:
    return RankedModel(
        name="a", status=status, rank=rank, predicted_accuracy=0.5, std=0.1, best_seen=0.5,
        last_seen=0.5, epochs=1, beta_eff=(), validation_accuracy=(), seconds=0.0, message=message,
    )  # type: ignore[arg-type]  # fmt: skip


def test_classes_are_those_of_the_names_or_of_the_labels() -> None:
    images = np.zeros((3, 2, 2, 1), np.uint8)
    assert Dataset(images, np.array([0, 2, 1])).num_classes == 3
    assert Dataset(images, np.array([0, 1, 1]), class_names=("a", "b", "c", "d")).num_classes == 4


def test_a_trajectory_counts_the_epochs_that_trained() -> None:
    assert Trajectory("a", "linear", ()).epochs == 0
    assert Trajectory("a", "linear", (record(0),)).epochs == 0
    assert Trajectory("a", "linear", (record(0), record(1))).epochs == 1


def test_a_series_has_nan_where_nothing_was_recorded() -> None:
    trajectory = Trajectory("a", "linear", (record(0), record(1, running_loss=2.0)))
    np.testing.assert_array_equal(trajectory.series("running_loss"), [np.nan, 2.0])
    assert trajectory.series("running_loss").dtype == np.float64


def test_beta_eff_is_the_mean_over_probes_and_nan_where_it_was_not_measured() -> None:
    with_probes = [record(i, beta_eff={"absolute": (1.0 + i, 3.0 + i)}) for i in range(2)]
    trajectory = Trajectory("a", "probe", tuple(with_probes))
    np.testing.assert_array_equal(trajectory.beta_eff("absolute"), [2.0, 3.0])
    assert trajectory.beta_eff("signed").size == 0
    pause = Trajectory("a", "probe", (with_probes[0], record(1), with_probes[1]))
    np.testing.assert_array_equal(pause.beta_eff("absolute"), [2.0, np.nan, 3.0])
    assert pause.beta_eff("absolute").dtype == np.float64


def test_what_decides_between_models_is_the_spread_that_they_do_not_share() -> None:
    assert Prediction(0.5, std=0.3, own_std=0.1).spread == 0.1
    assert Prediction(0.5, std=0.3).spread == 0.3
    assert math.isnan(Prediction(0.5).spread)


def test_a_message_of_a_model_that_ran_through_is_a_flag() -> None:
    assert row(1, message="few records").flag == "few records"
    assert row(None, status="failed", message="broken").flag == ""


def test_the_best_model_is_the_first_or_an_error_says_where_to_look() -> None:
    first = row(1)
    assert Ranking("set", RankConfig(), (first, row(2))).best is first
    for models in ((), (row(None, status="failed"),)):
        with pytest.raises(errors.ModelError) as error:
            _ = Ranking("set", RankConfig(), models).best
        assert error.value.cause == "no model could be ranked"
        assert error.value.remedy == "See the status and message of each model"


def test_the_smallest_is_looked_for_within_a_point_of_the_first() -> None:
    def sized(rank: int | None, predicted: float, parameters: int | None, status: str = "ok"):
        cost = InferenceCost(parameters)
        return dataclasses.replace(row(rank, status), predicted_accuracy=predicted, cost=cost)

    first, near, far = sized(1, 0.9, 500), sized(2, 0.8901, 300), sized(3, 0.8899, 100)
    unknown, stopped = sized(4, 0.9, None), sized(5, 0.9, 50, "stopped")

    def smallest(*models: RankedModel) -> RankedModel | None:
        return Ranking("set", RankConfig(), models).smallest

    assert smallest(first, near, far, unknown, stopped) is near
    assert smallest(first, far) is first
    assert smallest(unknown, near) is near
    assert smallest(sized(1, math.nan, 500), near) is None
    assert smallest(sized(None, 0.9, 500, "failed")) is None
    assert smallest() is None


def test_images_in_a_second_are_those_of_the_batch() -> None:
    assert InferenceSpeed(64, 0.5).images_per_second == 128


def test_a_ranking_prints_its_table_though_records_know_no_report() -> None:
    ranking = Ranking("digits", RankConfig(), (row(1),), predictor="last_seen")
    assert "digits, ranked by last_seen" in str(ranking)
    assert "digits, ranked by last_seen" in ranking._repr_html_()


def test_a_ranking_is_one_line() -> None:
    models = (row(1), row(2))
    ranking = Ranking("digits", RankConfig(epochs=3), models, (Trajectory("a", "linear", ()),))
    assert repr(ranking) == "Ranking('digits': best a, 2 models, 3 epochs)"
    failed = Ranking("digits", RankConfig(epochs=1), (row(None, status="failed"),))
    assert repr(failed) == "Ranking('digits': no model ranked, 1 model, 1 epoch)"


def test_a_dataset_is_one_line_without_pixels() -> None:
    images, labels = np.zeros((3, 8, 9, 1), np.uint8), np.array([0, 2, 1])
    assert repr(Dataset(images, labels, name="x")) == "Dataset('x': 3 images of 8 × 9 × 1)"
    both = Dataset(images, labels, images[:2], labels[:2])
    assert repr(both) == "Dataset('arrays': 3 + 2 images of 8 × 9 × 1)"
    # Also before it is checked, when an error may have to name it.
    wrong = Dataset(np.zeros(()), np.zeros(0))
    assert repr(wrong) == "Dataset('arrays': 0 images of unknown shape)"
    assert "PNG" not in repr(RunInfo(contact_sheet_png=b"PNG"))


def test_records_and_options_import_nothing_heavy() -> None:
    code = (
        "import sys, ncap_jax.types, ncap_jax.options, ncap_jax.files; "
        "print(*{'jax', 'flax', 'rich', 'matplotlib', 'ncap_jax.report'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
