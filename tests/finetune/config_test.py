"""A configuration that cannot work is refused by name before any work is done."""

from __future__ import annotations

import pytest

from ncap_jax import errors
from ncap_jax.finetune.config import check_config
from ncap_jax.types import RankConfig


def test_defaults_are_fine():
    check_config(RankConfig())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 2.5}, "epochs=2.5"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"num_probes": True}, "num_probes=True"),
        ({"measure_size": 0}, "measure_size=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"input_size": 0}, "input_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"head": "prob"}, "Did you mean probe"),
        ({"optimizer": "adamw"}, "Did you mean adam"),
        ({"dtype": "float16"}, "Did you mean .*float16"),
        ({"weights": "imagenet"}, "Known: pretrained, random"),
        ({"augment": "flips"}, "Known: off, recommended"),
        ({"probe_widths": (8, 8)}, "at least 3"),
        ({"head": "linear", "num_probes": 2}, "no probe"),
    ],
)
def test_refused(changes, match):
    with pytest.raises(errors.ConfigError, match=match):
        check_config(RankConfig(**changes))
