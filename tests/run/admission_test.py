"""Who is left out of a run because the use of a model would cost too much."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax import errors
from ncap_jax.measure import inference
from ncap_jax.run import admission
from ncap_jax.types import InferenceSpeed, LeftOut
from tests.support.toy_runs import CONFIG, POOL, digits

SIZES = (600, 5_000_000, None)
SPECS = tuple(
    dataclasses.replace(spec, parameters=size) for spec, size in zip(POOL, SIZES, strict=True)
)


def test_models_with_more_parameters_are_left_out_with_the_reason():
    found = admission.by_parameters(SPECS, 600)
    assert found.specs == (SPECS[0], SPECS[2])  # of one whose number is not known nothing is said
    reason = "5,000,000 parameters, more than max_parameters=600"
    assert found.left_out == (LeftOut("toy_2", reason),)
    assert admission.notes(found.left_out) == [f"Left out: toy_2, {reason}."]
    assert admission.by_parameters(SPECS, 5_000_000) == admission.Admitted(SPECS)


def test_if_all_models_are_too_large_the_smallest_is_named():
    with pytest.raises(errors.ConfigError) as error:
        admission.by_parameters(SPECS[:2], 599)
    assert error.value.cause == (
        "max_parameters=599 leaves out all 2 models: the smallest, toy_1, has 600"
    )
    assert error.value.remedy == "Give at least 600, or other models"


LIMITED = dataclasses.replace(CONFIG, max_latency_ms=2.0)


@pytest.fixture
def latencies(monkeypatch):
    """Seconds by name, in place of a clock; a model without any cannot be timed."""
    found = {"toy_1": 0.001, "toy_2": 0.0035}
    monkeypatch.setattr(
        inference, "speed", lambda spec, setting, batch: InferenceSpeed(batch, found[spec.name])
    )
    return found


def test_models_that_take_longer_are_left_out_with_the_reason(latencies):
    with pytest.warns(UserWarning, match="^toy_3 takes part although .* not known: KeyError"):
        found = admission.by_latency(SPECS, digits(), LIMITED)
    assert found.specs == (SPECS[0], SPECS[2])
    reason = "3.5 ms for one image, more than max_latency_ms=2"
    assert found.left_out == (LeftOut("toy_2", reason),)


def test_if_all_models_are_too_slow_the_fastest_is_named(latencies):
    latencies["toy_1"] = 0.003
    with pytest.raises(errors.ConfigError) as error:
        admission.by_latency(SPECS[:2], digits(), LIMITED)
    assert error.value.cause == (
        "max_latency_ms=2 leaves out all 2 models: the fastest, toy_1, took 3"
    )
    assert error.value.remedy == ("Give more, an input_size below the models' own, or other models")


def test_a_real_model_is_timed_before_it_is_trained():
    slow = dataclasses.replace(LIMITED, max_latency_ms=60_000.0)
    assert admission.by_latency(SPECS[:1], digits(), slow) == admission.Admitted(SPECS[:1])
