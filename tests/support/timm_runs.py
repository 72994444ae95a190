"""Short runs of timm's own small networks for tests, and what to compare of them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import ncap_jax as ncap
from ncap_jax.finetune import trajectory_files

# One with batch norm, one transformer, one ConvNeXt.
THREE = ("timm:test_resnet", "timm:test_vit", "timm:test_convnext")
CONFIG = ncap.RankConfig(
    epochs=2, input_size=32, weights="random", learning_rate=1e-3, trial_rates=(), halving_top=1
)
# Adam's first steps have the same size for the smallest gradient, of whatever sign rounding gives.
# Batch norm over few pixels and kinks multiply rounding hundredfold an epoch.
SGD = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.05, epochs=1)
FEW = ncap.DataConfig(max_train=64, max_validation=64)


def rank(folder: pathlib.Path | None, config: ncap.RankConfig = CONFIG) -> ncap.Ranking:
    """Rank the three on 64 digits."""
    return ncap.rank_models(
        list(THREE), "digits", config, folder, data_config=FEW, show_progress=False
    )


def numbers(ranking: ncap.Ranking) -> list[Any]:
    """All that a ranking holds but times."""
    rows = list(records(ranking).items())
    return rows + [(row.name, row.rank, row.status) for row in ranking.models]


def records(ranking: ncap.Ranking) -> dict[str, list[Any]]:
    """Model -> its epochs, without times."""
    return {
        t.model: [without_times(trajectory_files.to_json(record)) for record in t.records]
        for t in ranking.trajectories
    }


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of an epoch that are the same in each run."""
    return {key: value for key, value in record.items() if not key.endswith("seconds")}
