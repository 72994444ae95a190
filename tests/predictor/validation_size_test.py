"""What a small validation part leaves open."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from ncap_jax.predictor.validation_size import FEW, are_few, by_laplace, doubt, drawn_in
from ncap_jax.types import Prediction


@pytest.mark.parametrize(("right", "images"), [(1, 1), (0, 1), (3, 7), (49, 49)])
def test_without_other_uncertainty_it_is_the_beta_posterior(right, images):
    found = drawn_in(Prediction(right / images), images)
    posterior = stats.beta(right + 1, images - right + 1)
    np.testing.assert_allclose(found.mean, posterior.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.std, posterior.std(), rtol=1e-12)
    assert found.spread == found.std


def test_uncertainties_add_and_flags_too():
    found = drawn_in(Prediction(0.5, 0.3, "why"), 13)
    np.testing.assert_allclose(found.std**2, 0.3**2 + 0.25 / 16)
    assert found.spread == found.std
    assert found.flag == f"why; {doubt(13)}, so the prediction is drawn towards 50 %"


def test_what_counts_the_images_already_is_flagged_alone():
    calibrated = Prediction(0.9, 0.3, "why", own_std=0.1)
    found = drawn_in(calibrated, 13)
    assert found.flag == f"why; {doubt(13)}, so leads over the other models are trusted less"
    assert dataclasses.replace(found, flag="why") == calibrated


@pytest.mark.parametrize(
    ("images", "few"), [(None, False), (0, False), (1, True), (FEW - 1, True), (FEW, False)]
)
def test_how_many_are_few(images, few):
    assert are_few(images) is few


def test_by_laplaces_rule_none_and_all_right_are_not_certain():
    np.testing.assert_allclose(by_laplace(np.array([0.0, 0.5, 1.0]), 8), [0.1, 0.5, 0.9])


def test_the_order_stays():
    means = [drawn_in(Prediction(mean), 3).mean for mean in (0.0, 0.2, 0.999, 1.0)]
    assert means == sorted(means)
    assert len(set(means)) == 4


def test_an_impossible_accuracy_does_not_break_it():
    assert drawn_in(Prediction(3.0, 0.1), 1).std == pytest.approx(0.1)
    assert math.isnan(drawn_in(Prediction(math.nan, flag="none"), 1).mean)
    assert drawn_in(Prediction(math.nan, flag="none"), 1).flag == "none"


@pytest.mark.parametrize("images", [None, 0, FEW, 1297])
def test_many_images_leave_predictions_as_they_are(images):
    prediction = Prediction(1.0, 0.01)
    assert drawn_in(prediction, images) is prediction
    assert doubt(images) == ""


def test_the_doubt_is_said_in_words():
    assert doubt(1) == (
        "1 validation image only: the standard error of an accuracy is up to 50 points"
    )
    assert doubt(12) == (
        "12 validation images only: the standard error of an accuracy is up to 14 points"
    )
