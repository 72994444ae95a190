"""Options: declared once, refused by cause and remedy, and the same for flags and help."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from ncap_jax import errors, options
from ncap_jax.options import DataConfig, Execution, Limits, RankConfig, Recipe, Usage

RECORDS = (RankConfig, DataConfig)


@pytest.mark.parametrize("record", RECORDS)
def test_defaults_are_fine(record: type) -> None:
    options.check(record())


@pytest.mark.parametrize("record", RECORDS)
def test_every_option_has_a_text_that_people_can_read(record: type) -> None:
    for option in options.options_of(record):
        assert option.text.endswith("."), option.name
        assert option.text in (record.__doc__ or ""), option.name


def test_no_name_stands_for_two_options() -> None:
    names = [option.name for record in RECORDS for option in options.options_of(record)]
    assert len(names) == len(set(names))


def test_the_defaults_that_studies_chose() -> None:
    """Changing one of these changes what every user gets: see docs/results."""
    config = RankConfig()
    assert (config.epochs, config.head, config.batch_size) == (5, "linear", 32)
    assert (config.optimizer, config.learning_rate, config.trial_rates) == ("adam", 1e-3, None)
    assert (config.measure_size, config.probe_widths, config.num_probes) == (
        2048,
        (256, 128, 64),
        1,
    )
    assert (config.strategy, config.halving_top, config.halving_threshold) == ("auto", 3, 0.1)
    assert (config.predictor, config.dtype, config.augment) == ("default", "float32", "off")
    assert (config.weights, config.beta_eff) == ("pretrained", "auto")
    assert config.executor == "local"
    assert (config.recall, config.recall_family) == (None, 3)
    assert config.recall_parts == ("prior", "features", "diversity")
    assert DataConfig().validation_fraction == 0.2


def test_a_configuration_is_its_four_parts() -> None:
    """One flat constructor; the order of the fields is that of ranking.json."""
    four = (Recipe, Limits, Usage, Execution)
    parts = [field.name for part in four for field in dataclasses.fields(part)]
    assert [field.name for field in dataclasses.fields(RankConfig)] == parts
    config = RankConfig(epochs=7, strategy="halving", workers=2)
    assert isinstance(config, Recipe)
    assert isinstance(config, Limits)
    assert isinstance(config, Execution)


def test_what_a_run_resumes_with() -> None:
    assert {"strategy", "time_budget", "epochs_budget", "executor", "workers"} <= {
        *options.FREE_FIELDS
    }
    assert {"epochs", "seed", "learning_rate", "mesh"}.isdisjoint(options.FREE_FIELDS)
    assert set(options.GROWING_FIELDS) <= {field.name for field in dataclasses.fields(Recipe)}


def test_json_brings_a_configuration_back() -> None:
    import json

    config = RankConfig(
        probe_widths=(8, 9, 10), trial_rates=(1e-4,), recall_parts=("prior",), epochs=2
    )
    assert RankConfig.from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(TypeError, match="no_such_option"):
        RankConfig.from_json({"no_such_option": 1})


WHOLE = "Give a whole number of at least 1"
SHALLOW = (
    "with which the signed beta_eff is exactly 0: a probe of 2 hidden layers is too shallow, "
    "because the output gradients of softmax and cross-entropy sum to 0"
)
WIDTHS = "Give at least 3 positive widths, such as 256,128,64"


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        ({"epochs": 0}, "epochs=0", WHOLE),
        ({"epochs": 2.5}, "epochs=2.5 is not a whole number", "The default is 5"),
        ({"epochs": "5"}, "epochs='5' is not a whole number", "The default is 5"),
        ({"batch_size": -1}, "batch_size=-1", WHOLE),
        ({"num_probes": True}, "num_probes=True is not a whole number", "The default is 1"),
        (
            {"measure_size": 0},
            "measure_size=0",
            f"{WHOLE}. To measure no beta_eff, use beta_eff='off'",
        ),
        (
            {"beta_eff": "no"},
            "unknown beta_eff 'no'",
            "Known: auto, every_epoch, off",
        ),
        ({"beta_eff": False}, "beta_eff=False is not text", "The default is 'auto'"),
        ({"recall": -1}, "recall=-1", "Give a whole number of at least 0"),
        (
            {"recall_parts": ("prior", "luck")},
            "recall_parts=('prior', 'luck')",
            "Give some of prior, features, diversity",
        ),
        ({"recall_seconds": 0.0}, "recall_seconds=0.0", "Give a positive number of seconds"),
        ({"max_input_size": 0}, "max_input_size=0", "Give a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0", "Give a positive number, such as 1e-3"),
        (
            {"learning_rate": float("nan")},
            "learning_rate=nan",
            "Give a positive number, such as 1e-3",
        ),
        (
            {"learning_rate": float("inf")},
            "learning_rate=inf",
            "Give a positive number, such as 1e-3",
        ),
        (
            {"trial_rates": (1e-3, -1.0)},
            "trial_rates=(0.001, -1.0)",
            "Give positive numbers, such as 3e-4",
        ),
        (
            {"trial_rates": 1e-3},
            "trial_rates=0.001 is not a list of numbers or None",
            "The default is None",
        ),
        ({"input_size": 0}, "input_size=0", WHOLE),
        ({"seed": -1}, "seed=-1", "Give a whole number from 0 to 4294967295"),
        (
            {"probe_seed": 2**32},
            "probe_seed=4294967296",
            "Give a whole number from 0 to 4294967295",
        ),
        ({"head": "prob"}, "unknown head 'prob'", "Did you mean probe"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'", "Did you mean adam"),
        ({"dtype": "float16"}, "unknown dtype 'float16'", "Did you mean bfloat16 or float32"),
        ({"weights": "imagenet"}, "unknown weights 'imagenet'", "Known: pretrained, random"),
        ({"augment": "flips"}, "unknown augment 'flips'", "Known: off, recommended"),
        ({"strategy": "racing"}, "unknown strategy 'racing'", "Did you mean halving or race"),
        ({"executor": "threads"}, "unknown executor 'threads'", "Known: local, processes, ray"),
        ({"probe_widths": (8, 8)}, f"probe_widths=(8, 8), {SHALLOW}", WIDTHS),
        (
            {"probe_widths": (8, 0, 8)},
            "probe_widths=(8, 0, 8), not all of which are positive",
            WIDTHS,
        ),
        ({"halving_top": 0}, "halving_top=0", WHOLE),
        (
            {"halving_threshold": 1.0},
            "halving_threshold=1.0",
            "Give a number between 0 and 1, such as 0.1",
        ),
        ({"time_budget": 0}, "time_budget=0", "Give a positive number of seconds"),
        (
            {"model_time_budget": float("inf")},
            "model_time_budget=inf",
            "Give a positive number of seconds",
        ),
        ({"epochs_budget": 0}, "epochs_budget=0", WHOLE),
        ({"workers": 0}, "workers=0", WHOLE),
        ({"mesh": 8}, "mesh=8 is not text or None", "The default is None"),
    ],
)
def test_a_wrong_option_is_refused_by_cause_and_remedy(
    changes: dict[str, Any], cause: str, remedy: str
) -> None:
    with pytest.raises(errors.ConfigError) as error:
        options.check(RankConfig(**changes))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


@pytest.mark.parametrize(
    ("changes", "cause", "remedy"),
    [
        (
            {"validation_fraction": 1.0},
            "validation_fraction=1.0",
            "Give a number between 0 and 1, such as 0.2",
        ),
        ({"image_size": 3}, "image_size=3", "Give a side in pixels from 4 to 4096"),
        ({"image_size": 5000}, "image_size=5000", "Give a side in pixels from 4 to 4096"),
        ({"max_train": 0}, "max_train=0", WHOLE),
        ({"max_validation": 0}, "max_validation=0", WHOLE),
        ({"skip_broken": 1}, "skip_broken=1 is not True or False", "The default is False"),
        ({"stream": "yes"}, "stream='yes' is not True or False or None", "The default is None"),
        ({"data_dir": 3}, "data_dir=3 is not text or None", "The default is None"),
    ],
)
def test_a_wrong_data_option_is_refused_by_cause_and_remedy(
    changes: dict[str, Any], cause: str, remedy: str
) -> None:
    with pytest.raises(errors.ConfigError) as error:
        options.check(DataConfig(**changes))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_paths_may_be_given_as_such(tmp_path: pathlib.Path) -> None:
    options.check(RankConfig(weights_dir=tmp_path))  # type: ignore[arg-type]
    options.check(DataConfig(data_dir=tmp_path))  # type: ignore[arg-type]


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(errors.ConfigError) as error:
        options.check(RankConfig(predictor=["x" * 500]))  # type: ignore[arg-type]
    assert error.value.cause.endswith("… is not text")
    assert len(error.value.cause) < 90


def named(name: str) -> options.Option:
    return next(o for o in options.options_of(RankConfig) if o.name == name)


def test_lists_are_read_from_words() -> None:
    assert options.parse_list(named("probe_widths"), ["8", "9", "10"]) == (8, 9, 10)
    assert options.parse_list(named("trial_rates"), ["3e-4"]) == (3e-4,)
    assert options.parse_list(named("trial_rates"), []) == ()
    with pytest.raises(errors.ConfigError) as error:
        options.parse_list(named("probe_widths"), ["8", "wide"])
    assert error.value.cause == "probe_widths=8,wide is not a list of whole numbers"
    assert error.value.remedy == "Write it like 256,128,64"
    with pytest.raises(errors.ConfigError) as error:
        options.parse_list(named("trial_rates"), ["fast"])
    assert error.value.cause == "trial_rates=fast is not a list of numbers or None"
    assert error.value.remedy == "Write it like 0.0003,0.0001"
