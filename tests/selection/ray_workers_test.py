"""Ray itself, on this machine: streaming, death, refusal; then models on two workers.

One cluster serves the whole module; a worker is really killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import threading

import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.selection import executors, ray_workers
from ncap_jax.selection.executors import Lost
from tests.course_test import (
    CONFIG,
    HALVING,
    POOL,
    kill_a_worker,
    rows,
    the_worst_has_no_chance,
)
from tests.selection import toy_work
from tests.selection.executors_test import run
from tests.small import small_digits


def test_resources_are_equal_shares():
    assert ray_workers.resources(2, 16.0, 2.0) == (8.0, 1.0)
    assert ray_workers.resources(3, 16.0, 0.0) == (5.0, 0.0)
    assert ray_workers.resources(4, 2.0, 1.0) == (0.5, 0.25)
    assert ray_workers.resources(1, 16.0, 8.0) == (16.0, 1.0)


def test_memory_is_divided_only_where_a_gpu_is_shared():
    assert ray_workers.environment(ray_workers.Resources(1.0, 1.0)) == {}
    assert ray_workers.environment(ray_workers.Resources(1.0, 0.0)) == {}
    assert ray_workers.environment(ray_workers.Resources(1.0, 0.5)) == {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"
    }


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'ncap_jax\[ray\]'"):
        ray_workers.import_ray()


__all__ = ["the_worst_has_no_chance"]  # a fixture of this module too


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        # By default they give way to everything else on the machine, such as other tests.
        _system_config={"worker_niceness": 0},
        log_to_driver=False,
        configure_logging=False,
    )
    yield context
    ray.shutdown()


def pool(make=toy_work.make, workers=2):
    return ray_workers.RayWorkers(make, workers, None)


@pytest.mark.slow
def test_tasks_on_ray(cluster, tmp_path):
    orders = {"a": ("die once", tmp_path / "a"), "b": ("sleep", 0.2), "c": ("x", None)}
    with pool() as executor:
        items, ends = run(executor, orders)
        assert set(ends) == set(orders)
        assert not any(isinstance(end, Lost) for end in ends.values())
        assert (tmp_path / "a").exists()  # it did die
        assert os.getpid() not in {pid for found in items.values() for pid in found}
        _, ends = run(executor, {"d": ("die", tmp_path / "d")})
        assert f"its worker ended {executors.ATTEMPTS} times" in ends["d"].reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "kind", "error", "match"),
    [
        (toy_work.make, "refuse", errors.OutputError, "disk full"),
        (toy_work.make, "raise", errors.NcapError, "ValueError: not an error of ours"),
        (toy_work.broken, "x", errors.DataError, "no data"),
    ],
)
def test_errors_of_ray_workers_are_raised_here(cluster, make, kind, error, match):
    with pool(make, workers=1) as executor, pytest.raises(error, match=match):
        run(executor, {"a": (kind, None)})


def actors():
    """Process ids of the workers: Ray names them in their command lines."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::_Server"):
                found.append(int(folder.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["full", "halving"])
def test_two_ray_workers_of_which_one_is_killed_give_what_one_process_gives(
    cluster, tmp_path, strategy
):
    digits = small_digits()
    config = HALVING if strategy == "halving" else CONFIG
    expected = rows(ncap.rank_models(POOL, digits, config, show_progress=False))
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, "small_4", 2, killed, actors))
    killer.start()
    config = dataclasses.replace(config, executor="ray", workers=2)
    ranking = ncap.rank_models(POOL, digits, config, tmp_path, show_progress=False)
    killer.join()
    assert killed == [2]
    assert rows(ranking) == expected


@pytest.mark.slow
def test_no_cluster_at_the_address(cluster, tmp_path):
    import ray

    ray.shutdown()
    config = dataclasses.replace(CONFIG, executor="ray", ray_address="127.0.0.1:1")
    with pytest.raises(errors.ConfigError, match="no Ray cluster answers"):
        ncap.rank_models(POOL, small_digits(), config, tmp_path, show_progress=False)
