"""What a ranking says of the cost of using its models, and when that is measured."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from ncap_jax.measure import inference
from ncap_jax.run import admission, ahead, usage
from ncap_jax.run.job import Job
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import InferenceCost, InferenceSpeed, LeftOut, Trajectory
from tests.support.pool import make_pool
from tests.support.toy_runs import CONFIG, POOL, digits

SPECS = tuple(dataclasses.replace(spec, parameters=n) for spec, n in zip(POOL, (600, 5_000_000)))


@pytest.fixture
def latencies(monkeypatch):
    """Seconds by name, in place of a clock."""
    found = {"toy_1": 0.001, "toy_2": 0.0035}
    monkeypatch.setattr(
        inference, "speed", lambda spec, setting, batch: InferenceSpeed(batch, found[spec.name])
    )


def job(**changes):
    return Job(SPECS, digits(), dataclasses.replace(CONFIG, **changes))


def test_nothing_is_timed_unless_it_is_asked_for(latencies):
    told = []
    trained = [dataclasses.replace(t, model=s.name) for t, s in zip(make_pool(2), SPECS)]
    found = usage.costs(job(), trained, told.append)
    assert [cost.speeds for cost in found.values()] == [(), ()]
    assert [cost.parameters for cost in found.values()] == [600, 5_000_000]
    assert found["toy_1"].flops == inference.flops_per_image(
        SPECS[0], admission.setting(digits(), CONFIG)
    )
    assert told == []


def test_what_was_never_trained_is_not_counted():
    """Tracing a long list would outlast a short time budget, which left no time for these."""
    trained = dataclasses.replace(make_pool(1)[0], model="toy_1")
    stopped = Trajectory("toy_2", "linear", (), "stopped", "no time was left")
    found = usage.costs(job(), (trained, stopped))
    assert found["toy_1"].flops is not None
    assert found["toy_2"] == InferenceCost(5_000_000)


def test_models_are_timed_once_training_and_compiling_are_over(latencies, monkeypatch):
    """A model that was never trained is not; a thread that compiles is waited for."""
    trained = dataclasses.replace(make_pool(1)[0], model="toy_1")
    failed = Trajectory("toy_2", "linear", (), "failed", "broken")
    over, order = threading.Event(), []

    def compile_a_model():
        over.wait(10)
        order.append("compiled")

    thread = threading.Thread(target=compile_a_model, name=ahead.THREAD)
    thread.start()
    timed = inference.speed

    def speed(spec, setting, batch):
        order.append(spec.name)
        return timed(spec, setting, batch)

    monkeypatch.setattr(inference, "speed", speed)
    told = []
    threading.Timer(0.05, over.set).start()
    found = usage.costs(job(measure_inference=True), [trained, failed], told.append)
    assert order == ["compiled", "toy_1", "toy_1"]
    assert [speed.batch for speed in found["toy_1"].speeds] == [1, 64]
    assert found["toy_2"].speeds == ()
    assert told == ["Measuring how fast 1 model labels images."]


def test_a_ranking_says_what_each_model_costs_and_who_is_left_out():
    ranking = rank_trajectories(make_pool(2), "digits")
    costs = {row.name: InferenceCost(parameters=7) for row in ranking.models}
    left_out = (LeftOut("big", "too large"),)
    found = usage.with_costs(ranking, costs, left_out)
    assert [row.cost for row in found.models] == list(costs.values())
    assert found.left_out == left_out
    plain = dataclasses.replace(found, models=ranking.models, left_out=())
    assert plain == ranking
