"""A run with a recall that can be killed: `python -m tests.support.recall_runs FOLDER`.

Of embedded models three are recalled; the files of two more are torn.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import ncap_jax as ncap
from ncap_jax.zoo import MODELS

SOUND = ("tiny_plain", "tiny_plain_wide", "tiny_plain_barely", "tiny_depthwise", "tiny_resnet")
BROKEN = ("broken_0", "broken_1")


def main(folder: pathlib.Path) -> None:
    """Rank in `folder / "run"`."""
    torn = folder / "torn.safetensors"
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{torn")
    plain = MODELS["tiny_plain"]
    broken = [dataclasses.replace(plain, name=n, weights=str(torn), family="b") for n in BROKEN]
    config = ncap.RankConfig(epochs=1, recall=3, beta_eff="off", keep_states=0)
    data = ncap.DataConfig(max_train=150, max_validation=150)
    ncap.rank_models([*SOUND, *broken], "digits", config, folder / "run", data_config=data)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
