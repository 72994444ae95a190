"""Candidates that pause, and runs that are stopped between two steps."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import loop, steps
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.finetune.config import make_optimizer
from tests.small import small_config, small_digits, small_spec

CONFIG = small_config(epochs=3)


@pytest.fixture(scope="module")
def digits():
    return make_feed(small_digits())


def timeless(records):
    return [dataclasses.replace(r, seconds=0.0, measure_seconds=0.0) for r in records]


class Stop(Exception):
    pass


@pytest.mark.parametrize("keep", [True, False])
def test_a_pause_changes_nothing(digits, tmp_path, keep):
    whole = loop.finetune(small_spec(), digits, CONFIG)
    store, kept, seen = Checkpoints(tmp_path / "c"), {}, ()
    for until, status in ((1, "stopped"), (2, "stopped"), (3, "ok")):
        part = loop.finetune(
            small_spec(),
            digits,
            CONFIG,
            checkpoints=store,
            seen=seen,
            until=until,
            kept=kept if keep else None,
        )
        assert (part.status, part.epochs) == (status, until)
        assert bool(kept) == (keep and until < 3)
        seen = part.records
    assert timeless(seen) == timeless(whole.records)


def test_a_waiting_candidate_holds_no_memory_of_the_device(digits, tmp_path):
    kept = {}
    loop.finetune(
        small_spec(), digits, CONFIG, checkpoints=Checkpoints(tmp_path), until=1, kept=kept
    )
    leaves = jax.tree.leaves(kept["small"].train_state)
    assert leaves
    assert not any(isinstance(leaf, jax.Array) for leaf in leaves)


def test_a_check_is_asked_before_every_step_and_may_stop_the_run(digits):
    """96 samples in batches of 32: three steps an epoch; 70 to validate on: one batch."""
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 6:
            raise Stop

    records = []
    with pytest.raises(Stop):
        loop.finetune(small_spec(), digits, CONFIG, check=check, on_record=records.append)
    # Epoch 0: one batch measured; epoch 1: three steps, one batch; stopped in epoch 2.
    assert [record.epoch for record in records] == [0, 1]
    whole = loop.finetune(small_spec(), digits, CONFIG, check=lambda: None)
    assert timeless(records) == timeless(whole.records[:2])


def test_a_scanned_epoch_is_checked_between_pieces(digits, monkeypatch):
    monkeypatch.setattr(steps, "CHECKED_STEPS", 2)
    chunk = next(iter(digits.train(0, 1, 32)))
    keys = jax.random.split(jax.random.key(0), len(chunk.indices))
    losses, asked = [], []
    for check in (None, lambda: asked.append(1)):
        candidate = loop.prepare(small_spec(), digits, CONFIG)
        step = steps.make_train_step(candidate.network, make_optimizer(CONFIG))
        epoch = steps.make_epoch(step, scan=True)
        _, found = epoch(
            candidate.train_state, chunk.images, chunk.labels, chunk.indices, keys, check
        )
        losses.append(np.asarray(found))
    assert len(asked) == 2
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, atol=1e-5)
