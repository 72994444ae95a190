"""LEEP against its definition, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from ncap_jax.predictor.leep import leep
from tests.support.transfer_task import make_task


def by_definition(theta, labels):
    n = len(labels)
    joint = {}
    for y in set(labels.tolist()):
        for z in range(theta.shape[1]):
            joint[y, z] = sum(theta[i, z] for i in range(n) if labels[i] == y) / n
    total = 0.0
    for i in range(n):
        inner = 0.0
        for z in range(theta.shape[1]):
            marginal = sum(joint[y, z] for y in set(labels.tolist()))
            if marginal > 0:
                inner += joint[labels[i], z] / marginal * theta[i, z]
        total += np.log(inner)
    return total / n


@pytest.mark.parametrize(("n", "source", "classes"), [(60, 5, 3), (30, 12, 4)])
def test_equals_the_definition(n, source, classes):
    theta, labels = make_task("source_probabilities", n=n, width=source, classes=classes)
    np.testing.assert_allclose(leep(theta, labels), by_definition(theta, labels), rtol=1e-10)


def test_a_source_class_that_is_never_predicted():
    theta, labels = make_task("source_probabilities")
    padded = np.concatenate([theta, np.zeros((len(theta), 2))], axis=1)
    np.testing.assert_allclose(leep(padded, labels), leep(theta, labels), rtol=1e-12)


def test_bounds():
    labels = np.arange(40) % 4
    assert leep(np.eye(4)[labels], labels) == 0.0  # the source classifier knows the answer
    uniform = np.full((40, 4), 0.25)
    np.testing.assert_allclose(leep(uniform, labels), -np.log(4))
