"""A batch divided over the devices of a mesh gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.finetune import parallel
from tests.small import small_config

SCRIPT = """
import dataclasses, json, sys
import jax, numpy as np
import jax.numpy as jnp
import ncap_jax as ncap
from ncap_jax.data.feed import make_feed
from ncap_jax.finetune import loop, parallel, steps
from ncap_jax.finetune.config import make_optimizer
from tests.small import small_config, small_digits, small_spec

assert jax.device_count() == 8
digits = small_digits(train=100)
found = {}
for mesh in (None, "data:8"):
    config = small_config(mesh=mesh, epochs=3, head="trainable_probe", optimizer="sgd",
                          learning_rate=0.05)
    feed = parallel.on_mesh(make_feed(digits), config)
    candidate = loop.prepare(small_spec(), feed, config)
    records = list(loop.run(candidate, feed, config))
    chunk = next(feed.train(0, 1, 32))
    candidate = loop.prepare(small_spec(), feed, config)
    text = ""
    if mesh:
        batch = parallel.divider(candidate.mesh)
        divided = jax.jit(lambda x: batch(x))(jnp.take(chunk.images, chunk.indices[0], axis=0))
        assert {s.data.shape[0] for s in divided.addressable_shards} == {4}
        step = steps.make_train_step(candidate.network, make_optimizer(config), divide=batch)
        key = jax.random.key(0)
        text = jax.jit(step).lower(
            candidate.train_state, chunk.images, chunk.labels, chunk.indices[0], key
        ).compile().as_text()
    state, _ = candidate.epoch(candidate.train_state, chunk.images, chunk.labels,
                               chunk.indices[:1], jax.random.split(jax.random.key(0), 1))
    statistics = [np.asarray(x).tolist() for x in jax.tree.leaves(state.state["backbone"])]
    whole = all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    found[str(mesh)] = {
        "curve": [[r.train_loss, r.validation_loss, r.running_loss or 0.0] for r in records],
        "beta_eff": [r.beta_eff["absolute"][0] for r in records],
        "accuracy": [r.validation_accuracy for r in records],
        "statistics": statistics,
        "whole": whole,
        "all_reduce": "all-reduce" in text,
    }
    print(mesh, found[str(mesh)]["curve"], file=sys.stderr)
ranking = ncap.rank_models([small_spec()], digits, small_config(mesh="data:8", epochs=1),
                           sys.argv[1], show_progress=False)
found["rank"] = ranking.models[0].rank
found["status"] = ranking.models[0].message
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """One device and eight in a process that has eight."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("mesh") / "run")],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_loss_curve_is_that_of_one_device(found):
    one, eight = found["None"], found["data:8"]
    np.testing.assert_allclose(eight["curve"], one["curve"], rtol=1e-4)
    np.testing.assert_allclose(eight["beta_eff"], one["beta_eff"], rtol=1e-3)
    # A sample on the boundary may fall either way: one of seventy.
    np.testing.assert_allclose(eight["accuracy"], one["accuracy"], atol=1.01 / 70)


def test_batch_statistics_are_those_of_the_whole_batch(found):
    """After one step: of 32 samples, not of one device's four."""
    for one, eight in zip(found["None"]["statistics"], found["data:8"]["statistics"], strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)


def test_devices_exchange_sums_and_hold_the_whole_state(found):
    assert found["data:8"]["all_reduce"]
    assert found["data:8"]["whole"]
    assert found["rank"] == 1, found["status"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mesh": "8"}, "Write the number of devices like data:8"),
        ({"mesh": "data:0"}, "data:0"),
        ({"mesh": "model:2"}, "model:2"),
        ({"mesh": "data:4096"}, "but there are"),
        ({"mesh": "data:1", "executor": "processes"}, "Use executor='local'"),
    ],
)
def test_meshes_that_cannot_be_are_refused(changes, match):
    with pytest.raises(errors.ConfigError, match=match):
        parallel.check(small_config(**changes))


def test_a_batch_must_divide(monkeypatch):
    monkeypatch.setattr(parallel.jax, "devices", lambda: [None] * 8)
    parallel.check(small_config(mesh="data:8"), samples=100)
    with pytest.raises(errors.ConfigError, match="batch of 32 cannot be divided over 5 devices"):
        parallel.check(small_config(mesh="data:5"))
    with pytest.raises(errors.ConfigError, match="batch of 20 cannot"):
        parallel.check(small_config(mesh="data:8"), samples=20)
