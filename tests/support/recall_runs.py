"""A run with a recall that can be killed: `python -m tests.support.recall_runs FOLDER TOYS BROKEN`.

The candidates are embedded models, small networks with random weights, and models whose file is
torn. Three of few candidates are recalled, and twelve of many.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import ncap_jax as ncap
from ncap_jax.zoo import MODELS
from tests.support import toy_runs

SOUND = ("tiny_plain", "tiny_plain_wide", "tiny_plain_barely", "tiny_depthwise", "tiny_resnet")


def broken(count: int) -> list[str]:
    """Names of the models whose file is torn."""
    return [f"broken_{number}" for number in range(count)]


def main(folder: pathlib.Path, toys: int, torn_files: int) -> None:
    """Rank in `folder / "run"`."""
    torn = folder / "torn.safetensors"
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{torn")
    plain = MODELS["tiny_plain"]
    failing = [
        dataclasses.replace(plain, name=name, weights=str(torn), family="b")
        for name in broken(torn_files)
    ]
    small = [dataclasses.replace(toy_runs.toy(number), weights="random") for number in range(toys)]
    keep = 12 if toys else 3
    config = ncap.RankConfig(epochs=2, recall=keep, beta_eff="off", keep_states=0, trial_rates=())
    data = ncap.DataConfig(max_train=150, max_validation=150)
    candidates = [*SOUND, *failing, *small]
    ncap.rank_models(candidates, "digits", config, folder / "run", data_config=data)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
