"""NCE against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax.predictor.leep import leep
from ncap_jax.predictor.nce import nce
from tests.support.transfer_task import make_task


def by_definition(theta, labels):
    """−H(Y | Z), by conditioning on each source label in turn."""
    source = theta.argmax(axis=1)
    total = 0.0
    for z in np.unique(source):
        inside = labels[source == z]
        p = np.unique(inside, return_counts=True)[1] / inside.size
        total += inside.size / labels.size * np.sum(p * np.log(p))
    return total


@pytest.mark.parametrize(("n", "source", "classes"), [(60, 5, 3), (200, 12, 7)])
def test_equals_the_definition(n, source, classes):
    theta, labels = make_task("source_probabilities", n=n, width=source, classes=classes)
    np.testing.assert_allclose(nce(theta, labels), by_definition(theta, labels), rtol=1e-9)


def test_bounds():
    labels = np.arange(40) % 4
    assert nce(np.eye(4)[labels], labels) == 0.0
    same = np.tile(np.array([[0.7, 0.3]]), (40, 1))
    np.testing.assert_allclose(nce(same, labels), -np.log(4))


def test_equals_leep_where_the_source_is_certain():
    """With one-hot source probabilities LEEP is NCE (Nguyen et al. 2020, property 1)."""
    theta, labels = make_task("source_probabilities")
    certain = np.eye(theta.shape[1])[theta.argmax(axis=1)]
    np.testing.assert_allclose(leep(certain, labels), nce(theta, labels), rtol=1e-9)
