"""A model that is saved and loaded again says the same, to the last bit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from flax import linen, nnx

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.winner import package
from tests.support.small import SmallNet, small_digits
from tests.support.toy_runs import toy
from tests.support.winners import make_winner, tiny_winner, toy_winner


def test_a_model_of_the_zoo(tmp_path: pathlib.Path):
    winner = tiny_winner()
    package.save(winner, tmp_path / "model")
    again = ncap.load(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    assert np.array_equal(again.logits(images), winner.logits(images))
    assert repr(again) == repr(winner)


def module() -> ModelSpec:
    return ncap.from_module(SmallNet(rngs=nnx.Rngs(0)), name="mine", input_size=8)


def linen_module() -> ModelSpec:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            return linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (4, 4), 4)(x))

    return ncap.from_linen(Net(), None, name="linen", input_size=8)


@pytest.mark.parametrize("make", [module, pytest.param(linen_module, marks=pytest.mark.slow)])
def test_adapted_modules(make, tmp_path: pathlib.Path):
    """Equal to the last bit; loaded with a ModelSpec that other weights came with."""
    spec = make()
    winner = make_winner(spec, weights="pretrained" if spec.build_pretrained else "random")
    winner.save(tmp_path / "model")
    again = ncap.load(tmp_path / "model", make())
    images = small_digits().images[:3]
    assert np.array_equal(again.logits(images), winner.logits(images))


def test_a_model_of_ones_own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    winner = toy_winner()
    winner.save(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    again = ncap.load("~/model", spec=toy(1))
    images = small_digits().images[:3]
    assert np.array_equal(again.logits(images), winner.logits(images))
    with pytest.raises(errors.ModelError):
        ncap.load(tmp_path / "model")
