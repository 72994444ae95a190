"""The job that follows from what was asked for."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax import data, errors
from ncap_jax.measure import inference
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run.preparing import prepare, settle
from ncap_jax.run.recall_files import Decision
from ncap_jax.run.request import Request
from ncap_jax.types import FunnelStep, InferenceSpeed, LeftOut
from ncap_jax.zoo import MODELS
from tests.support.toy_runs import CONFIG, POOL, digits


def test_models_are_checked_before_the_data_is_read():
    wrong = dataclasses.replace(POOL[0], feature_width=13)
    request = Request([wrong, POOL[1]], "no such data", CONFIG, DataConfig())
    with pytest.raises(errors.ModelError) as refusal:
        prepare(request)
    assert refusal.value.cause == "toy_1 has features of width 12, not feature_width=13"


SIZED = [dataclasses.replace(POOL[0], parameters=9_999_999), *POOL[1:]]


def test_models_that_are_too_large_take_no_part():
    """Nor are their weights looked for; a finish takes those that were ranked."""
    lost = dataclasses.replace(SIZED[0], weights="gone.safetensors")
    config = dataclasses.replace(CONFIG, max_parameters=600)
    job, about = prepare(Request([lost, *SIZED[1:]], digits(), config, DataConfig()))
    assert job.names == ("toy_2", "toy_3") == tuple(about["models"])
    (left_out,) = job.left_out
    assert left_out.name == "toy_1"
    assert left_out.reason == "9,999,999 parameters, more than max_parameters=600"
    request = Request(SIZED, digits(), config, DataConfig())
    job, _ = prepare(request, {"toy_1", "toy_3"})
    assert (job.names, job.left_out) == (("toy_1", "toy_3"), ())


def test_models_that_are_too_slow_take_no_part(monkeypatch):
    seconds = {"toy_1": 0.001, "toy_2": 0.009, "toy_3": 0.001}
    monkeypatch.setattr(
        inference, "speed", lambda spec, setting, batch: InferenceSpeed(batch, seconds[spec.name])
    )
    config = dataclasses.replace(CONFIG, max_latency_ms=5.0, max_parameters=600)
    request = Request(SIZED, digits(), config, DataConfig())
    job, _ = prepare(request)
    assert job.names == ("toy_3",)
    assert [each.name for each in job.left_out] == ["toy_1", "toy_2"]
    assert job.left_out[1].reason == "9 ms for one image, more than max_latency_ms=5"
    assert prepare(request, {"toy_2"})[0].names == ("toy_2",)


def test_of_a_long_list_the_models_are_chosen_later():
    """The command names all that were asked for; what is fixed of models is not looked up."""
    config = dataclasses.replace(CONFIG, recall=2)
    job, about = prepare(Request(POOL, digits(), config, DataConfig()))
    assert (job.recall, job.names, about["models"]) == (2, ("toy_1", "toy_2", "toy_3"), {})
    assert [(step.step, step.models) for step in job.funnel] == [("candidates", 3), ("filtered", 3)]
    out = (LeftOut("toy_2", "why", "recall"),)
    decision = Decision(("toy_3", "toy_1"), out, 1.5)
    settled, about = settle(job, about, DataConfig(), decision)
    assert settled.names == ("toy_3", "toy_1") == tuple(about["models"])
    assert settled.specs[0].parameters == 600
    assert (settled.recall, settled.left_out) == (0, out)
    assert settled.funnel[-1] == FunnelStep("recalled", 2, 1.5)
    # A finish takes those that were ranked.
    job, about = prepare(Request(POOL, digits(), config, DataConfig()), {"toy_1", "toy_2"})
    assert (job.recall, tuple(about["models"])) == (0, ("toy_1", "toy_2"))


def test_the_epochs_budget_is_for_those_that_are_recalled():
    config = dataclasses.replace(CONFIG, recall=2, epochs_budget=2)
    assert prepare(Request(POOL, digits(), config, DataConfig()))[0].recall == 2
    with pytest.raises(errors.ConfigError, match="epochs_budget=2 does not suffice for 3 models"):
        prepare(Request(POOL, digits(), dataclasses.replace(config, recall=0), DataConfig()))


def test_whoever_is_left_out_is_named_with_the_reason(monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    closed = dataclasses.replace(MODELS["tiny_plain"], name="closed", licence="", weights="x")
    config = RankConfig(licence="commercial", max_input_size=224)
    models = [closed, "tiny_plain", "squeeze*", "inceptionv3", "alexnet*"]
    with pytest.warns(UserWarning, match="left out"):
        job, _ = prepare(Request(models, digits(), config, DataConfig()))
    assert job.names == ("tiny_plain",)
    assert {each.name: each.reason for each in job.left_out} == {
        "closed": "its licence does not say that it allows commercial use",
        "squeezenet": "its licence does not say that it allows commercial use",
        "inceptionv3": "299 pixels, more than max_input_size=224",
        "alexnet": "its weights are not within reach",
    }
    assert [(step.step, step.models) for step in job.funnel] == [("candidates", 5), ("filtered", 1)]
    sized = dataclasses.replace(config, input_size=32, licence="any")
    assert "tiny_plain" in prepare(Request(["tiny_plain"], digits(), sized, DataConfig()))[0].names


def test_the_command_names_those_that_are_left_out():
    """It comes to the same run, its list of those that take no part included."""
    config = RankConfig(max_parameters=30_000)
    models = ["tiny_plain", "tiny_plain_wide", "vgg16"]
    job, about = prepare(Request(models, "digits", config, DataConfig(max_train=50)))
    assert "vgg16" not in job.names
    assert f"--models={','.join(models)}" in about["command"]
    assert "--max_parameters=30000" in about["command"]


def test_what_a_model_leaves_out_is_found_once_for_the_whole_run():
    """Its programs, too, are freed by the number of its parameters."""
    bare = dataclasses.replace(POOL[0], feature_width=None, parameters=None)
    job, _ = prepare(Request([bare], digits(), CONFIG, DataConfig()))
    assert job.specs == (dataclasses.replace(bare, feature_width=12, parameters=600),)


def test_who_has_seen_the_images_is_told_and_kept(monkeypatch):
    """Models drawn at random have seen nothing, nor has anybody in a run from scratch."""
    why = {"cifar10": "seen in cifar10", "imagenet2012": ""}
    monkeypatch.setattr(data, "seen_by", lambda source, dataset, folder: why[source])
    sources = {"toy_1": "cifar10", "toy_2": "imagenet2012", "toy_3": ""}
    models = [
        dataclasses.replace(spec, build_pretrained=spec.build, source=sources[spec.name])
        for spec in POOL[:3]
    ]
    drawn = dataclasses.replace(models[0], name="drawn", weights="random")
    config = dataclasses.replace(CONFIG, weights="pretrained")
    request = Request([*models, drawn], digits(), config, DataConfig())
    with pytest.warns(UserWarning, match="^toy_1: seen in cifar10$"):
        job, _ = prepare(request)
    assert job.seen == {"toy_1": "seen in cifar10"}
    scratch = dataclasses.replace(CONFIG, weights="random")
    assert prepare(dataclasses.replace(request, config=scratch))[0].seen == {}


def test_a_model_whose_licence_does_not_allow_it_is_refused_before_the_data_is_read():
    closed = dataclasses.replace(POOL[0], build_pretrained=POOL[0].build, licence="cc-by-nc-4.0")
    config = dataclasses.replace(CONFIG, weights="pretrained", licence="commercial")
    with pytest.raises(errors.ModelError, match="leaves no model: toy_1"):
        prepare(Request([closed], "no such data", config, DataConfig()))
