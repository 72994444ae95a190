"""What the first of two processes finds in the folder, or fails at, both know.

The processes are threads here, which meet at a barrier where real ones would broadcast; that real
ones do is tested in tests/finetune/distributed_test.py.
"""

from __future__ import annotations

import errno
import inspect
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import candidate, parallel
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.run_folder import RunFolder
from ncap_jax.shared_folder import SharedFolder
from ncap_jax.types import EpochRecord, Trajectory
from tests.small import small_config, small_digits, small_spec

FACTS = {"config": {}, "models": {"a": {}, "b": {}}, "data": {}}
RECORDS = (
    EpochRecord(
        *(0, 1.0, 0.5, 1.25, 0.25),
        beta_eff={"absolute": (0.1, float("nan"))},
        beta_eff_status={"absolute": ("ok", "degenerate")},
    ),
    EpochRecord(1, 0.5, 0.75, 1.0, 0.5, running_loss=0.7, seconds=2.0),
)
STATE = {"w": jnp.arange(40.0), "half": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(3)}


@pytest.fixture
def both(monkeypatch):
    """A function that lets two processes do the same; gives what each returned or raised."""
    which, barrier = threading.local(), threading.Barrier(2, timeout=120)
    said = []

    def tell(value):
        if which.number == 0:
            said.append(value)
        barrier.wait()
        told = said[-1]
        barrier.wait()
        return told

    heard = [None, None]

    def hear_all(value):
        heard[which.number] = value
        barrier.wait()
        all_heard = list(heard)
        barrier.wait()
        return all_heard

    monkeypatch.setattr(parallel, "several", lambda: True)
    monkeypatch.setattr(parallel, "first", lambda: which.number == 0)
    monkeypatch.setattr(parallel, "agree", tell)
    monkeypatch.setattr(parallel, "broadcast", tell)
    monkeypatch.setattr(parallel, "gather", hear_all)

    def run(action):
        outcomes = [None, None]

        def process(number):
            which.number = number
            try:
                outcomes[number] = action()
            except Exception as error:
                outcomes[number] = error
                if isinstance(error, threading.BrokenBarrierError):
                    raise

        threads = [threading.Thread(target=process, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    return run


def with_state(folder):
    for epoch, record in enumerate(RECORDS):
        folder.append("a", record)
        folder.checkpoints("a").save(epoch, STATE)


def bits(tree):
    arrays = {**tree, "key": jax.random.key_data(tree["key"])}
    return {name: (leaf.dtype, np.asarray(leaf).tobytes()) for name, leaf in arrays.items()}


def test_no_method_is_left_to_one_process():
    public = {
        name
        for name, member in inspect.getmembers(RunFolder, inspect.isfunction)
        if not name.startswith("_")
    }
    assert public <= vars(SharedFolder).keys()


def test_records_and_state_are_everyones(both, tmp_path):
    def act():
        with SharedFolder(tmp_path, FACTS) as folder:
            with_state(folder)
            seen = folder.resume_point("a")
            store = folder.checkpoints("a")
            assert store.latest() == 1
            state = store.restore(1, candidate.blank(STATE))
            folder.halve("b", "halved")
            folder.finish(Trajectory("a", "probe", seen, seconds=3.0))
            return repr((seen, folder.halved("b"), folder.finished("probe"))), bits(state)

    outcomes = both(act)
    seen, finished = RECORDS, Trajectory("a", "probe", RECORDS, seconds=3.0)
    assert outcomes == [(repr((seen, "halved", {"a": finished})), bits(STATE))] * 2
    assert not (tmp_path / "checkpoints" / "a").exists()


def test_damage_is_everyones(both, tmp_path):
    def act():
        with SharedFolder(tmp_path, FACTS) as folder:
            with_state(folder)
            if parallel.first():
                for file in (tmp_path / "checkpoints" / "a").rglob("d/*"):
                    file.write_bytes(b"")
            try:
                folder.checkpoints("a").restore(1, STATE)
            except errors.CheckpointError as error:
                folder.start_again("a")
                return str(error), folder.resume_point("a")

    first, second = both(act)
    assert first == second
    assert "the checkpoint of epoch 1" in first[0]
    assert first[1] == ()


def test_another_run_is_refused_by_all(both, tmp_path):
    RunFolder(tmp_path, FACTS).__exit__(None, None, None)
    outcomes = both(lambda: SharedFolder(tmp_path, {**FACTS, "data": {"name": "other"}}))
    assert [type(error) for error in outcomes] == [errors.OutputError] * 2
    assert str(outcomes[0]) == str(outcomes[1])
    assert outcomes[1].remedy == outcomes[0].remedy != ""


def test_an_unforeseen_error_is_everyones_too(both):
    def fail():
        raise KeyError("x")

    outcomes = both(lambda: parallel.first_does(fail))
    assert [repr(error) for error in outcomes] == [repr(RuntimeError("KeyError: 'x'"))] * 2
    with pytest.raises(RuntimeError, match="KeyError") as caught:
        raise outcomes[0]
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_full_disk_stops_all_and_the_run_goes_on(both, tmp_path, monkeypatch):
    digits, config = small_digits(), small_config(mesh="data:1")
    save, asked = Checkpoints.save, []

    def full(self, epoch, tree):
        asked.append(epoch)
        if epoch == 1:
            raise errors.OutputError(f"[Errno {errno.ENOSPC}]", "Free space")
        save(self, epoch, tree)

    def rank():
        return ncap.rank_models([small_spec()], digits, config, tmp_path, show_progress=False)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        outcomes = both(rank)
    assert [type(error) for error in outcomes] == [errors.OutputError] * 2
    assert asked == [0, 1]  # by the first process alone
    outcomes = both(rank)
    assert [[r.epoch for r in ranking.trajectories[0].records] for ranking in outcomes] == [
        [0, 1, 2],
        [0, 1, 2],
    ]
    assert len((tmp_path / "trajectories" / "small.jsonl").read_text().splitlines()) == 3


def test_long_arrays_are_broadcast_in_pieces(monkeypatch):
    from jax.experimental import multihost_utils

    sent = []

    def broadcast(piece):
        sent.append(piece.size)
        return piece.astype(np.int32)  # as a sum over processes may come back

    monkeypatch.setattr(parallel, "several", lambda: True)
    monkeypatch.setattr(parallel, "PIECE", 16)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    data = np.arange(40, dtype=np.uint8)
    found = parallel.broadcast(data)
    assert (found.dtype, found.tolist(), sent) == (np.uint8, data.tolist(), [16, 16, 8])
    assert parallel.broadcast(data[:0]).size == 0


@pytest.mark.parametrize("failing", [0, 1])
def test_weights_that_one_process_lacks_fail_in_all(both, failing):
    """A process that went on would wait for the other in its first collective operation."""

    def read():
        if parallel.first() == (failing == 0):
            raise errors.WeightsError("there is no a.h5", "Put it there")
        return "weights"

    for outcome in both(lambda: parallel.all_do(read)):
        assert isinstance(outcome, errors.WeightsError)
        assert (outcome.cause, outcome.remedy) == ("there is no a.h5", "Put it there")
    assert both(lambda: parallel.all_do(lambda: "weights")) == ["weights", "weights"]


def test_one_process_alone_raises_its_own_error():
    def fail():
        raise KeyError("as it is")

    with pytest.raises(KeyError):
        parallel.all_do(fail)
    assert parallel.all_do(lambda: 3) == 3
    assert parallel.gather([1]) == [[1]]
