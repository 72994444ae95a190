"""Widths, sizes and counts from shapes alone: against networks that are really run."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, shapes
from tests.support.small import SmallNet, small_spec


class Valid(nnx.Module):
    """Convolutions of 3 by 3 without padding, in steps of two; optionally flattened at the end."""

    def __init__(self, layers: int, end: str = "mean", *, rngs: nnx.Rngs, dtype: Any = None):
        self.convolutions = nnx.List(
            nnx.Conv(3, 3, (3, 3), strides=2, padding="VALID", rngs=rngs) for _ in range(layers)
        )
        self.dense = nnx.Linear(12, 5, rngs=rngs)  # fits four positions of three channels
        self.end = end

    def features(self, x: jax.Array) -> jax.Array:
        for convolution in self.convolutions:
            x = convolution(x)
        if self.end == "maps":
            return x
        if self.end == "mean":
            return jnp.mean(x, axis=(1, 2))
        x = x.reshape(len(x), -1)
        return self.dense(x) if self.end == "dense" else x


def valid(
    end: str = "mean", size: int = 32, width: int | None = None, layers: int = 3
) -> ModelSpec:
    return ModelSpec("valid", functools.partial(Valid, layers, end), size, width)


def refusal(*arguments: Any) -> tuple[str, str]:
    with pytest.raises(errors.ModelError) as caught:
        shapes.checked(*arguments)
    return caught.value.cause, caught.value.remedy


def test_a_width_that_is_wrong_is_refused_with_the_right_one():
    spec = dataclasses.replace(small_spec(), feature_width=13)
    assert refusal([small_spec("other"), spec]) == (
        "small has features of width 12, not feature_width=13",
        "Use feature_width=12, or leave it out",
    )
    assert refusal([spec], 16)[0] == "small has features of width 12, not feature_width=13"


def test_a_width_that_is_not_stated_is_found_at_the_size_of_the_run():
    own, large = (shapes.checked([valid("flat")], size)[0] for size in (None, 64))
    # 32 -> 15 -> 7 -> 3, and 64 -> 31 -> 15 -> 7 positions a side, of three channels.
    assert (own.feature_width, large.feature_width) == (27, 147)
    stated = valid("flat", width=27)
    assert shapes.checked([stated], 64)[0].feature_width == 147


def test_parameters_that_are_not_stated_are_counted():
    spec = small_spec()
    assert spec.parameters is None
    assert shapes.checked([spec])[0].parameters == 4 * 4 * 3 * 12 + 12 + 12
    stated = dataclasses.replace(spec, parameters=5)
    assert shapes.checked([stated]) == (stated,)


def test_a_module_in_memory_is_checked_too():
    spec = ncap.from_module(SmallNet(rngs=nnx.Rngs(0)), name="mine", input_size=8)
    assert shapes.checked([spec]) == (spec,)
    assert shapes.checked([spec], 16)[0].feature_width == 12


@pytest.mark.parametrize(("layers", "smallest"), [(1, 3), (2, 7), (3, 15)])
def test_the_smallest_size_is_the_last_that_gives_numbers(layers: int, smallest: int):
    assert refusal([valid(layers=layers)], smallest - 1) == (
        f"valid cannot take images of {smallest - 1} pixels",
        f"Give an input_size of at least {smallest}, or leave the model out",
    )
    assert shapes.checked([valid(layers=layers)], smallest)[0].feature_width == 3
    module = Valid(layers, rngs=nnx.Rngs(0))
    for size, finite in ((smallest - 1, False), (smallest, True)):
        features = module.features(jnp.ones((1, size, size, 3)))
        assert bool(np.isfinite(features).all()) == finite


def test_a_size_of_ones_own_that_is_too_small_is_refused():
    assert refusal([valid(size=4)]) == (
        "valid cannot take images of 4 pixels",
        "Give an input_size of at least 15, or leave the model out",
    )


def test_models_of_the_zoo_have_the_smallest_size_that_their_publisher_states():
    # keras.applications.VGG16: "no smaller than 32".
    assert refusal([MODELS["tiny_plain"], MODELS["vgg16"]], 31) == (
        "vgg16 cannot take images of 31 pixels",
        "Give an input_size of at least 32, or leave the model out",
    )


@pytest.mark.parametrize("size", [10, 40, 2000])
def test_a_network_of_one_size_is_refused_all_others(size: int):
    """Two positions a side at 23 to 30 pixels, which the dense layer asks for."""
    cause, remedy = refusal([valid("dense", size=30)], size)
    assert cause == f"valid cannot take images of {size} pixels"
    assert remedy == {
        10: "Give an input_size of at least 23, or leave the model out",
    }.get(size, "Use input_size=30, or leave the model out")


def test_feature_maps_are_no_features():
    assert refusal([valid("maps")]) == (
        "valid: one image gives features of shape (1, 3, 3, 3)",
        "Return (batch, width), such as the mean over height and width",
    )


def test_what_breaks_at_its_own_size_is_left_to_its_training():
    def broken(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        raise OSError("no such disk")

    specs = (
        ModelSpec("broken", broken, 8, 4),
        valid("dense", size=32),  # three positions a side: the dense layer does not fit
        ModelSpec("none", functools.partial(nnx.Linear, 3, 3), 8),
    )
    assert shapes.checked(specs) == specs


def test_the_zoo_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes.functional, "build_to_fill", None)
    spec = MODELS["vgg16"]
    assert shapes.checked([spec])[0] is spec
    assert shapes.checked([spec], 224)[0] is spec


def test_nothing_is_computed():
    """In the billions of pixels that no memory holds."""
    module = SmallNet(rngs=nnx.Rngs(0))
    assert shapes.feature_width(module, 2**20) == 12
    assert shapes.parameters(module) == 4 * 4 * 3 * 12 + 12 + 12
    assert not shapes.works(module, 0)
    assert math.isfinite(shapes.LARGEST)


@pytest.mark.parametrize(
    ("spec", "traced"),
    [
        (MODELS["tiny_plain_wide"], [64]),
        (small_spec(), [8, 64]),
        (dataclasses.replace(MODELS["tiny_plain_wide"], name="mine"), [32, 64]),
    ],
)
def test_a_size_costs_one_trace(
    spec: ModelSpec, traced: list[int], monkeypatch: pytest.MonkeyPatch
):
    """And one more at its own size for a model of which no test has checked the width."""
    sizes, trace = [], shapes._traced

    def counted(module: nnx.Module, size: int) -> Any:
        sizes.append(size)
        return trace(module, size)

    monkeypatch.setattr(shapes, "_traced", counted)
    (found,) = shapes.checked([spec], 64)
    assert (found.feature_width, sizes) == (spec.feature_width, traced)
