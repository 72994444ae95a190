"""Who is left out of a run because the use of a model would cost too much."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax import errors
from ncap_jax.measure import inference
from ncap_jax.run import admission
from ncap_jax.types import InferenceSpeed, LeftOut
from ncap_jax.zoo.catalogue import Facts
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


@pytest.fixture
def published(monkeypatch):
    """Published sizes in place of those of networks, which have 8,000,000 parameters if built."""
    sizes = {"toy_1": 3_000_000, "toy_2": 90_000_000, "toy_3": 9_000_000}
    monkeypatch.setattr(
        admission.catalogue, "facts", lambda spec: Facts(parameters=sizes[spec.name])
    )
    built: list[str] = []

    def checked(specs, size):
        built.extend(spec.name for spec in specs)
        return tuple(dataclasses.replace(spec, parameters=8_000_000) for spec in specs)

    monkeypatch.setattr(admission.shapes, "checked", checked)
    return built


def test_what_is_published_settles_who_is_certainly_too_large(published):
    found = admission.by_published_size(POOL, 5_000_000)
    assert found.specs == (POOL[0], POOL[2])  # as they were
    reason = "90,000,000 parameters, more than max_parameters=5000000"
    assert found.left_out == (LeftOut("toy_2", reason),)
    assert published == []
    with pytest.raises(errors.ConfigError, match="leaves out all 1 models"):
        admission.by_published_size(POOL[1:2], 5_000_000)


def test_networks_are_built_where_the_classifier_could_decide(published):
    config = dataclasses.replace(CONFIG, max_parameters=5_000_000)
    found = admission.by_size([POOL[0], POOL[2]], config)
    assert found.specs == (POOL[0],)
    assert [each.name for each in found.left_out] == ["toy_3"]
    assert published == ["toy_3"]


def test_whoever_cannot_be_built_or_is_too_large_is_unfit(published, monkeypatch):
    config = dataclasses.replace(CONFIG, max_parameters=5_000_000)
    reason = "8,000,000 parameters, more than max_parameters=5000000"
    assert admission.unfit(POOL[:1], config) == (LeftOut("toy_1", reason),)
    assert admission.unfit(POOL[:1], CONFIG) == ()

    def broken(specs, size):
        raise errors.ModelError("toy_1 cannot take images of 1 pixels", "Give more")

    monkeypatch.setattr(admission.shapes, "checked", broken)
    (found,) = admission.unfit(POOL[:1], CONFIG)
    assert found.step == "failed"
    assert found.reason == "it failed before training: toy_1 cannot take images of 1 pixels"


def test_models_with_larger_inputs_are_left_out():
    wide = dataclasses.replace(POOL[1], input_size=224)
    found = admission.by_input_size([POOL[0], wide], 160)
    assert found.specs == (POOL[0],)
    assert found.left_out == (LeftOut("toy_2", "224 pixels, more than max_input_size=160"),)
    with pytest.raises(errors.ConfigError) as error:
        admission.by_input_size([POOL[0], wide], 7)
    assert error.value.cause == (
        "max_input_size=7 leaves out all 2 models: the smallest input has 8 pixels"
    )
    assert error.value.remedy == "Give at least 8, or an input_size for all models"


def test_what_the_device_cannot_hold_is_left_out():
    found = admission.by_memory(SPECS, memory=79_999_999)
    assert found.specs == (SPECS[0], SPECS[2])
    assert found.left_out[0].reason == (
        "5,000,000 parameters, which take 0.1 GB in training, more than the 0.1 GB of the device"
    )
    assert admission.by_memory(SPECS, memory=80_000_000) == admission.Admitted(SPECS)
    with pytest.raises(errors.ConfigError, match="none of 1 models can be trained on"):
        admission.by_memory(SPECS[1:2], memory=1)
    assert admission.device_memory() > 1 << 28


def test_of_many_left_out_the_first_are_told_those_that_failed_before_all():
    many = [LeftOut(f"m{i}", "why", "filter") for i in range(20)]
    said = admission.notes([*many, LeftOut("torn", "no file", "failed")])
    assert len(said) == admission.NOTES
    assert said[0] == "Left out: torn, no file."
    assert said[-1] == "Left out: 14 more, all of them in ranking.json."
    places = [LeftOut(f"m{i}", "place", "recall") for i in range(10)]
    assert admission.notes(places) == ["Not recalled: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more."]
    assert admission.notes(places[:1]) == ["Not recalled: m0."]


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
    assert len(admission.too_slow(SPECS[:2], digits(), LIMITED)) == 2


def test_a_real_model_is_timed_before_it_is_trained():
    slow = dataclasses.replace(LIMITED, max_latency_ms=60_000.0)
    assert admission.by_latency(SPECS[:1], digits(), slow) == admission.Admitted(SPECS[:1])
