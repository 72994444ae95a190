"""What a run and its workers tell one another: sent to processes, so it must survive the way."""

from __future__ import annotations

import pickle

from ncap_jax.run.job import EpochDone, Job, Task
from ncap_jax.selection.budget import TimeShare
from ncap_jax.types import EpochRecord
from tests.support import toy_runs


def test_names_are_in_the_order_of_the_models():
    models = tuple(reversed(toy_runs.POOL))
    assert Job(models, toy_runs.digits(), toy_runs.CONFIG).names == ("toy_3", "toy_2", "toy_1")


def test_a_task_is_unbounded_unless_it_says_otherwise():
    task = Task("a", 3)
    assert task.share == TimeShare()
    assert task.share.deadline() is None
    assert task.alive == frozenset()


def test_all_survive_the_way_to_another_process():
    task = Task("a", 3, TimeShare(even=2.5, rest=9.0), frozenset({"a", "b"}))
    done = EpochDone(EpochRecord(1, 0.5, 0.5, 0.5, 0.5, 0.7, {"signed": (1.0,)}), written=False)
    for message in (task, done):
        assert pickle.loads(pickle.dumps(message)) == message
    job = Job(tuple(toy_runs.POOL), toy_runs.digits(), toy_runs.CONFIG)
    again = pickle.loads(pickle.dumps(job))
    assert (again.names, again.config) == (job.names, job.config)
    assert [spec.build.args for spec in again.specs] == [(1,), (2,), (3,)]
