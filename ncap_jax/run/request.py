"""What a run was asked for, and where it is found again."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ncap_jax.data.pairs import DataSource
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run.scratch import Scratch
from ncap_jax.types import ModelSpec

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Request:
    """What `ncap_jax.rank_models` was asked for; each option is of the right type and range.

    Attributes: see `ncap_jax.rank_models`.
    """

    models: Sequence[str | ModelSpec]
    dataset: DataSource
    config: RankConfig
    data_config: DataConfig
    output_dir: Path | None = None
    show_progress: bool = True
    tensorboard: Path | None = None


class Source(NamedTuple):
    """Where `ncap_jax.run.finishing` finds a run.

    Attributes:
        request: what was asked for.
        folder: that holds the states; None: none were kept.
        scratch: owner of the folder if it is a temporary one, which lives as long as this.
    """

    request: Request
    folder: pathlib.Path | None
    scratch: Scratch | None
