"""Ray itself, on this machine: streaming, death, refusal; then models on two workers.

One cluster serves the whole module; a worker is really killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import socket
import sys
import threading

import pytest

from ncap_jax import errors
from ncap_jax.run import executors, ray_workers
from ncap_jax.run.executors import Lost
from ncap_jax.selection import race
from tests.support import killing, toy_runs, toy_work
from tests.support.toy_work import run


def test_resources_are_equal_shares():
    assert ray_workers.resources(2, 16.0, 2.0) == (8.0, 1.0)
    assert ray_workers.resources(3, 16.0, 0.0) == (5.0, 0.0)
    assert ray_workers.resources(4, 2.0, 1.0) == (0.5, 0.25)
    assert ray_workers.resources(1, 16.0, 8.0) == (16.0, 1.0)


def test_workers_have_this_machines_threads_and_their_share_of_a_gpus_memory(monkeypatch):
    """The nodes may have more cores, and would round differently."""
    monkeypatch.setattr(ray_workers, "thread_count", lambda: 6)
    assert ray_workers.environment(ray_workers.Resources(1.0, 1.0)) == {"NPROC": "6"}
    assert ray_workers.environment(ray_workers.Resources(1.0, 0.0)) == {"NPROC": "6"}
    assert ray_workers.environment(ray_workers.Resources(1.0, 0.5)) == {
        "NPROC": "6",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450",
    }


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.ConfigError) as error:
        ray_workers.import_ray()
    assert error.value.cause == "executor='ray' needs Ray, which is not installed"
    assert error.value.remedy == "Run: pip install 'ncap_jax[ray]'"


def served(make, *tasks):
    """What a worker streams for each task."""
    server = ray_workers._Server(make)
    return [list(server.serve(task)) for task in tasks]


def test_a_worker_streams_items_and_the_end_of_each_task():
    pid = ("item", ("pid", os.getpid()))
    first, second = served(toy_work.make, ("x", None), ("x", None))
    assert first == [pid, ("result", 1)]
    assert second == [pid, ("result", 2)]  # it keeps what it has made
    ((_, (kind, error)),) = served(toy_work.make, ("raise", None))
    assert (kind, str(error)) == ("error", "a worker failed: ValueError: not an error of ours.")
    ((kind, error),) = served(toy_work.broken, ("x", None))[0]
    assert (kind, type(error), str(error)) == ("error", errors.DataError, "no data. Give some.")


class FakeRay:
    """As much of Ray as a pool of workers uses; actors answer at once, or are dead."""

    class exceptions:
        class RayActorError(Exception): ...

        class WorkerCrashedError(Exception): ...

        class NodeDiedError(Exception): ...

        class OutOfMemoryError(Exception): ...

        class ObjectLostError(Exception): ...

    def __init__(self):
        self.asked: list[dict] = []
        self.connected = False

    def is_initialized(self):
        return self.connected

    def init(self, **options):
        self.connected = True

    def shutdown(self):
        self.connected = False

    def cluster_resources(self):
        return {"CPU": 4.0}

    def put(self, value):
        return value

    def remote(self, kind):
        ray = self

        class Actor:
            def options(self, **options):
                ray.asked.append(options)
                return self

            def remote(self, make):
                server = kind(make)

                class Serve:
                    def options(self, **options):
                        return self

                    def remote(self, task):
                        if task[0] == "die":
                            return iter([ray.exceptions.RayActorError("the actor\ndied")])
                        return server.serve(task)

                return type("Handle", (), {"serve": Serve()})()

        return Actor()

    def wait(self, streams, num_returns):
        return streams[:1], streams[1:]

    def get(self, value):
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, actor): ...


def test_a_pool_asks_for_shares_streams_and_gives_up(monkeypatch):
    """What the tests on Ray itself (slow) show of one pool, on a stand-in of Ray."""
    ray = FakeRay()
    monkeypatch.setattr(ray_workers, "import_ray", lambda: ray)
    with ray_workers.RayWorkers(toy_work.make, None, None) as executor:
        pids, ends = run(executor, {"a": ("x", None), "b": ("die", None)})
        assert ray.connected
    assert not ray.connected  # it was this pool that connected
    assert executor.workers == 2  # of four CPUs
    assert pids == {"a": [os.getpid()]}
    assert ends == {
        "a": 1,
        "b": Lost("its worker ended 3 times, last: RayActorError: the actor"),
    }
    assert [(o["num_cpus"], o["num_gpus"], o["max_restarts"]) for o in ray.asked] == [
        (2.0, 0.0, 0)
    ] * len(ray.asked)


def test_no_cluster_at_the_address(monkeypatch):
    """Found out by a connection, before Ray, which would wait for minutes."""
    monkeypatch.setattr(ray_workers, "import_ray", FakeRay)
    with pytest.raises(errors.ConfigError) as error:
        ray_workers.RayWorkers(toy_work.make, 1, "127.0.0.1:1")
    assert error.value.cause.startswith("no Ray cluster answers at ray_address='127.0.0.1:1': ")
    assert error.value.remedy == "Start one with: ray start --head, or leave ray_address out"


@contextlib.contextmanager
def listener(answer=None):
    """Address of a server that accepts, and says this or nothing for as long as it lives."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError), server.accept()[0] as client:
                client.sendall(answer)
                client.recv(1 << 16)

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("named_by", ["option", "environment"])
@pytest.mark.timeout(60)
def test_an_address_where_somebody_listens_and_says_nothing(monkeypatch, named_by):
    monkeypatch.setattr(ray_workers, "import_ray", FakeRay)
    monkeypatch.setattr(ray_workers, "ANSWER_SECONDS", 0.25)
    with listener() as address:
        option = address if named_by == "option" else None
        if option is None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(errors.ConfigError) as error:
            ray_workers.RayWorkers(toy_work.make, 1, option)
    assert error.value.cause == (
        f"no Ray cluster answers at ray_address={address!r}: somebody listens there, but has said "
        "nothing for 0.25 seconds"
    )
    assert error.value.remedy == "Start one with: ray start --head, or leave ray_address out"


