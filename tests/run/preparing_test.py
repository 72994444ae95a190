"""The job that follows from what was asked for."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax import data, errors
from ncap_jax.options import DataConfig
from ncap_jax.run.preparing import prepare
from ncap_jax.run.request import Request
from tests.support.toy_runs import CONFIG, POOL, digits


def test_models_are_checked_before_the_data_is_read():
    wrong = dataclasses.replace(POOL[0], feature_width=13)
    request = Request([wrong, POOL[1]], "no such data", CONFIG, DataConfig())
    with pytest.raises(errors.ModelError) as refusal:
        prepare(request)
    assert refusal.value.cause == "toy_1 has features of width 12, not feature_width=13"


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
