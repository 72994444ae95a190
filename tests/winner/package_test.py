"""A model that is saved and loaded again says the same, to the last bit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.winner import package
from tests.support.small import small_digits
from tests.support.toy_runs import toy
from tests.support.winners import tiny_winner, toy_winner


def test_a_model_of_the_zoo(tmp_path: pathlib.Path):
    winner = tiny_winner()
    package.save(winner, tmp_path / "model")
    again = ncap.load(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    assert np.array_equal(again.logits(images), winner.logits(images))
    assert repr(again) == repr(winner)


def test_a_model_of_ones_own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    winner = toy_winner()
    winner.save(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    again = ncap.load("~/model", spec=toy(1))
    images = small_digits().images[:3]
    assert np.array_equal(again.logits(images), winner.logits(images))
    with pytest.raises(errors.ModelError):
        ncap.load(tmp_path / "model")
