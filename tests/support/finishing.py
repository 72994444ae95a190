"""Rankings of toys that are finished: real training, in tenths of a second.

At this learning rate the first toy is best in its first epoch after the ranking, and the second in
one of its last.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import shutil
from typing import Any

import pytest

import ncap_jax as ncap
from ncap_jax.files import write_atomically
from ncap_jax.options import FinishConfig
from ncap_jax.report.ranking_files import ranking_to_json
from ncap_jax.run import finish_report
from ncap_jax.types import Dataset, Ranking
from ncap_jax.winner.model import Winner
from tests.support import toy_runs
from tests.support.small import small_digits

CONFIG = dataclasses.replace(
    toy_runs.CONFIG, epochs=2, head="linear", learning_rate=0.02, beta_eff="off", keep_states=3
)
FINISH = FinishConfig(max_epochs=4, patience=3, augment="off", schedule="constant")
NAMES = ("toy_1", "toy_3")  # in the order of the ranking
TIMES = re.compile(rb'"seconds": [-+.e\d]+|"created": "[^"]*"|Saved [^.]*\.')


@functools.cache
def data() -> Dataset:
    """The digits of all toys, of which some are the test part."""
    whole, test = toy_runs.digits(), small_digits(validation=110)
    assert test.validation_images is not None
    assert test.validation_labels is not None
    return dataclasses.replace(
        whole, test_images=test.validation_images[-40:], test_labels=test.validation_labels[-40:]
    )


def rank() -> Ranking:
    """Rank three toys; without a folder, because a report takes longer than they do."""
    return ncap.rank_models(toy_runs.POOL, data(), CONFIG, show_progress=False)


def in_folder(ranking: Ranking, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a ranking as one that was asked for, but for the reports."""
    shutil.copytree(ranking.source.folder, folder, ignore=shutil.ignore_patterns("finish"))
    write_atomically(folder / "ranking.json", ranking_to_json(ranking))
    return folder


def finish(ranking: Any, *, reports: bool = False, **changes: Any) -> Winner:
    """Finish a ranking of toys, or its folder; the reports take longer than all else."""
    again: dict[str, Any] = {}
    if not isinstance(ranking, Ranking):
        again = {"dataset": data(), "models": toy_runs.POOL}
    config = dataclasses.replace(FINISH, **changes)
    with pytest.MonkeyPatch.context() as patch:
        if not reports:
            patch.setattr(finish_report, "write", lambda *arguments: None)
        return ncap.finish(ranking, config=config, show_progress=False, **again)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """What a finish left, apart from times: the model, the trajectories, the names of the rest."""
    found = {}
    for path in (p for part in ("winner", "finish") for p in (folder / part).rglob("*")):
        name = path.relative_to(folder)
        # Orbax gives the files in a checkpoint random names.
        read = path.is_file() and name.parts[1] not in ("best", "checkpoints", "finish.json")
        text = TIMES.sub(b"", path.read_bytes()) if read else b""
        found["/".join(name.parts[:4])] = text
    return found
