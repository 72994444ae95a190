"""How a winner is described; its figures are tested in finishing_test, on one that was trained."""

from __future__ import annotations

from ncap_jax.options import FinishConfig, RankConfig
from ncap_jax.run import judging
from ncap_jax.types import EpochRecord, RankedModel, Ranking
from ncap_jax.winner.training import Converged, Weights

NAN = float("nan")


def test_how_a_winner_was_chosen():
    rows = tuple(
        RankedModel(name, "ok", rank, *(0.5, 0.1, 0.5, 0.5, 2, (), (), 1.0))
        for rank, name in enumerate("abc", start=1)
    )
    ranking = Ranking("data", RankConfig(epochs=2, seed=7), rows, predictor="last_seen")
    records = tuple(EpochRecord(n, NAN, NAN, 1.0, right) for n, right in enumerate((0.1, 0.7, 0.6)))
    ended = Converged(records, 1, Weights({}, {}))
    said = judging.how_chosen(ranking, FinishConfig(top=1), {"b": ended})
    assert said["candidates"] == ["a", "b", "c"]
    assert said["ranked by"] == "last_seen after 2 epochs"
    assert said["finished"] == {
        "b": {"rank": 2, "epochs": 2, "best epoch": 1, "validation accuracy": 0.7}
    }
    assert said["options"]["top"] == 1
    assert said["seed"] == 7
