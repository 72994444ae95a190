"""What befalls one candidate stays with it: memory above all, which is given a second attempt.

All models here really train, or really fail to.
"""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax.finetune import loop
from ncap_jax.run import worker
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.types import ModelSpec
from tests.support.small import small_config
from tests.support.toy_runs import POOL, digits, exhausted, instead, rank


class NormFree(nnx.Module):
    """No batch norm: halves of a batch give the whole batch's update."""

    def __init__(self, *, rngs, dtype=None):
        self.conv = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)

    def features(self, x):
        return jnp.mean(nnx.gelu(self.conv(x)), axis=(1, 2))


class Broken(nnx.Module):
    """Builds, but cannot run."""

    def __init__(self, *, rngs, dtype=None):
        self.dense = nnx.Linear(3, 4, rngs=rngs)

    def features(self, x):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate")


class Exploding(nnx.Module):
    """Its features overflow as soon as its weight has moved."""

    def __init__(self, *, rngs, dtype=None):
        self.scale = nnx.Param(jnp.ones(()))

    def features(self, x):
        return jnp.mean(x, axis=(1, 2)) * jnp.exp((self.scale[...] - 1) * 1e12) * 1e30


def weightless(*, rngs, dtype=None):
    raise FileNotFoundError("there are no weights")


@pytest.mark.filterwarnings("ignore:.*no whole-network beta_eff")
def test_a_failing_model_does_not_cost_the_others_their_run(tmp_path):
    specs = [
        ModelSpec("memory", Broken, 8, 4),
        ModelSpec("exploding", Exploding, 8, 3),
        ModelSpec("weightless", weightless, 8, 4),
        ModelSpec("free", NormFree, 8, 8),
    ]
    config = small_config(epochs=1, head="linear", optimizer="sgd")
    ranking = ncap.rank_models(specs, digits(), config, tmp_path, show_progress=False)
    ends = {model.name: (model.status, model.rank) for model in ranking.models}
    assert ends == {
        "memory": ("out_of_memory", None),
        "exploding": ("diverged", None),
        "weightless": ("failed", None),
        "free": ("ok", 1),
    }
    messages = {model.name: model.message for model in ranking.models}
    assert "allocate. This was the second attempt: out of memory" in messages["memory"]
    assert messages["exploding"] == (
        "the loss is not finite after epoch 1; a smaller learning_rate may help"
    )
    assert messages["weightless"] == "FileNotFoundError: there are no weights"
    assert "NaN" not in (tmp_path / "ranking.json").read_text()


def losses(ranking):
    return {t.model: t.series("validation_loss").tolist() for t in ranking.trajectories}


def ledger_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.*no whole-network beta_eff")
def test_half_the_batch_gives_the_same_run_without_batch_norm(tmp_path, monkeypatch):
    config = small_config(epochs=2, head="linear", optimizer="sgd")
    spec = ModelSpec("free", NormFree, 8, 8)
    plain = ncap.rank_models([spec], digits(), config, show_progress=False)
    instead(monkeypatch, loop, "train_epoch", {2}, exhausted)  # that of epoch 1
    ranking = ncap.rank_models([spec], digits(), config, tmp_path, show_progress=False)
    row = ranking.models[0]
    assert row.status == "ok"
    assert row.rank == 1
    assert "out of memory with batches of 32: each batch is taken in two halves, " in row.message
    # The order of a float32 sum over 32 samples, grown over six steps of SGD.
    np.testing.assert_allclose(losses(ranking)["free"], losses(plain)["free"], rtol=1e-5)
    again, end = ledger_of(tmp_path)
    assert (again["status"], again["half_batch"]) == ("out_of_memory", True)
    assert (end["status"], end["message"]) == ("ok", again["message"])
    rows = json.loads((tmp_path / "ranking.json").read_text())["models"]
    assert again["message"] in rows[0]["message"]


def test_the_second_attempt_starts_afresh_and_survives_a_kill(tmp_path, monkeypatch):
    """Memory runs out in the second epoch; the run is killed in the second attempt's second."""
    plain = rank()
    with monkeypatch.context() as patch:
        instead(patch, loop, "train_epoch", {2}, exhausted)
        whole = rank(tmp_path / "whole")
    with monkeypatch.context() as patch:
        instead(patch, loop, "train_epoch", {2}, exhausted)
        instead(patch, ModelFiles, "append", {4}, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            rank(tmp_path / "cut")
    resumed = rank(tmp_path / "cut")
    assert losses(resumed) == losses(whole)
    messages = {row.name: row.message for row in resumed.models}
    assert messages == {row.name: row.message for row in whole.models}
    assert "two halves" in messages["toy_1"]
    assert "two halves" not in messages["toy_2"]
    assert losses(plain)["toy_2"] == losses(resumed)["toy_2"]
    assert losses(plain)["toy_1"] != losses(resumed)["toy_1"]  # batch norm saw halves


@pytest.mark.parametrize("error", [exhausted, MemoryError])
def test_a_second_lack_of_memory_is_the_end(tmp_path, monkeypatch, error):
    monkeypatch.setattr(worker.ahead, "threads", lambda: 0)  # one start for each attempt
    instead(monkeypatch, worker.training, "start", {1, 2}, error)
    ranking = rank(tmp_path)
    status = {row.name: (row.status, row.rank) for row in ranking.models}
    assert status == {"toy_1": ("out_of_memory", None), "toy_2": ("ok", 1)}
    assert "This was the second attempt: " in ranking.models[-1].message


def test_no_half_of_a_tiny_batch(monkeypatch):
    instead(monkeypatch, worker.training, "start", {1}, exhausted)
    config = small_config(epochs=1, batch_size=3)
    ranking = ncap.rank_models(POOL[:1], digits(), config, show_progress=False)
    assert ranking.models[0].status == "out_of_memory"
    assert "second attempt" not in ranking.models[0].message
    assert ranking.models[0].rank is None
