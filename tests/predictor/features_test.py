"""What every transferability score owes its caller."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor.features import check, spectrum
from ncap_jax.predictor.scores import SCORES

each = pytest.mark.parametrize("name", sorted(SCORES))


def task(needs: str, n=120, width=12, classes=4, seed=0, separation=1.0):
    """Inputs of the kind a score needs, float64, and labels; more separation is easier."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, width)) + separation * rng.normal(size=(classes, width))[labels]
    if needs == "source_probabilities":
        x = np.exp(x - x.max(axis=1, keepdims=True))
        x /= x.sum(axis=1, keepdims=True)
    return x, labels


@each
def test_easier_tasks_score_higher(name):
    score = SCORES[name]
    values = [score(*task(score.needs, separation=s)) for s in (0.0, 0.7, 3.0)]
    assert values == sorted(values)
    assert values[0] < values[2]


@each
def test_a_batch_is_the_models_one_by_one(name):
    score = SCORES[name]
    inputs = [task(score.needs, separation=s)[0] for s in (0.2, 0.8, 2.0)]
    labels = task(score.needs)[1]
    batch = score(np.stack(inputs), labels)
    assert batch.shape == (3,)
    np.testing.assert_allclose(batch, [score(x, labels) for x in inputs], rtol=1e-9)
    assert isinstance(score(inputs[0], labels), float)


@each
def test_float32_against_float64(name):
    score = SCORES[name]
    x, labels = task(score.needs)
    # docs/numerics.md, "transferability scores".
    np.testing.assert_allclose(
        score(x.astype(np.float32), labels), score(x, labels), rtol=1e-4, atol=1e-5
    )
    assert not jax.config.jax_enable_x64


@each
def test_order_of_samples_and_names_of_classes_do_not_matter(name):
    score = SCORES[name]
    x, labels = task(score.needs)
    order = np.random.default_rng(1).permutation(len(labels))
    if name != "linear_probe":  # its folds go by position
        np.testing.assert_allclose(score(x[order], labels[order]), score(x, labels), rtol=1e-9)
    np.testing.assert_allclose(score(x, 3 - labels), score(x, labels), rtol=1e-6)


@each
def test_a_gap_in_the_labels_changes_nothing(name):
    score = SCORES[name]
    x, labels = task(score.needs)
    gapped = np.array([0, 2, 5, 1000])[labels]
    assert score(x, gapped) == score(x, labels)
    assert score(x, gapped - 7) == score(x, labels)


@each
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_input_is_an_error(name, value):
    score = SCORES[name]
    x, labels = task(score.needs)
    x[3, 1] = value
    with pytest.raises(errors.DataError, match="NaN or infinity"):
        score(x, labels)


@each
def test_zero_and_constant_features_score_finitely(name):
    score = SCORES[name]
    x, labels = task(score.needs)
    constant = [np.full_like(x, 1.0 / x.shape[1])]
    if score.needs == "features":
        constant += [np.zeros_like(x), np.full_like(x, 1e4)]
        x[:, 3] = 2.0
        constant.append(x)
    for features in constant:
        for dtype in (np.float32, np.float64):
            assert np.isfinite(score(features.astype(dtype), labels))


@each
@pytest.mark.parametrize(("n", "width"), [(20, 60), (40, 40)])
def test_fewer_samples_than_features_score_finitely(name, n, width):
    score = SCORES[name]
    x, labels = task(score.needs, n=n, width=width)
    assert np.isfinite(score(x.astype(np.float32), labels))


def test_shape_and_label_errors():
    x, labels = task("features")
    for bad_x, bad_labels in [
        (x[0], labels),
        (x[None, None], labels),
        (x[:, :0], labels),
        (x, labels[:-1]),
        (x, labels[:, None]),
        (x, labels.astype(float)),
        (x, np.zeros_like(labels)),
    ]:
        with pytest.raises(errors.DataError):
            check(bad_x, bad_labels)


@pytest.mark.parametrize("name", ["leep", "nce"])
def test_logits_are_no_probabilities(name):
    x, labels = task("features")
    with pytest.raises(errors.DataError, match="softmax"):
        SCORES[name](x, labels)


def test_a_class_with_one_sample_cannot_be_probed():
    x, labels = task("features")
    labels[0] = 9
    with pytest.raises(errors.DataError, match="one sample"):
        SCORES["linear_probe"](x, labels)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (12, 12)])
def test_spectrum_against_the_svd(n, d):
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(n, d)), rng.normal(size=(n, 3))
    with jax.enable_x64(True):
        sigma, energy = map(np.asarray, spectrum(features, targets))
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    # Eigenvalues of the Gram matrix: the square of the condition number, about 1e4, over 1e-16.
    np.testing.assert_allclose(sigma[::-1], s**2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(energy[::-1], (u.T @ targets) ** 2, rtol=1e-8, atol=1e-10)


def test_importing_the_predictors_does_not_import_jax():
    code = (
        "import sys, ncap_jax.predictor; assert 'jax' not in sys.modules; ncap_jax.predictor.logme"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
