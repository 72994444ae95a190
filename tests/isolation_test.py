"""What befalls one candidate stays with it: memory above all, which is given a second attempt."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax as ncap
from ncap_jax import memory
from ncap_jax.finetune import loop
from ncap_jax.run_folder import RunFolder
from ncap_jax.types import ModelSpec
from tests.small import small_config, small_digits, small_spec

POOL = [small_spec("small_4", 4), small_spec("small_8", 8)]
CONFIG = small_config(epochs=3)


def exhausted():
    """As XLA says it."""
    return jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB."
    )


@pytest.fixture(scope="module")
def digits():
    return small_digits()


class NormFree(nnx.Module):
    """No batch norm: halves of a batch give the whole batch's update."""

    def __init__(self, *, rngs, dtype=None):
        self.conv = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)

    def features(self, x):
        return jnp.mean(nnx.gelu(self.conv(x)), axis=(1, 2))


def fail_calls(monkeypatch, calls, owner, name, error=exhausted):
    """Make the given calls (counted from 1) of a function raise instead."""
    original, count = getattr(owner, name), [0]

    def counted(*arguments, **options):
        count[0] += 1
        if count[0] in calls:
            raise error()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


def losses(ranking):
    return {t.model: t.series("validation_loss").tolist() for t in ranking.trajectories}


def ledger_of(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def test_half_the_batch_gives_the_same_run_without_batch_norm(digits, tmp_path, monkeypatch):
    config = small_config(epochs=2, head="linear", optimizer="sgd")
    spec = ModelSpec("free", NormFree, 8, 8)
    plain = ncap.rank_models([spec], digits, config, show_progress=False)
    fail_calls(monkeypatch, {1}, loop, "train_epoch")
    ranking = ncap.rank_models([spec], digits, config, tmp_path, show_progress=False)
    row = ranking.models[0]
    assert row.status == "ok"
    assert row.rank == 1
    assert "out of memory with batches of 32: taken in two halves" in row.message
    # The order of a float32 sum over 32 samples, grown over six steps of SGD.
    np.testing.assert_allclose(losses(ranking)["free"], losses(plain)["free"], rtol=1e-5)
    again, end = ledger_of(tmp_path)
    assert (again["status"], again["half_batch"]) == ("out_of_memory", True)
    assert (end["status"], end["message"]) == ("ok", again["message"])
    rows = json.loads((tmp_path / "ranking.json").read_text())["models"]
    assert again["message"] in rows[0]["message"]


def test_the_second_attempt_starts_afresh_and_survives_a_kill(digits, tmp_path, monkeypatch):
    """Memory runs out in the second epoch; the run is killed in the second attempt's second."""
    with monkeypatch.context() as patch:
        fail_calls(patch, {2}, loop, "train_epoch")
        whole = ncap.rank_models(POOL, digits, CONFIG, tmp_path / "whole", show_progress=False)
    with monkeypatch.context() as patch:
        fail_calls(patch, {2}, loop, "train_epoch")
        fail_calls(patch, {4}, RunFolder, "append", KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            ncap.rank_models(POOL, digits, CONFIG, tmp_path / "cut", show_progress=False)
    resumed = ncap.rank_models(POOL, digits, CONFIG, tmp_path / "cut", show_progress=False)
    assert losses(resumed) == losses(whole)
    messages = {row.name: row.message for row in resumed.models}
    assert messages == {row.name: row.message for row in whole.models}
    assert "two halves" in messages["small_4"]
    assert "two halves" not in messages["small_8"]
    plain = ncap.rank_models(POOL, digits, CONFIG, show_progress=False)
    assert losses(plain)["small_8"] == losses(resumed)["small_8"]
    assert losses(plain)["small_4"] != losses(resumed)["small_4"]  # batch norm saw halves


@pytest.mark.parametrize("error", [exhausted, MemoryError])
def test_a_second_lack_of_memory_is_the_end(digits, tmp_path, monkeypatch, error):
    fail_calls(monkeypatch, {1, 2}, loop, "prepare", error)
    ranking = ncap.rank_models(POOL, digits, CONFIG, tmp_path, show_progress=False)
    status = {row.name: (row.status, row.rank) for row in ranking.models}
    assert status == {"small_4": ("out_of_memory", None), "small_8": ("ok", 1)}
    assert "second attempt" in ranking.models[-1].message


def test_no_half_of_a_tiny_batch(digits, monkeypatch):
    fail_calls(monkeypatch, {1}, loop, "prepare")
    config = small_config(epochs=1, batch_size=3)
    ranking = ncap.rank_models(POOL[:1], digits, config, show_progress=False)
    assert ranking.models[0].status == "out_of_memory"
    assert "second attempt" not in ranking.models[0].message


def test_what_counts_as_lack_of_memory():
    assert memory.exhausted(exhausted())
    assert memory.exhausted(MemoryError())
    assert not memory.exhausted(RuntimeError("shapes differ"))
    assert not memory.exhausted(ncap.errors.WeightsError("out of memory.pth is damaged"))


@pytest.mark.parametrize(("models", "code"), [("tiny_depthwise,alexnet", 0), ("alexnet", 3)])
def test_exit_codes_of_models_that_cannot_be_loaded(tmp_path, models, code):
    flags = {
        "models": models,
        "epochs": 1,
        "max_train": 60,
        "probe_widths": "8,8,8",
        "weights_dir": tmp_path,
        "output_dir": tmp_path / "run",
    }
    result = subprocess.run(
        [sys.executable, "-m", "ncap_jax", *(f"--{key}={flags[key]}" for key in flags)],
        env={**os.environ, "NCAP_OFFLINE": "1", "NCAP_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == code, result.stderr
    warning = result.stderr.strip().splitlines()[-1]
    assert warning.startswith(f"warning: 1 of {len(models.split(','))} models could not be ranked")
    assert "alexnet (failed)" in warning
