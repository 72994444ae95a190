"""What the transferability scores share: checks of the input, precision, spectra."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.predictor.features import check, check_probabilities, evaluate, precision, spectrum
from tests.support.transfer_task import make_task


def test_classes_without_samples_are_left_out():
    x, labels = make_task("features", n=20, classes=3)
    checked = check(x, np.array([-5, 0, 7])[labels])
    assert checked.labels.tolist() == labels.tolist()
    assert checked.one_hot.tolist() == np.eye(3)[labels].tolist()


def test_one_model_is_a_batch_of_one():
    x, labels = make_task("features")
    assert check(x, labels).single
    assert check(x, labels).features.shape == (1, *x.shape)
    batch = check(np.stack([x, x]), labels)
    assert not batch.single
    assert batch.features.shape == (2, *x.shape)


@pytest.mark.parametrize(
    ("given", "used"),
    [("float64", "float64"), ("float32", "float32"), ("float16", "float32"), ("int32", "float32")],
)
def test_the_precision_is_that_of_the_features(given: str, used: str):
    x, labels = make_task("features")
    checked = check(x.astype(given), labels)
    assert checked.features.dtype == checked.one_hot.dtype == used


REFUSED: list[tuple[Callable, str, str]] = [
    (lambda x, y: (x[0], y), "features have shape (12,)", "Give (n, d), or (m, n, d) for m models"),
    (
        lambda x, y: (x[None, None], y),
        "features have shape (1, 1, 120, 12)",
        "Give (n, d), or (m, n, d) for m models",
    ),
    (
        lambda x, y: (x[:, :0], y),
        "features have shape (120, 0)",
        "Give (n, d), or (m, n, d) for m models",
    ),
    (
        lambda x, y: (x, y[:-1]),
        "labels have shape (119,) for 120 samples",
        "Give one integer label per sample",
    ),
    (
        lambda x, y: (x, y[:, None]),
        "labels have shape (120, 1) for 120 samples",
        "Give one integer label per sample",
    ),
    (lambda x, y: (x, y.astype(float)), "labels have dtype float64", "Give integer labels"),
    (
        lambda x, y: (x, 0 * y),
        "labels contain fewer than two classes",
        "Give samples of at least two classes",
    ),
    (
        lambda x, y: (x * np.inf, y),
        "features contain NaN or infinity",
        "Check the model's weights and preprocessing",
    ),
]


@pytest.mark.parametrize(("change", "cause", "remedy"), REFUSED)
def test_input_without_a_score_is_refused(change: Callable, cause: str, remedy: str):
    with pytest.raises(errors.DataError) as error:
        check(*change(*make_task("features")))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


@pytest.mark.parametrize("change", [lambda p: 2 * p, lambda p: p - 0.1, lambda p: np.log(p)])
def test_what_is_not_a_distribution_is_refused(change: Callable):
    probabilities, labels = make_task("source_probabilities")
    assert check_probabilities(probabilities.astype(np.float32), labels).single
    with pytest.raises(errors.DataError) as error:
        check_probabilities(change(probabilities), labels)
    assert error.value.cause == "rows of source_probabilities are not probability distributions"
    assert error.value.remedy == "Give softmax outputs, not logits"


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float64")])
def test_evaluation_computes_in_the_precision_of_the_features(dtype: np.dtype):
    seen = []

    def kernel(features: jax.Array, one_hot: jax.Array, factor: float) -> jax.Array:
        seen.append(jnp.sum(jnp.asarray(features) @ jnp.asarray(one_hot.T @ one_hot[:, :1])).dtype)
        return factor * jnp.sum(jnp.asarray(features), axis=(1, 2))

    x, labels = make_task("features", width=4)
    found = evaluate(kernel, check(x.astype(dtype), labels), 2.0)
    assert isinstance(found, float)
    assert found == pytest.approx(2 * x.sum(), rel=1e-5)
    assert seen == [dtype]
    with precision(dtype):
        assert jnp.ones(1, dtype).dtype == dtype
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (12, 12)])
def test_spectrum_against_the_svd(n: int, d: int):
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(n, d)), rng.normal(size=(n, 3))
    with jax.enable_x64(True):
        sigma, energy = map(np.asarray, spectrum(features, targets))
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    # Eigenvalues of the Gram matrix: the square of the condition number, about 1e4, over 1e-16.
    np.testing.assert_allclose(sigma[::-1], s**2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(energy[::-1], (u.T @ targets) ** 2, rtol=1e-8, atol=1e-10)
