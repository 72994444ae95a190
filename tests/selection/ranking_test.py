"""The ranking: order, uncertainty, failures, determinism."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.options import HEADS, RankConfig
from ncap_jax.predictor import DEFAULT_PREDICTORS, PREDICTORS, accuracies
from ncap_jax.predictor.validation_score import score
from ncap_jax.selection.contest import TIE_PROBABILITY
from ncap_jax.selection.ranking import (
    check_config,
    check_epochs_budget,
    names_in_order,
    rank_trajectories,
    with_needed_beta_eff,
)
from ncap_jax.types import RunInfo, Status, Trajectory
from tests.support.pool import counted, make_pool, measured_after, with_last


def cut(
    trajectory: Trajectory,
    epochs: int,
    status: Status = "stopped",
    message: str = "stopped by the budget",
) -> Trajectory:
    return dataclasses.replace(
        trajectory, records=trajectory.records[: epochs + 1], status=status, message=message
    )


def twin(trajectory: Trajectory, name: str) -> Trajectory:
    return dataclasses.replace(trajectory, model=name)


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_rows_follow_the_predictor(name):
    pool = make_pool()
    ranking = rank_trajectories(pool, "synthetic", RankConfig(predictor=name))
    means = {t.model: p.mean for t, p in zip(pool, PREDICTORS[name](pool))}
    assert [r.rank for r in ranking.models] == list(range(1, len(pool) + 1))
    order = [means[r.name] for r in ranking.models]
    assert order == sorted(order, reverse=True)
    assert ranking.predictor == name
    assert ranking.dataset == "synthetic"
    assert ranking.trajectories == tuple(pool)
    assert all(set(r.predictions) == set(PREDICTORS) for r in ranking.models)


def test_default_shows_an_accuracy_with_its_std():
    ranking = rank_trajectories(make_pool(), "synthetic")
    assert ranking.predictor == DEFAULT_PREDICTORS["probe"]
    for row in ranking.models:
        assert 0 < row.predicted_accuracy < 1
        assert row.std > 0


@pytest.mark.parametrize("head", HEADS)
def test_the_default_is_that_of_the_head_that_was_recorded(head):
    pool = [dataclasses.replace(t, head=head) for t in make_pool(2)]
    ranking = rank_trajectories(pool, "synthetic")
    assert ranking.predictor == DEFAULT_PREDICTORS[head]
    assert ranking.strength == "absolute"  # also where the method reads none


def test_rows_hold_what_was_seen():
    pool = make_pool(models=3)
    for row in rank_trajectories(pool, "synthetic").models:
        trajectory = next(t for t in pool if t.model == row.name)
        accuracy = trajectory.series("validation_accuracy")
        assert row.validation_accuracy == tuple(accuracy)
        assert row.beta_eff == tuple(trajectory.beta_eff("absolute"))  # what the default reads
        assert row.last_seen == accuracy[-1]
        assert row.best_seen == accuracy[1:].max()
        assert (row.epochs, row.seconds) == (trajectory.epochs, trajectory.seconds)


def test_same_seed_same_ranking_in_any_order_of_input():
    pool = make_pool(models=4)
    first = rank_trajectories(pool, "synthetic").models
    for order in itertools.islice(itertools.permutations(pool), 0, 24, 5):
        again = rank_trajectories(order, "synthetic").models
        for a, b in zip(first, again, strict=True):
            assert a.name == b.name
            # The least-squares sums run in another order: equal to rounding.
            np.testing.assert_allclose(a.predicted_accuracy, b.predicted_accuracy, rtol=1e-9)
            np.testing.assert_allclose(a.p_best, b.p_best, atol=1e-3)
    assert repr(rank_trajectories(pool, "synthetic").models) == repr(first)


def test_p_best_against_the_closed_form_for_two():
    from scipy.stats import norm

    pool = make_pool(models=2)
    a, b = rank_trajectories(pool, "synthetic").models
    own = [p.own_std for p in accuracies(PREDICTORS[DEFAULT_PREDICTORS["probe"]], pool)]
    expected = norm.cdf((a.predicted_accuracy - b.predicted_accuracy) / np.hypot(*own))
    # 20,000 draws: standard error at most 0.0035.
    np.testing.assert_allclose([a.p_best, b.p_best], [expected, 1 - expected], atol=0.015)
    assert b.tied_with_best == (1 - expected > TIE_PROBABILITY)
    assert not a.tied_with_best


def test_p_best_sums_to_one_over_the_contenders():
    ranking = rank_trajectories(make_pool(), "synthetic")
    np.testing.assert_allclose(sum(r.p_best for r in ranking.models), 1.0)


def test_equal_models_are_tied_and_a_far_one_is_not():
    good, *_, bad = make_pool(epochs=12)  # near the end: early leads would not decide
    pool = [good, twin(good, "twin"), bad]
    rows = {r.name: r for r in rank_trajectories(pool, "synthetic").models}
    assert rows["twin"].tied_with_best
    assert not rows[bad.model].tied_with_best
    assert abs(rows["twin"].p_best - 0.5) < 0.02


def test_without_uncertainty_only_equal_values_are_tied():
    good, other, bad = make_pool(models=3)
    pool = [good, twin(good, "twin"), other, bad]
    ranking = rank_trajectories(pool, "synthetic", RankConfig(predictor="last_seen"))
    assert [r.name for r in ranking.models if r.tied_with_best] == ["twin"]
    assert all(np.isnan(r.p_best) for r in ranking.models)


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "failed"])
def test_failed_models_come_last_without_rank(status):
    pool = make_pool(models=4)
    pool[0] = cut(pool[0], 2, status, "what went wrong")
    ranking = rank_trajectories(pool, "synthetic")
    last = ranking.models[-1]
    assert (last.name, last.rank, last.status) == (pool[0].model, None, status)
    assert last.message == "what went wrong"
    assert np.isnan(last.predicted_accuracy)
    assert np.isnan(last.p_best)
    assert [r.rank for r in ranking.models[:-1]] == [1, 2, 3]


def test_stopped_models_rank_behind_those_that_finished():
    pool = make_pool(models=5)
    pool[0], pool[1], pool[2] = cut(pool[0], 1), cut(pool[1], 3), cut(pool[2], 3)
    ranking = rank_trajectories(pool, "synthetic")
    names = [r.name for r in ranking.models]
    assert set(names[:2]) == {pool[3].model, pool[4].model}
    assert set(names[2:4]) == {pool[1].model, pool[2].model}
    assert names[4] == pool[0].model
    assert all(r.rank is not None for r in ranking.models)


def test_the_answer_in_points_compares_those_that_ran_to_the_end():
    pool = make_pool(models=5)
    whole = rank_trajectories(pool, "synthetic")
    left = [row.name for row in whole.models[:2]]
    raced = rank_trajectories([t if t.model in left else cut(t, 2) for t in pool], "synthetic")
    for ranking, contenders in ((whole, 5), (raced, 2)):
        assert ranking.best.name == whole.best.name
        rows = ranking.models[:contenders]
        np.testing.assert_allclose(sum(row.p_best for row in rows), 1.0)
        assert ranking.expected_regret > 0
        assert ranking.best.name in ranking.shortlist
        assert set(ranking.shortlist) <= {row.name for row in rows}
        for row in rows:
            assert row.p_best <= row.p_within <= 1
        for row in ranking.models[contenders:]:
            assert np.isnan([row.p_best, row.p_within]).all()
            assert np.isfinite(row.predicted_accuracy)


def test_all_stopped_still_gives_an_answer():
    pool = [cut(t, 3) for t in make_pool(models=4)]
    pool[3] = cut(pool[3], 1)
    ranking = rank_trajectories(pool, "synthetic")
    assert ranking.best.rank == 1
    np.testing.assert_allclose(sum(r.p_best for r in ranking.models[:3]), 1.0)


def test_one_model_is_the_best_for_sure():
    ranking = rank_trajectories(make_pool(models=1), "synthetic")
    assert (ranking.best.p_best, ranking.best.p_within, ranking.expected_regret) == (1.0, 1.0, 0.0)
    assert ranking.shortlist == (ranking.best.name,)


def test_all_failed_is_a_ranking_without_best():
    pool = [cut(t, 0, "failed", "no") for t in make_pool(models=2)]
    ranking = rank_trajectories([*pool, Trajectory("e", "probe", (), "failed", "no")], "synthetic")
    assert [r.rank for r in ranking.models] == [None] * 3
    with pytest.raises(errors.ModelError) as error:
        _ = ranking.best
    assert error.value.cause == "no model could be ranked"
    assert error.value.remedy == "See the status and message of each model"


def test_no_answer_means_no_rank():
    pool = make_pool(models=3)
    pool[0] = with_last(pool[0], validation_loss=float("nan"))
    last = rank_trajectories(pool, "synthetic").models[-1]
    assert (last.name, last.rank, last.status) == (pool[0].model, None, "ok")
    assert "not finite" in last.flag


def test_the_same_name_twice_is_an_error():
    (trajectory,) = make_pool(1)
    with pytest.raises(errors.ModelError) as error:
        rank_trajectories([trajectory, trajectory], "synthetic")
    assert error.value.cause == "more than one trajectory for model_0"
    assert error.value.remedy == "Give every model its own name"


@pytest.mark.parametrize("name", ["published_ridge", "scaled_ridge"])
def test_ridge_needs_two_epochs(name):
    config = RankConfig(epochs=1, predictor=name)
    for refuse in (
        lambda: check_config(config),
        lambda: rank_trajectories(make_pool(models=2, epochs=1), "synthetic", config),
    ):
        with pytest.raises(errors.ConfigError) as error:
            refuse()
        assert error.value.cause == f"predictor {name!r} needs at least 2 epochs, got 1"
        assert error.value.remedy == "Use epochs=2 or more, or predictor='last_validation_loss'"


def test_a_strength_must_be_recorded_under_the_head(monkeypatch):
    check_config(RankConfig(predictor="scaled_ridge", head="linear"))  # whole-network absolute
    squared = dataclasses.replace(PREDICTORS["scaled_ridge"], strength="squared")
    monkeypatch.setitem(PREDICTORS, "squared_ridge", squared)
    with pytest.raises(errors.ConfigError) as error:
        check_config(RankConfig(predictor="squared_ridge", head="linear"))
    assert error.value.cause == (
        "predictor 'scaled_ridge' reads the squared beta_eff, which is not recorded for whole "
        "networks (head='linear')"
    )
    assert error.value.remedy == (
        "Use head='probe' or 'trainable_probe', or predictor='last_validation_loss'"
    )


@pytest.mark.parametrize(
    ("head", "predictor", "name", "strength"),
    [
        ("linear", "scaled_ridge", "scaled_ridge", "absolute"),
        ("linear", "published_ridge", "published_ridge", "signed"),
        ("probe", "default", "capacitance", "absolute"),
        ("trainable_probe", "default", "capacitance", "absolute"),
    ],
)
def test_what_is_not_measured_cannot_rank(head, predictor, name, strength):
    config = RankConfig(head=head, predictor=predictor, beta_eff="off")
    with pytest.raises(errors.ConfigError) as error:
        check_config(config)
    assert error.value.cause == (
        f"predictor {name!r} reads the {strength} beta_eff, which is not measured with "
        "beta_eff='off'"
    )
    assert error.value.remedy == "Use beta_eff='auto', or predictor='last_validation_loss'"
    for fine in ({"predictor": "last_validation_loss"}, {"beta_eff": "auto"}):
        check_config(dataclasses.replace(config, **fine))


def test_what_the_ranking_is_made_of_is_measured_after_every_epoch():
    by_beta = RankConfig(predictor="scaled_ridge")
    assert with_needed_beta_eff(by_beta) == dataclasses.replace(by_beta, beta_eff="every_epoch")
    for choice in ("auto", "off", "every_epoch"):
        config = RankConfig(beta_eff=choice)
        assert with_needed_beta_eff(config) == config


@pytest.mark.parametrize("measured", [(), (0, 5)])
def test_models_are_ranked_whatever_was_measured(measured):
    pool = [measured_after(t, measured) for t in make_pool(models=3)]
    ranking = rank_trajectories(pool, "synthetic", RankConfig())
    whole = rank_trajectories(make_pool(models=3), "synthetic", RankConfig())
    assert [r.name for r in ranking.models] == [r.name for r in whole.models]
    assert [r.predicted_accuracy for r in ranking.models] == [
        r.predicted_accuracy for r in whole.models
    ]
    for row in ranking.models:
        assert [i for i, value in enumerate(row.beta_eff) if not np.isnan(value)] == [*measured]
        ridge = row.predictions["scaled_ridge"]
        assert np.isnan(ridge.mean)
        assert ridge.flag == (
            "1 epoch(s) with a finite beta_eff, 2 needed"
            if measured
            else "no absolute beta_eff recorded"
        )


@pytest.mark.parametrize("head", HEADS)
def test_defaults_pass_the_check(head):
    check_config(RankConfig(head=head))
    check_config(RankConfig(head=head, epochs=1))


def test_unknown_predictor():
    with pytest.raises(errors.ConfigError) as error:
        check_config(RankConfig(predictor="scald_ridge"))
    assert error.value.cause == "unknown predictor 'scald_ridge'"
    assert "scaled_ridge" in error.value.remedy


def test_facts_of_the_run_are_a_record_or_a_mapping():
    pool = make_pool(models=2)
    facts = {"device": "CPU", "class_names": ["a", "b"], "num_validation": 60}
    given = RunInfo(device="CPU", class_names=("a", "b"), num_validation=60)
    assert rank_trajectories(pool, "synthetic", info=facts).info == given
    assert rank_trajectories(pool, "synthetic", info=given).info is given
    assert rank_trajectories(pool, "synthetic").info == RunInfo()


def always_right(name, loss):
    """A run that gets the validation part right in every epoch, with a falling loss."""
    trajectory = make_pool(models=1)[0]
    records = tuple(
        dataclasses.replace(record, validation_accuracy=1.0, validation_loss=loss / (1 + epoch))
        for epoch, record in enumerate(trajectory.records)
    )
    return dataclasses.replace(trajectory, model=name, records=records)


@pytest.mark.parametrize("predictor", ["default", "last_seen", "last_validation_accuracy"])
def test_one_validation_image_decides_nothing(predictor):
    """All models had it right: once each was "predicted 100 %", and the first was the best."""
    pool = [always_right("a", 0.3), always_right("b", 0.6), always_right("c", 0.9)]
    config = RankConfig(head="trainable_probe", predictor=predictor)
    ranking = rank_trajectories(pool, "synthetic", config, info={"num_validation": 1})
    flag = "1 validation image only: the standard error of an accuracy is up to 50 points"
    for row in ranking.models:
        assert row.predicted_accuracy < 0.7
        assert row.std > 0.2
        assert flag in row.message
        assert row.last_seen == 1.0  # what was seen is told as it was
    assert [row.tied_with_best for row in ranking.models] == [False, True, True]
    np.testing.assert_allclose([row.p_best for row in ranking.models], 1 / 3, atol=0.02)
    many = rank_trajectories(pool, "synthetic", config, info={"num_validation": 5000})
    assert [row.name for row in many.models] == [row.name for row in ranking.models]
    assert all(row.predicted_accuracy > 0.99 for row in many.models)


def test_the_metric_decides_the_order_and_what_is_predicted():
    """One model knows the frequent class better, the other the rare one too."""
    frequent, _, both, *_ = make_pool(models=8, epochs=12)
    pool = [counted(frequent, (980, 20), rare=0.1), counted(both, (980, 20))]
    plain = RankConfig(head="trainable_probe", predictor="last_seen")
    by_accuracy = rank_trajectories(pool, "set", plain)
    assert [row.name for row in by_accuracy.models] == ["model_0", "model_2"]
    for metric in ("balanced_accuracy", "macro_f1"):
        config = dataclasses.replace(plain, metric=metric)
        ranking = rank_trajectories(pool, "set", config)
        assert [row.name for row in ranking.models] == ["model_2", "model_0"]
        assert ranking.trajectories == tuple(pool)
        for row in ranking.models:
            (trajectory,) = (t for t in pool if t.model == row.name)
            scores = [score(record, metric) for record in trajectory.records]
            assert row.predicted_accuracy == row.last_seen == scores[-1]
            assert row.best_seen == max(scores[1:])
            assert row.validation_accuracy == tuple(trajectory.series("validation_accuracy"))
        assert names_in_order(pool, config) == ("model_2", "model_0")


def test_few_images_of_one_class_leave_a_score_by_class_open():
    """The accuracy of 1,000 images is known well, the recall of 10 of them is not."""
    pool = [counted(t, (990, 10)) for t in make_pool(models=3)]
    info = {"num_validation": 1000}
    accuracy = rank_trajectories(pool, "set", info=info)
    config = RankConfig(head="trainable_probe", metric="balanced_accuracy")
    balanced = rank_trajectories(pool, "set", config, info=info)
    # 39 are few: leads are trusted less (V3), and say less about who is best.
    for field in ("predicted_accuracy", "p_best"):
        apart = [np.ptp([getattr(row, field) for row in r.models]) for r in (accuracy, balanced)]
        assert apart[1] < 0.8 * apart[0]
    for before, after in zip(accuracy.models, balanced.models, strict=True):
        assert "validation image" not in before.message
        assert (
            "1000 validation images, worth 39 because classes count alike: the standard error of a "
            "score is up to 8 points"
        ) in after.message


def test_a_metric_by_class_needs_answers_by_class():
    with pytest.raises(errors.DataError) as error:
        rank_trajectories(make_pool(2), "set", RankConfig(metric="macro_f1"))
    assert error.value.cause.startswith(
        "model_0: epoch 0 was recorded without the answers by class"
    )


def test_unknown_facts_are_refused():
    with pytest.raises(errors.ConfigError) as error:
        rank_trajectories(make_pool(models=2), "synthetic", info={"devise": "CPU"})
    assert error.value.cause == "unknown key of info 'devise'"
    assert error.value.remedy == "Did you mean device"


def test_a_budget_that_does_not_suffice_is_refused():
    check_epochs_budget(RankConfig(), models=3)
    check_epochs_budget(RankConfig(epochs_budget=3), models=3)
    with pytest.raises(errors.ConfigError) as error:
        check_epochs_budget(RankConfig(epochs_budget=2), models=3)
    assert error.value.cause == (
        "epochs_budget=2 does not suffice for 3 models: the predictor needs 1 epoch(s) of each"
    )
    assert error.value.remedy == "Give at least 3, or fewer models"


def test_the_predictor_decides_how_many_epochs_suffice():
    ridge = RankConfig(epochs_budget=6, predictor="published_ridge")
    check_epochs_budget(ridge, models=3)
    with pytest.raises(errors.ConfigError) as error:
        check_epochs_budget(dataclasses.replace(ridge, epochs_budget=5), models=3)
    assert error.value.cause == (
        "epochs_budget=5 does not suffice for 3 models: the predictor needs 2 epoch(s) of each"
    )
    assert error.value.remedy == "Give at least 6, or fewer models"


def test_models_that_have_seen_the_images_are_flagged():
    pool = make_pool(models=3)
    info = {"seen": {pool[1].model: "trained on these images"}}
    rows = {row.name: row for row in rank_trajectories(pool, "synthetic", info=info).models}
    assert "trained on these images" in rows[pool[1].model].flag
    assert not any("trained on" in rows[t.model].flag for t in (pool[0], pool[2]))
