"""The command that finishes a ranking, where there is something to finish."""

from __future__ import annotations

import dataclasses

import pytest

from ncap_jax.options import RankConfig
from ncap_jax.report.next_step import how_to_finish
from ncap_jax.selection.ranking import rank_trajectories
from tests.support.pool import make_pool


@pytest.mark.parametrize(
    ("config", "command", "words"),
    [
        ({"head": "linear"}, "python ...", "python -m ncap_jax finish 'my runs'"),
        ({"head": "probe"}, "python ...", "python -m ncap_jax finish 'my runs'"),
        ({"head": "linear"}, None, "ncap.finish(ranking)"),
        ({"head": "linear", "keep_states": 0}, "python ...", ""),
    ],
)
def test_the_command(config, command, words):
    """By a command, in Python what only Python holds, and not without the models' states."""
    info = {"command": command}
    ranking = rank_trajectories(make_pool(2), "digits", RankConfig(**config), info=info)
    assert how_to_finish(ranking, "my runs") == words


def test_nothing_is_finished_where_nothing_is_ranked():
    pool = [dataclasses.replace(t, status="failed", message="broken") for t in make_pool(2)]
    assert how_to_finish(rank_trajectories(pool, "digits"), "runs") == ""
