"""Options that do not go together, or not with the models or the machine: cause and remedy."""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings

import pytest

from ncap_jax import distributed, errors, predictor
from ncap_jax.options import RankConfig
from ncap_jax.run import checks
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, registry
from tests.support import toy_runs


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        (
            {"head": "linear", "num_probes": 2},
            "num_probes=2 with head='linear', which has no probe",
            "Use num_probes=1, or head='probe'",
        ),
        (
            {"workers": 3},
            "workers=3 with executor='local', which runs in one process",
            "Use executor='processes' or 'ray'",
        ),
        (
            {"ray_address": "auto"},
            "ray_address='auto' with executor='local'",
            "Use executor='ray'",
        ),
        (
            {"ray_address": "auto", "executor": "processes"},
            "ray_address='auto' with executor='processes'",
            "Use executor='ray'",
        ),
        (
            {"epochs_budget": 2},
            "epochs_budget=2 does not suffice for 3 models: the predictor needs 1 epoch(s) of each",
            "Give at least 3, or fewer models",
        ),
        (
            {"mesh": "data:2", "executor": "processes"},
            "mesh='data:2' with executor='processes': each worker has one device",
            "Use executor='local', which has all devices",
        ),
        (
            {"beta_eff": "off", "predictor": "scaled_ridge"},
            "predictor 'scaled_ridge' reads the absolute beta_eff, which is not measured with "
            "beta_eff='off'",
            "Use beta_eff='auto', or predictor='last_validation_loss'",
        ),
        ({"mesh": "8"}, "mesh='8'", "Write the number of devices like data:8"),
    ],
)
def test_options_that_contradict_one_another_are_refused(changes, cause, remedy):
    with pytest.raises(errors.ConfigError) as error:
        checks.check_run(RankConfig(**changes), toy_runs.POOL)
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_a_predictor_that_needs_more_epochs_is_refused():
    config = RankConfig(epochs=1, head="probe", predictor="published_ridge")
    with pytest.raises(errors.ConfigError) as expected:
        predictor.get(config.predictor).check_epochs(1)
    with pytest.raises(errors.ConfigError) as error:
        checks.check_run(config, toy_runs.POOL)
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"workers": 1},
        {"head": "probe", "num_probes": 2},
        {"epochs_budget": 3},
        {"mesh": "data:1"},
    ],
)
def test_what_goes_together_passes(changes):
    checks.check_run(RankConfig(**changes), toy_runs.POOL)


