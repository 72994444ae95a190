"""The words and tables of a finished run."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax.report import finished, winner_page
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import ClassCounts
from ncap_jax.winner.facts import LEAKS
from ncap_jax.winner.metrics import ClassificationMetrics, classification_metrics
from tests.support.finished import facts, finished_run, made_up_metrics
from tests.support.pool import make_pool


def of_classes(classes: int, images: int = 200) -> ClassificationMetrics:
    return made_up_metrics(tuple(f"class {i}" for i in range(classes)), images)


def test_the_answer_names_the_model_its_accuracy_and_the_interval():
    about = facts()
    low, high = about.metrics["test"].accuracy_interval
    right = 100 * about.metrics["test"].accuracy
    assert finished.answer(about) == (
        f"Use model_1: {right:.1f} % of 200 test images right "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)."
    )
    assert finished.answer(dataclasses.replace(about, metrics={})) == "Use model_1."


def test_without_a_test_part_the_validation_part_is_shown_and_doubted():
    about = facts()
    bare = dataclasses.replace(about, metrics={"validation": about.metrics["validation"]})
    assert finished.part_shown(about) == "test"
    assert "validation images right" in finished.answer(bare)
    assert finished.caution(about).endswith("The test part was opened once, after that.")
    assert finished.caution(bare).startswith("The data set has no test part.")
    assert finished.part_shown(bare) == "validation"


def test_a_test_part_with_copies_is_doubted():
    assert finished.caution(facts(data={LEAKS: 3})).endswith(
        "The test part was opened once, after that. But 3 of its 200 images are also in the "
        "training or the validation part, so its figures are too good as well."
    )
    assert "1 of its 200 images is also" in finished.caution(facts(data={LEAKS: 1}))
    for nothing in (0, -1, True, "many", None):  # a package may come from anybody
        assert finished.caution(facts(data={LEAKS: nothing})) == finished.caution(facts())


def test_rows_of_the_parts():
    test, validation = finished.summary_rows(facts())
    figures = facts().metrics["test"]
    low, high = figures.accuracy_interval
    assert test == [
        "test",
        "200",
        f"{100 * figures.accuracy:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        f"{100 * figures.balanced_accuracy:.1f} %",
        f"{figures.macro_f1:.3f}",
        f"{100 * (figures.uncalibrated_error or 0):.1f} %",
        f"{100 * figures.calibration_error:.1f} %",
    ]
    assert validation[0] == "validation"
    assert len(finished.SUMMARY) == len(test)
    unscaled = classification_metrics([[0.9, 0.1]], [0], ("a", "b"))
    (row,) = finished.summary_rows(dataclasses.replace(facts(), metrics={"test": unscaled}))
    assert row[-2] == "–"


def test_rows_of_the_models_tell_ranking_and_finish_apart():
    run = finished_run()
    rows = finished.finished_rows(run.models)
    best = [100 * each.records[each.best_epoch].validation_accuracy for each in run.models]
    assert rows == [
        ["model_0", "1", "5 + 12", "11", f"{best[0]:.1f} %", "18.0 s"],
        ["model_1", "2", "5 + 11", "10", f"{best[1]:.1f} %", "16.5 s"],
    ]
    assert len(finished.finished_header()) == len(rows[0])


def test_of_another_metric_the_epoch_is_shown_by_it():
    counts = ClassCounts((90, 10), ((81, 2),), ((89, 11),))
    model, _ = finished_run().models
    records = tuple(dataclasses.replace(r, validation_counts=counts) for r in model.records)
    model = dataclasses.replace(model, records=records, metric="balanced_accuracy")
    run = finished_run(models=(model,))
    assert run.metric == "balanced_accuracy"
    (row,) = finished.finished_rows(run.models)
    where = finished.finished_header(run.metric).index("validation balanced accuracy")
    assert row[where] == "55.0 %"  # (81 / 90 + 2 / 10) / 2
    assert "validation balanced accuracy (%)" in winner_page.parts(run)["accuracy_svg"]


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({}, ""),
        ({"epochs": 3}, "5 instead of 3 epochs"),
        ({"metric": "macro_f1"}, "accuracy instead of macro F1"),
        (
            {"predictor": "logme", "models": ("model_0", "model_9")},
            "ranked by {now} instead of logme, with model_1 and model_2, without model_9",
        ),
        ({"models": ("model_2", "model_1", "model_0")}, "another order"),
    ],
)
def test_what_a_ranking_has_become_since_the_finish(then, told):
    ranking = rank_trajectories(make_pool(3), "digits")
    models = sorted(ranking.models, key=lambda row: row.name)
    ranking = dataclasses.replace(ranking, models=tuple(models))
    before = dataclasses.replace(finished.RankingSummary.of(ranking), **then)
    sentence = f"The ranking below is newer than this model: {told.format(now=ranking.predictor)}."
    assert finished.newer(before, ranking) == (sentence if told else "")
    assert finished.newer(None, ranking) == ""


@pytest.mark.parametrize(
    ("folder", "python", "shell"),
    [
        (
            "runs/photos/winner",
            "ncap.load('runs/photos/winner').predict('new/')",
            "python -m ncap_jax predict runs/photos/winner new/",
        ),
        (
            "my 'runs'\x1b/winner",
            "ncap.load(\"my 'runs'\\x1b/winner\").predict('new/')",
            r"python -m ncap_jax predict $'my \'runs\'\x1b/winner' new/",
        ),
    ],
)
def test_the_two_lines(folder, python, shell):
    assert finished.uses(folder) == (python, shell)
    # What is printed can be run.
    assert eval(python.split("load(")[1].split(").predict")[0]) == folder


def test_of_many_classes_the_weakest_that_occur_are_listed():
    assert finished.weakest_classes(of_classes(30)) == of_classes(30).classes
    many = of_classes(100, 300)
    shown = finished.weakest_classes(many)
    assert len(shown) == finished.WEAKEST
    assert all(each.support for each in shown)
    others = [each.f1 or 0 for each in many.classes if each not in shown and each.support]
    assert max(each.f1 or 0 for each in shown) <= min(others)


def test_the_most_confused_pairs():
    probabilities = [[0.9, 0.1, 0.0]] * 3 + [[0.1, 0.9, 0.0]] * 2 + [[0.0, 0.0, 1.0]]
    figures = classification_metrics(probabilities, [1, 1, 0, 1, 0, 2], ("a", "b", "c"))
    assert finished.most_confused(figures) == (("b", "a", 2, 2 / 3), ("a", "b", 1, 1 / 2))
    assert len(finished.most_confused(of_classes(100, 300))) == finished.MOST_PAIRS


def test_scaling_says_the_temperature():
    assert "(temperature 2.50, fitted on the validation part)" in finished.scaling(facts())
    assert finished.scaling(facts(temperature=None)) == ""
