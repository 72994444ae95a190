"""A batch divided over the devices of a mesh gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ncap_jax
from ncap_jax import errors
from ncap_jax.finetune import loop, mesh, steps
from ncap_jax.measure import training
from tests.support.small import small_config, small_digits, small_feed, small_spec

# Adam's first steps have the same size for the smallest gradient, of whatever sign rounding gives.
CHANGES = {"epochs": 3, "optimizer": "sgd", "learning_rate": 0.05, "measure_size": 60}
EIGHT = {**CHANGES, "mesh": "data:8"}


def facts(config):
    """What one device or several make of a run, for JSON; the last state and its program."""
    feed = mesh.on_mesh(small_feed(), config.mesh)
    tuning, fresh = (training.start(small_spec(), feed, config) for _ in range(2))
    records = list(loop.run(tuning))
    chunk = next(feed.train(0, 1, 32))
    one = chunk._replace(indices=chunk.indices[:1])
    key = jax.random.key(0)
    program = fresh.candidate.program
    state, _ = steps.train_steps(program, fresh.candidate.train_state, one, key, scan=False)
    leaves = jax.tree.leaves(state)
    found = {
        "curve": [[r.train_loss, r.validation_loss, r.running_loss or 0.0] for r in records],
        "beta_eff": [r.beta_eff["absolute"][0] for r in records],
        "accuracy": [r.validation_accuracy for r in records],
        "counts": [
            [
                r.validation_counts.images,
                *r.validation_counts.correct,
                *r.validation_counts.predicted,
            ]
            for r in records
        ],
        "statistics": [np.asarray(x).tolist() for x in jax.tree.leaves(state.state["backbone"])],
        "devices": sorted({len(leaf.devices()) for leaf in leaves}),
        "whole": all(leaf.sharding.is_fully_replicated for leaf in leaves),
    }
    return found, state, program


def on_eight(folder):
    """In a process that has eight devices: `facts`, what they divide, and a ranking's losses."""
    config = small_config(**EIGHT)
    found, state, program = facts(config)
    batch = jax.jit(lambda x: mesh.divide(program.mesh, x))(jnp.zeros((32, 4)))
    found["parts"] = [list(shard.data.shape) for shard in batch.addressable_shards]
    images = jnp.zeros((32, 8, 8, 3), jnp.uint8)
    features = steps.features.at("full").lower(program.network, *state[:2], images, program.mesh)
    found["gathered"] = "all-gather" in features.compile().as_text()
    digits, spec = small_digits(), small_spec()
    ranking = ncap_jax.rank_models([spec], digits, config, folder, show_progress=False)
    found["losses"] = ranking.trajectories[0].series("validation_loss").tolist()
    return found


SCRIPT = """
import json, sys
import jax

jax.config.update("jax_disable_most_optimizations", True)

from tests.finetune import mesh_test

print(json.dumps(mesh_test.on_eight(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def one():
    return facts(small_config(**CHANGES))[0]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("mesh") / "run")],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_loss_curve_is_that_of_one_device(one, eight):
    np.testing.assert_allclose(eight["curve"], one["curve"], rtol=1e-4)
    np.testing.assert_allclose(eight["beta_eff"], one["beta_eff"], rtol=1e-3)
    # A sample on the boundary may fall either way: one of seventy.
    np.testing.assert_allclose(eight["accuracy"], one["accuracy"], atol=1.01 / 70)
    counts, expected = np.array(eight["counts"]), np.array(one["counts"])
    np.testing.assert_array_equal(counts[:, 0], expected[:, 0])
    np.testing.assert_allclose(counts, expected, atol=1)
    np.testing.assert_allclose(counts[:, 1].sum(axis=1) / 70, eight["accuracy"], rtol=1e-6)


def test_batch_statistics_are_those_of_the_whole_batch(one, eight):
    """After one step: of 32 samples, not of one device's four."""
    for found, expected in zip(eight["statistics"], one["statistics"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_devices_divide_the_work_and_hold_the_whole_state(one, eight):
    assert eight["parts"] == [[4, 4]] * 8
    assert eight["gathered"]
    assert one["whole"]
    assert eight["whole"]
    assert (one["devices"], eight["devices"]) == ([1], [8])


def test_a_ranking_trains_on_the_mesh(eight):
    expected = [losses[1] for losses in eight["curve"]]
    np.testing.assert_allclose(eight["losses"], expected, rtol=1e-6)


@pytest.mark.parametrize("text", ["8", "data:0", "model:2", "data:8 "])
def test_a_mesh_is_written_like_the_example(text):
    with pytest.raises(errors.ConfigError) as error:
        mesh.num_devices(text)
    assert error.value.cause == f"mesh={text!r}"
    assert error.value.remedy == "Write the number of devices like data:8"


def test_one_device_needs_no_mesh():
    assert (mesh.num_devices(None), mesh.num_devices("data:12")) == (1, 12)
    assert mesh.make_mesh(None) is None
    tree = {"a": np.ones(3)}
    assert mesh.replicate(None, tree) is tree
    assert mesh.on_mesh(tree, None) is tree
    mesh.check_mesh(small_config())


@pytest.fixture
def devices(monkeypatch):
    """Eight devices, as far as a check can see."""
    monkeypatch.setattr(mesh.jax, "devices", lambda: [None] * 8)


@pytest.mark.parametrize(
    ("changes", "samples", "cause", "remedy"),
    [
        (
            {"mesh": "data:4096"},
            None,
            "mesh='data:4096', but there are 8 devices",
            "Use mesh='data:8'",
        ),
        (
            {"mesh": "data:1", "executor": "processes"},
            None,
            "mesh='data:1' with executor='processes': each worker has one device",
            "Use executor='local', which has all devices",
        ),
        (
            {"mesh": "data:5"},
            None,
            "a batch of 32 cannot be divided over 5 devices",
            "Use a batch_size that is a multiple of 5, such as 30",
        ),
        (
            {"mesh": "data:8"},
            20,
            "a batch of 20 cannot be divided over 8 devices",
            "Use a batch_size that is a multiple of 8, such as 16",
        ),
    ],
)
def test_meshes_that_cannot_work_are_refused(devices, changes, samples, cause, remedy):
    with pytest.raises(errors.ConfigError) as error:
        mesh.check_mesh(small_config(**changes), samples)
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_a_batch_that_divides_is_fine(devices):
    mesh.check_mesh(small_config(mesh="data:8"), samples=100)


def test_several_processes_take_all_devices(devices, monkeypatch):
    """A mesh of fewer would leave a process without one."""
    monkeypatch.setattr("ncap_jax.distributed.is_distributed", lambda: True)
    mesh.check_mesh(small_config(mesh="data:8"))
    with pytest.raises(errors.ConfigError) as error:
        mesh.check_mesh(small_config(mesh="data:4"))
    assert error.value.cause == "mesh='data:4', but there are 8 devices"