def test_an_address_of_another_service(monkeypatch):
    monkeypatch.setattr(ray_workers, "import_ray", FakeRay)
    greeting = listener(b"SSH-2.0-OpenSSH_9.6\r\n")
    with greeting as address, pytest.raises(errors.ConfigError) as error:
        ray_workers.RayWorkers(toy_work.make, 1, address)
    assert error.value.cause == (
        f"no Ray cluster answers at ray_address={address!r}: what listens there is not Ray"
    )


def test_a_ray_that_cannot_start(monkeypatch):
    class NoRoom(FakeRay):
        def init(self, **options):
            raise ValueError("not enough memory")

    monkeypatch.setattr(ray_workers, "import_ray", NoRoom)
    with pytest.raises(errors.ConfigError) as error:
        ray_workers.RayWorkers(toy_work.make, 1, None)
    assert error.value.cause == "Ray cannot start on this machine: not enough memory"
    assert error.value.remedy == "Use executor='processes'"


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


def test_a_cluster_is_known_by_its_answer(cluster):
    ray_workers._knock(cluster.address_info["gcs_address"])


def test_tasks_on_ray(cluster, tmp_path):
    tasks = {"a": ("die once", tmp_path / "a"), "b": ("sleep", 0.2), "c": ("x", None)}
    with pool() as executor:
        pids, ends = run(executor, tasks)
        assert set(ends) == set(tasks)
        assert not any(isinstance(end, Lost) for end in ends.values())
        assert (tmp_path / "a").exists()  # it did die
        assert os.getpid() not in {pid for found in pids.values() for pid in found}
        _, ends = run(executor, {"d": ("die", tmp_path / "d")})
        assert ends["d"].reason.startswith(f"its worker ended {executors.ATTEMPTS} times, last: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "kind", "error", "said"),
    [
        (toy_work.make, "refuse", errors.OutputError, "disk full. Free space."),
        (
            toy_work.make,
            "raise",
            errors.NcapError,
            "a worker failed: ValueError: not an error of ours.",
        ),
        (toy_work.broken, "x", errors.DataError, "no data. Give some."),
    ],
)
def test_errors_of_ray_workers_are_raised_here(cluster, make, kind, error, said):
    with pool(make, workers=1) as executor, pytest.raises(error) as caught:
        run(executor, {"a": (kind, None)})
    assert str(caught.value) == said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_recall_by_features_on_ray_is_that_of_one_process(cluster, tmp_path):
    config = dataclasses.replace(
        toy_runs.CONFIG, head="linear", recall=2, epochs=1, recall_parts=("features",)
    )
    expected = toy_runs.rank(None, config, models=3)
    config = dataclasses.replace(config, executor="ray", workers=2)
    ranking = toy_runs.rank(tmp_path, config, models=3)
    assert toy_runs.rows(ranking) == toy_runs.rows(expected)
    assert ranking.left_out == expected.left_out
    assert len(list((tmp_path / "recall").iterdir())) == 3


def actors():
    """Process ids of this cluster's workers: Ray names them in their command lines.

    Other tests may have a cluster of their own at the same time.
    """
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            named = (folder / "cmdline").read_bytes().startswith(b"ray::_Server")
            if named and descends_from(int(folder.name), os.getpid()):
                found.append(int(folder.name))
    return sorted(found)


def descends_from(process: int, ancestor: int) -> bool:
    """Whether a process was started by another, or by one of those that it started."""
    while process > 1 and process != ancestor:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        process = int(re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)[1])
    return process == ancestor


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["full", "race", "halving"])
def test_two_ray_workers_of_which_one_is_killed_give_what_one_process_gives(
    cluster, tmp_path, monkeypatch, strategy
):
    killing.the_worst_has_no_chance(monkeypatch)
    monkeypatch.setattr(race, "LEAST", 2)  # of three models the race stops one
    config = dataclasses.replace(toy_runs.CONFIG, strategy=strategy, halving_top=1)
    expected = toy_runs.rows(toy_runs.rank(None, config, models=3))
    killed: list[int] = []
    killer = threading.Thread(
        target=killing.kill_a_worker, args=(tmp_path, "toy_1", 2, killed, actors)
    )
    killer.start()
    config = dataclasses.replace(config, executor="ray", workers=2)
    ranking = toy_runs.rank(tmp_path, config, models=3)
    killer.join()
    assert killed == [2]
    assert toy_runs.rows(ranking) == expected
