"""Words and numbers."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import shlex
import subprocess

import pytest

from ncap_jax import report
from ncap_jax.options import RankConfig
from ncap_jax.report import format_ranking, html, markdown, notebook, text
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import LeftOut, RunInfo, Trajectory
from tests.support.pool import counted, make_pool


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (4.21, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185.2, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800.0, "2 h 10 min"),
        (math.nan, "–"),
        (-1.0, "–"),
    ],
)
def test_duration(seconds, words):
    assert text.duration(seconds) == words


def test_how_long_models_were_trained():
    pool = make_pool(models=2, epochs=5)
    assert text.epochs_each(rank_trajectories(pool, "x")) == "5 epochs each"
    short = dataclasses.replace(pool[1], records=pool[1].records[:2], status="stopped")
    ranking = rank_trajectories([pool[0], short], "x")
    assert text.epochs_each(ranking) == "up to 5 epochs each (1 to 5)"
    assert "up to 5 epochs each (1 to 5)" in markdown.render(ranking)
    assert "up to 5 epochs each (1 to 5)," in html.render(ranking)


def test_numbers():
    assert text.percent(0.9123) == "91.2 %"
    assert text.percent(math.nan) == "–"
    assert [text.chance(p) for p in (0.0, 0.994, 0.996, 1.0)] == ["0 %", "99 %", "> 99 %", "> 99 %"]
    assert text.chance(math.nan) == "–"
    assert text.with_std(0.9123, 0.008) == "91.2 ± 0.8 %"
    assert text.with_std(0.9123, math.nan) == "91.2 %"
    assert text.with_std(math.nan, 0.1) == "–"
    assert text.number(-1.23456e-5) == "-1.23e-05"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("plain – β_eff, naïve, 猫", "plain – β_eff, naïve, 猫"),
        ("\x1b[2J\x00\x7f\x9b", r"\x1b[2J\x00\x7f\x9b"),
        ("a\u202eb\u2066c\ufeff\u200b\u2028", r"a\u202eb\u2066c\ufeff\u200b\u2028"),
        ("\U000e0041 \udce9 \ud800", r"\U000e0041 \xe9 \ud800"),
        ("two\r\nlines\tand", "two  lines and"),
        ("می\u200cخواهم 👩\u200d🔬", "می\u200cخواهم 👩\u200d🔬"),
    ],
)
def test_what_nobody_sees_is_written_out(words, shown):
    assert text.visible(words) == shown


def test_a_command_stays_the_same_command():
    plain = "python -m ncap_jax --dataset='my photos'"
    assert text.shell(plain) == plain
    words = ["echo", "it's\x1b[31m\\red\nnew", "two words", "\u202e"]
    shown = text.shell(shlex.join(words))
    assert text.visible(shown) == shown
    bash = subprocess.run(
        ["bash", "-c", f"printf '%s|' {shown}"], capture_output=True, check=True, text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert bash.stdout.split("|")[:-1] == words
    assert text.shell("echo '\x1b") == r"echo '\x1b"  # no command: shown as it is


def test_long_words_are_cut_where_they_tell_least():
    assert text.shortened("x" * 9, 8) == "x" * 7 + "…"
    assert text.ending("a/b/photo.jpg", 10) == "…photo.jpg"
    for cut in (text.shortened, text.ending):
        assert cut("x" * 8, 8) == "x" * 8
        assert cut("a\x1b", 8) == r"a\x1b"


def test_lists():
    assert text.listed([]) == ""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("twins", "words"),
    [
        (1, "t0 cannot be told apart from it."),
        (4, "t0, t1, t2 and t3 cannot be told apart from it."),
        (6, "t0, t1, t2 and 3 more cannot be told apart from it."),
    ],
)
def test_without_deviations_the_answer_names_a_few_that_are_equal(twins, words):
    good, *_, bad = make_pool(epochs=12)
    pool = [dataclasses.replace(good, model="a"), bad]
    pool += [dataclasses.replace(good, model=f"t{i}") for i in range(twins)]
    answer = text.answer(rank_trajectories(pool, "x", RankConfig(predictor="last_seen")))
    assert answer.startswith("Fine-tune a: predicted ")
    assert answer.endswith(words)


@pytest.mark.parametrize(
    ("names", "points", "words"),
    [
        (["a"], 1.0, "With 90 % certainty, it is within 1 point of the best."),
        (["a", "b"], 2.0, "With 90 % certainty, one of a and b is within 2 points of the best."),
        (list("abcdef"), 0.5, "one of a, b, c and 3 more is within 0.5 points of the best."),
    ],
)
def test_the_answer_in_points(names, points, words):
    pool = [dataclasses.replace(t, model=n) for t, n in zip(make_pool(models=6), "abcdef")]
    ranking = rank_trajectories(pool, "x", RankConfig(shortlist_points=points))
    rows = tuple(dataclasses.replace(r, shortlisted=r.name in names) for r in ranking.models)
    ranking = dataclasses.replace(ranking, models=rows, expected_regret=0.44)
    answer = text.answer(ranking)
    assert "It is expected to be 0.4 points below the best of these models." in answer
    assert answer.endswith(words)


def test_one_model_alone_is_compared_with_nobody():
    assert "below the best" not in text.answer(rank_trajectories(make_pool(models=1), "x"))


@pytest.mark.parametrize(
    ("number", "words"), [(1.0, "1 point"), (0.44, "0.4 points"), (0.0, "0 points")]
)
def test_points(number, words):
    assert text.points(number) == words


@pytest.mark.parametrize(("share", "warned"), [(0.1, False), (0.9, True), (None, False)])
def test_models_that_are_no_better_than_the_largest_class(share, warned):
    pool = make_pool(epochs=8)
    best = max(t.series("validation_accuracy").max() for t in pool)
    majority = None if share is None else share * best / 0.9
    info = RunInfo(majority_accuracy=majority, num_validation=1000)
    ranking = rank_trajectories(pool, "x", info=info)
    found = [line for line in text.warnings(ranking) if "largest class" in line]
    assert bool(found) == warned
    # Of how many images the share is of decides what is above chance: unknown, nothing is said.
    unknown = rank_trajectories(pool, "x", info=dataclasses.replace(info, num_validation=None))
    assert not [line for line in text.warnings(unknown) if "largest class" in line]


@pytest.mark.parametrize(("metric", "told"), [("accuracy", False), ("balanced_accuracy", True)])
def test_few_images_of_one_class_cannot_tell_models_apart_by_class(metric, told):
    pool = [counted(t, (1980, 20)) for t in make_pool(models=8, epochs=12)[:2]]
    config = RankConfig(head="trainable_probe", metric=metric)
    ranking = rank_trajectories(pool, "x", config, info=RunInfo(num_validation=2000))
    lines = [line for line in text.warnings(ranking) if "2000 validation images cannot" in line]
    assert bool(lines) == told
    assert not told or ": their scores differ by " in lines[0]


@pytest.mark.parametrize("rare", [1.0, 0.0])
def test_what_the_largest_class_scores_depends_on_the_metric(rare):
    """A model that knows the large class alone is no better by class, whatever its accuracy."""
    pool = [counted(t, (900, 100), rare) for t in make_pool(models=2, epochs=8)]
    info = RunInfo(majority_accuracy=0.9, num_validation=1000)
    config = RankConfig(head="trainable_probe", metric="balanced_accuracy")
    ranking = rank_trajectories(pool, "x", config, info=info)
    found = [line for line in text.warnings(ranking) if "largest class" in line]
    assert bool(found) == (rare == 0.0)
    if found:
        assert "always predicting the largest class (50.0 %)" in found[0]


@pytest.mark.parametrize(
    ("metric", "name"), [("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro F1")]
)
def test_every_form_of_the_report_names_the_metric(metric, name):
    pool = [counted(t, (900, 100), rare=0.5) for t in make_pool(3)]
    config = RankConfig(head="trainable_probe", metric=metric)
    ranking = rank_trajectories(pool, "digits", config)
    page, note = html.render(ranking), text.metric_note(ranking)
    assert f"for {name} they are not checked" in note
    for shown in (
        format_ranking(ranking, width=300),
        page,
        markdown.render(ranking),
        notebook.notebook_ranking(ranking),
    ):
        assert note in shown
        assert f"predicted {name} " in shown
    for shown in (format_ranking(ranking, width=300), notebook.notebook_ranking(ranking)):
        assert f"digits: {name}, ranked by " in shown
    for label in (f"Predicted {name}</button>", f"validation {name} (%)", f"Validation {name} by"):
        assert label in page
    assert "validation accuracy" not in page
    assert f"{name[0].upper()}{name[1:]} against β_eff" in page


def test_of_accuracy_nothing_is_said_that_was_not_said_before():
    plain = rank_trajectories(make_pool(3), "digits")
    assert text.metric_note(plain) == ""
    assert text.title(plain) == f"digits, ranked by {plain.predictor}"
    assert "predicted accuracy" not in text.answer(plain)


@pytest.mark.parametrize(
    ("accuracies", "images", "words"),
    [
        ((0.50, 0.45), 100, "5 points, which may be chance (standard error up to 7.1 points)"),
        ((0.50, 0.39), 100, "11 points, which may be chance (standard error up to 7 points)"),
        ((0.50, 0.38), 100, ""),  # more than 1.645 standard errors
        ((0.50, 0.50), 5000, ""),  # told apart to a point
        ((0.50, 0.45), None, ""),
    ],
)
def test_few_images_cannot_tell_the_first_from_the_second(accuracies, images, words):
    ranking = rank_trajectories(make_pool(models=2), "x", info={"num_validation": images})
    rows = tuple(
        dataclasses.replace(row, last_seen=accuracy)
        for row, accuracy in zip(ranking.models, accuracies)
    )
    found = [
        line
        for line in text.warnings(dataclasses.replace(ranking, models=rows))
        if "cannot tell" in line
    ]
    assert len(found) == bool(words)
    assert all(
        line.startswith(f"100 validation images cannot tell {rows[0].name} from {rows[1].name}: ")
        and words in line
        and line.endswith("Give more images, or rank with validation_splits=5")
        for line in found
    )


@pytest.mark.parametrize(("behind", "confirmed"), [(0.11, "cannot tell"), (0.12, "do not confirm")])
def test_images_that_speak_against_the_first_are_named(behind, confirmed):
    ranking = rank_trajectories(make_pool(models=2), "x", info={"num_validation": 100})
    first, second = (
        dataclasses.replace(row, last_seen=accuracy)
        for row, accuracy in zip(ranking.models, (0.5 - behind, 0.5))
    )
    lines = text.warnings(dataclasses.replace(ranking, models=(first, second)))
    (found,) = (line for line in lines if line.startswith("100 validation images "))
    assert found.startswith(f"100 validation images {confirmed} ")
    if confirmed == "do not confirm":
        assert found == (
            f"100 validation images do not confirm that {first.name} is better than {second.name}: "
            "on them it is 12 points behind (standard error up to 7 points). Give more images, or "
            "rank with validation_splits=5"
        )


@pytest.mark.parametrize(("splits", "advised"), [(1, 5), (2, 5), (5, 10)])
def test_more_splits_are_advised_than_there_were(splits, advised):
    config = RankConfig(validation_splits=splits, head="trainable_probe")
    ranking = rank_trajectories(make_pool(models=2), "x", config, info={"num_validation": 100})
    rows = tuple(dataclasses.replace(row, last_seen=0.5) for row in ranking.models)
    lines = text.warnings(dataclasses.replace(ranking, models=rows))
    assert [line.endswith(f" rank with validation_splits={advised}") for line in lines] == [True]


def test_a_flag_that_all_share_is_said_once():
    ranking = rank_trajectories(make_pool(models=3, epochs=1), "x")
    (line,) = text.warnings(ranking)
    assert line.startswith("all models: one epoch only")


def test_every_form_of_the_report_says_the_learning_rates(tmp_path):
    rates = (1e-3, 3e-4, 3e-4)
    pool = [
        dataclasses.replace(
            t,
            records=(
                t.records[0],
                *(dataclasses.replace(r, learning_rate=rate) for r in t.records[1:]),
            ),
        )
        for t, rate in zip(make_pool(3), rates, strict=True)
    ]
    config = RankConfig(trial_rates=(3e-4,))
    ranking = rank_trajectories(pool, "digits", config)
    names = [row.name for row in ranking.models if row.learning_rate == 3e-4]
    sentence = text.learning_rates(ranking)
    assert f"0.0003 for {names[0]} and {names[1]}; 0.001 for model_0." in sentence
    assert sentence in format_ranking(ranking, width=200)
    assert sentence in html.render(ranking)
    assert sentence.replace("_", r"\_") in markdown.render(ranking)
    report.write(ranking, tmp_path)
    back = report.read_ranking(tmp_path)
    assert (back.config, text.learning_rates(back)) == (config, sentence)
    rows = list(csv.DictReader((tmp_path / "ranking.csv").open()))
    assert [row["learning_rate"] for row in rows].count("0.0003") == 2

    one = rank_trajectories(make_pool(3), "digits")
    assert text.learning_rates(one) == ""
    assert "Learning rate" not in html.render(one)


def failing(count: int, status: str = "failed") -> list[Trajectory]:
    return [Trajectory(f"bad_{i}", "linear", (), status, "no weights") for i in range(count)]


def test_the_headline_says_first_who_failed(tmp_path):
    pool = [*make_pool(1), *failing(1), Trajectory("away", "linear", (), "out_of_memory")]
    ranking = rank_trajectories(pool, "x")
    said = "2 of 3 models failed: bad_0 and away (out of memory)."
    assert text.answer(ranking).startswith(f"{said} Fine-tune model_0: predicted ")
    assert [row.name for row in text.failed(ranking)] == ["bad_0", "away"]
    assert said in format_ranking(ranking, width=200)
    assert said in html.render(ranking)
    assert said.replace("_", r"\_") in markdown.render(ranking)


@pytest.mark.parametrize(
    ("count", "headline"),
    [
        (1, "1 of 1 model failed: bad_0. No model could be ranked: see the status of each."),
        (
            6,
            "6 of 6 models failed: bad_0, bad_1, bad_2 and 3 more. "
            "No model could be ranked: see the status of each.",
        ),
    ],
)
def test_the_headline_where_all_failed(count, headline):
    assert text.answer(rank_trajectories(failing(count), "x")) == headline


def test_models_that_a_limit_stopped_have_not_failed():
    ranking = rank_trajectories([*make_pool(1), *failing(1, "stopped")], "x")
    assert text.failed(ranking) == []
    assert text.answer(ranking).startswith("Fine-tune model_0: predicted ")


@pytest.mark.parametrize("above", [-0.05, 0.0, 0.01, 0.2])
def test_the_headline_says_that_the_winner_is_no_better_than_the_largest_class(above):
    pool = make_pool(2, epochs=8)
    best = rank_trajectories(pool, "x").best
    share = best.best_seen - above
    info = RunInfo(majority_accuracy=share, num_validation=1000)
    answer = text.answer(rank_trajectories(pool, "x", info=info))
    sentence = (
        f"So far {best.name} is not significantly better than always predicting the largest "
        f"class ({100 * share:.1f} %)."
    )
    assert answer.endswith(sentence) == (above < 0.1)
    assert ("largest class" in answer) == (above < 0.1)


def test_a_candidate_that_failed_before_training_counts_as_a_failure():
    """The command then exits with 5, and a line says why."""
    ranking = rank_trajectories(make_pool(2), "digits")
    recalled = dataclasses.replace(ranking, left_out=(LeftOut("b", "place 3", "recall"),))
    assert not text.some_failed(recalled)
    torn = dataclasses.replace(ranking, left_out=(LeftOut("torn", "no file", "failed"),))
    assert text.some_failed(torn)
    assert "torn: no file" in text.warnings(torn)
    assert not any("b: place" in line for line in text.warnings(recalled))