def test_a_model_that_cannot_be_sent_is_refused(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    closure = ModelSpec("closure", lambda *, rngs, dtype=None: None, 8, 12)
    with pytest.raises(errors.ConfigError) as error:
        checks.check_run(RankConfig(executor="processes"), [*toy_runs.POOL, closure])
    assert error.value.cause.startswith("the model 'closure' cannot be sent to a worker process: ")
    assert error.value.remedy == (
        "Build it with a function or class at the top level of a module that can be imported, or "
        "use executor='local'"
    )
    checks.check_run(RankConfig(), [closure])


def test_this_process_leaves_the_devices_memory_to_its_workers(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    # What the check sets is to be undone as well.
    monkeypatch.setitem(os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    del os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
    checks.check_run(RankConfig(executor="processes"), toy_runs.POOL)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.ConfigError) as error:
        checks.check_run(RankConfig(executor="ray"), toy_runs.POOL)
    assert error.value.cause == "executor='ray' needs Ray, which is not installed"
    assert error.value.remedy == "Run: pip install 'ncap_jax[ray]'"


STOPPING = {
    "strategy": "halving",
    "time_budget": 60.0,
    "model_time_budget": 60.0,
    "epochs_budget": 9,
}


def test_of_several_processes_each_option_that_could_stop_one_alone_is_refused(monkeypatch):
    assert set(STOPPING) == set(checks.STOPPING)
    together = RankConfig(mesh="data:1")
    for name, value in STOPPING.items():
        checks.check_processes(dataclasses.replace(together, **{name: value}))  # alone: fine
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    checks.check_processes(together)
    for name, value in STOPPING.items():
        with pytest.raises(errors.ConfigError) as error:
            checks.check_processes(dataclasses.replace(together, **{name: value}))
        assert error.value.cause == (
            f"{name}={value!r} with several processes, which would have to agree when to stop"
        )
        assert error.value.remedy == "Leave it out, or run in one process"


def test_several_processes_measure_nothing_of_one_machine(monkeypatch):
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    for name, value in {"max_latency_ms": 5.0, "measure_inference": True}.items():
        with pytest.raises(errors.ConfigError) as error:
            checks.check_processes(RankConfig(mesh="data:1", **{name: value}))
        assert error.value.cause == (
            f"{name}={value!r} with several processes, whose machines may differ"
        )
        assert error.value.remedy == "Leave it out, or run in one process"
    checks.check_processes(RankConfig(mesh="data:1", max_parameters=9))


def test_several_processes_need_a_mesh(monkeypatch):
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    with pytest.raises(errors.ConfigError) as error:
        checks.check_processes(RankConfig())
    assert error.value.cause == "several processes, but no mesh"
    assert error.value.remedy.startswith("Use mesh='data:")


def test_few_validation_images_are_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checks.warn_of_few_images(4)
        checks.warn_of_few_images(50)
    assert [str(warning.message) for warning in caught] == [
        "4 validation images only: the standard error of an accuracy is up to 25 points. "
        "Give more, or set validation_splits=5: with this few, most models cannot be told apart"
    ]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, an empty cache, no folder of weights."""
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def obtained(*models, **options):
    return [spec.name for spec in checks.obtainable(registry.search(models), RankConfig(**options))]


def test_all_missing_weights_are_named_at_once(offline, tmp_path):
    with pytest.raises(errors.WeightsError) as error:
        obtained("tiny_plain", "alexnet", "squeezenet", weights_dir=str(tmp_path))
    url = MODELS["alexnet"].weights
    assert error.value.cause == (
        "the weights of 2 of 3 models are missing:\n"
        f"  alexnet: alexnet-owt-7be5be79.pth is not in {tmp_path}, its copy is not in the cache "
        f"{tmp_path / 'cache' / 'weights'}, and NCAP_OFFLINE forbids downloading {url}\n"
        f"  squeezenet: squeezenet_v1.1.safetensors is not in {tmp_path}, and cannot be downloaded"
    )
    assert error.value.remedy == (
        "Put the files into the folder given by weights_dir (NCAP_WEIGHTS_DIR), give a file's path "
        "as weights of a ModelSpec, unset NCAP_OFFLINE, leave these models out, or draw them at "
        'random: weights="random" in a ModelSpec for that model alone, in the run for all models'
    )


def test_with_a_network_what_is_published_is_not_missing(offline, monkeypatch):
    monkeypatch.delenv("NCAP_OFFLINE")
    assert obtained("alexnet", "vgg16") == ["alexnet", "vgg16"]
    with pytest.raises(errors.WeightsError) as error:
        obtained("alexnet", "squeezenet")
    assert error.value.cause.startswith("the weights of 1 of 2 models are missing:\n  squeezenet: ")
    assert "NCAP_OFFLINE" not in error.value.remedy


def test_what_only_a_pattern_asked_for_is_left_out(offline):
    with pytest.warns(UserWarning, match="left out") as caught:
        assert obtained("tiny_plain", "vgg*", "squeeze*") == ["tiny_plain"]
    assert [str(warning.message) for warning in caught] == [
        "3 of the models that the patterns match are left out, because their weights are not on "
        "this machine: vgg16, vgg19, squeezenet. --list_models says what is"
    ]
    for models in (["vgg*"], ["tiny_plain", "vgg*", "vgg16"]):
        with pytest.raises(errors.WeightsError) as error:
            obtained(*models)
        assert "\n  vgg16: " in error.value.cause


def test_several_processes_leave_nobody_out(offline, monkeypatch):
    """One of them could find what the other lacks."""
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    with pytest.raises(errors.WeightsError) as error:
        obtained("tiny_plain", "squeeze*")
    assert error.value.cause.startswith("the weights of 1 of 2 models are missing:")


def test_a_warning_of_a_long_list_names_the_first():
    assert checks._some([f"m{i}" for i in range(40)]).endswith(", m39")
    assert checks._some([f"m{i}" for i in range(1500)]).endswith(", m39 and 1,460 more")


def test_a_recall_is_decided_where_it_can_be(monkeypatch):
    on_a_cluster = RankConfig(executor="ray", ray_address="auto")
    assert checks.recalled(RankConfig(), 40) == 12
    assert checks.recalled(on_a_cluster, 40) == 12
    assert checks.recalled(dataclasses.replace(on_a_cluster, recall=5), 40) == 5
    monkeypatch.setattr(distributed, "is_distributed", lambda: True)
    assert checks.recalled(RankConfig(), 40) == 0
    with pytest.raises(errors.ConfigError, match="recall=5 with several processes"):
        checks.recalled(RankConfig(recall=5), 40)
    assert checks.recalled(RankConfig(recall=5), 5) == 0  # there is nothing to decide


def test_random_weights_are_never_missing(offline):
    assert obtained("squeezenet", weights="random") == ["squeezenet"]


def test_a_folder_of_weights_that_does_not_exist_is_refused(offline, tmp_path):
    for options in ({}, {"weights": "random"}):
        with pytest.raises(errors.WeightsError) as error:
            obtained("tiny_plain", weights_dir=str(tmp_path / "none"), **options)
        assert error.value.cause == f"weights_dir={tmp_path / 'none'} is not a folder"


def test_machines_of_a_cluster_look_for_themselves(offline, monkeypatch):
    there = {"executor": "ray", "weights_dir": "/on/every/node"}
    assert obtained("squeezenet", ray_address="auto", **there) == ["squeezenet"]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert obtained("squeezenet", **there) == ["squeezenet"]
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(errors.WeightsError) as error:
        obtained("squeezenet", **there)
    assert error.value.cause == "weights_dir=/on/every/node is not a folder"


OPEN = MODELS["resnet50"]
CLOSED = dataclasses.replace(MODELS["vgg16"], name="closed", licence="cc-by-nc-4.0")
UNKNOWN = dataclasses.replace(MODELS["vgg19"], name="unknown", licence="")
COMMERCIAL = RankConfig(licence="commercial")


def test_models_that_may_not_be_used_commercially_are_left_out_and_named():
    found = registry.Found((OPEN, CLOSED, UNKNOWN), frozenset(["resnet50", "unknown"]))
    with pytest.warns(UserWarning, match="2 of 3 models are left out") as said:
        kept = checks.licensed(found, COMMERCIAL)
    assert kept == registry.Found((OPEN,), frozenset(["resnet50"]))
    text = str(said[0].message)
    assert "closed (cc-by-nc-4.0), unknown (no licence is stated)" in text
    assert "A licence that is unknown, or has terms of its own, counts as not commercial" in text


def test_a_licence_that_leaves_no_model_is_refused():
    with pytest.raises(errors.ModelError) as error:
        checks.licensed(registry.Found((CLOSED, UNKNOWN)), COMMERCIAL)
    assert error.value.cause.startswith("licence='commercial' leaves no model: closed (cc-by-nc")
    assert "licence='any'" in error.value.remedy
    known = dataclasses.replace(UNKNOWN, licence="MIT")
    assert checks.licensed(registry.Found((known,)), COMMERCIAL).specs == (known,)


@pytest.mark.parametrize(
    "config", [RankConfig(), RankConfig(licence="commercial", weights="random")]
)
def test_nothing_is_left_out_unless_it_is_asked_for_or_where_no_weights_are_used(config):
    found = registry.Found((OPEN, CLOSED, UNKNOWN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checks.licensed(found, config) is found


def test_a_model_that_is_drawn_at_random_needs_no_licence():
    drawn = dataclasses.replace(UNKNOWN, weights="random")
    own = ModelSpec("own", build=print, input_size=8)
    in_memory = dataclasses.replace(own, name="in_memory", build_pretrained=print)
    with pytest.warns(UserWarning, match="in_memory"):
        kept = checks.licensed(registry.Found((drawn, own, in_memory)), COMMERCIAL)
    assert kept.specs == (drawn, own)
