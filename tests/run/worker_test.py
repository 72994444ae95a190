"""One candidate in a worker: paused and resumed, its failures told, its programs freed."""

from __future__ import annotations

import dataclasses
import time

import pytest

from ncap_jax import distributed, errors
from ncap_jax.options import RankConfig
from ncap_jax.run import worker
from ncap_jax.run.executors import Work
from ncap_jax.run.job import EpochDone, Job, Task
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.selection.budget import TimeShare
from ncap_jax.types import EpochRecord
from tests.support import fake_training, toy_runs
from tests.support.small import deep_spec, small_config
from tests.support.timed_runs import Clock
from tests.support.toy_runs import CONFIG, POOL, digits, exhausted, records

PLAN = RankConfig(epochs=3, weights="random", trial_rates=())


@pytest.fixture
def fake(monkeypatch):
    fake_training.install(monkeypatch)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trajectories").mkdir()
    return ModelFiles(tmp_path)


def make(files, config=PLAN, specs=POOL) -> Work:
    return worker.make_work(Job(tuple(specs), digits(), config), files)


def do(work, task):
    """The trajectory, and what was told on the way."""
    told: list[EpochDone] = []
    return work(task, told.append), told


@pytest.mark.usefixtures("fake")
def test_a_model_pauses_and_resumes_where_it_was(files):
    whole, _ = do(make(None), Task("toy_1", 3))
    assert (whole.status, whole.epochs) == ("ok", 3)
    for until, epochs, status in ((1, [0, 1], "stopped"), (2, [2], "stopped"), (3, [3], "ok")):
        part, told = do(make(files), Task("toy_1", until))  # a new worker each time
        assert part.status == status
        assert [done.record.epoch for done in told] == epochs
        assert all(done.written for done in told)
        assert records(part) == records(whole)[: until + 1]


@pytest.fixture
def built(monkeypatch):
    """The models that are built, one after another."""
    names: list[str] = []
    start = worker.training.start

    def counted(spec, *arguments):
        names.append(spec.name)
        return start(spec, *arguments)

    monkeypatch.setattr(worker.training, "start", counted)
    return names


BOTH = frozenset({"toy_1", "toy_2"})


def in_turns(work):
    """Two models that pause after each epoch; the trajectories of the last turns."""
    turns = [(name, until) for until in (1, 2, 3) for name in sorted(BOTH)]
    return [records(do(work, Task(name, until, alive=BOTH))[0]) for name, until in turns][-2:]


@pytest.mark.parametrize(
    ("limit", "times"),
    [(worker.HELD, [1, 1]), (0, [3, 3]), ("one", [1, 3])],
    ids=["both are held", "none is", "there is room for one"],
)
def test_a_model_that_pauses_stays_as_it_is(files, monkeypatch, built, limit, times):
    """Held in memory or read from the folder, its numbers are those of a run without a pause."""
    if limit == "one":
        limit = make(None).prepare("toy_1").nbytes
        built.clear()
    monkeypatch.setattr(worker, "HELD", limit)
    # Nothing is prepared ahead, which would build models too.
    config = dataclasses.replace(CONFIG, head="linear", num_probes=1)
    job = Job(tuple(POOL), digits(), config)
    found = in_turns(worker.make_work(job, files, threads=0))
    assert [built.count(name) for name in sorted(BOTH)] == times
    whole = make(None, config)
    assert found == [records(do(whole, Task(name, 3))[0]) for name in sorted(BOTH)]


@pytest.mark.usefixtures("fake")
def test_a_state_in_memory_that_is_not_the_folders_is_not_used(files, built):
    """Here the folder has lost its checkpoint: the model starts again."""
    work = make(files)
    do(work, Task("toy_1", 1, alive=BOTH))
    files.start_again("toy_1")
    again, told = do(work, Task("toy_1", 2, alive=BOTH))
    assert built == ["toy_1", "toy_1"]
    assert [done.record.epoch for done in told] == [0, 1, 2]
    assert records(again) == records(do(make(None), Task("toy_1", 3))[0])[:3]


@pytest.mark.usefixtures("fake")
def test_models_that_have_left_the_run_are_not_held(files):
    work = make(files)
    do(work, Task("toy_1", 1, alive=BOTH))
    assert list(work.held) == ["toy_1"]
    do(work, Task("toy_2", 1, alive=frozenset({"toy_2"})))
    assert list(work.held) == ["toy_2"]


@pytest.mark.usefixtures("fake")
def test_a_model_that_is_there_already_does_nothing(files):
    do(make(files), Task("toy_1", 2))
    part, told = do(make(files), Task("toy_1", 1))
    assert (part.status, part.epochs, told) == ("stopped", 1, [])


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("shapes differ"), "failed", "RuntimeError: shapes differ"),
        (
            errors.WeightsError("there is no a.h5", "Put it there"),
            "failed",
            "there is no a.h5. Put it there.",
        ),
    ],
)
def test_a_failure_of_its_own_becomes_a_status(files, monkeypatch, error, status, message):
    toy_runs.after(monkeypatch, ModelFiles, "append", 2, lambda: error)
    ended, _ = do(make(files), Task("toy_1", 3))
    assert (ended.status, ended.epochs, ended.message) == (status, 1, message)


@pytest.mark.usefixtures("fake")
def test_a_lack_of_memory_has_a_second_attempt_and_a_status(files, monkeypatch):
    toy_runs.instead(monkeypatch, worker.training, "start", {1, 2}, exhausted)
    ended, _ = do(make(files), Task("toy_1", 3))
    assert ended.status == "out_of_memory"
    assert ended.message.startswith("JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory")
    assert "This was the second attempt: out of memory with batches of 32" in ended.message


@pytest.mark.usefixtures("fake")
def test_a_failure_in_one_of_several_processes_alone_ends_the_run(files, monkeypatch):
    """A second attempt, or the next model, would be out of step with the others."""

    def failed(kind, what):
        raise errors.ProcessError(f"{kind} of {what}", "Repeat the command")

    monkeypatch.setattr(distributed, "failed", failed)
    toy_runs.instead(monkeypatch, worker.training, "start", {1}, exhausted)
    with pytest.raises(errors.ProcessError) as error:
        do(make(files), Task("toy_1", 3))
    assert error.value.cause.startswith("JaxRuntimeError of toy_1: RESOURCE_EXHAUSTED: ")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    "error",
    [
        errors.OutputError("the disk is full"),
        errors.ProcessError("another process is gone"),
        KeyboardInterrupt(),
    ],
)
def test_what_concerns_the_run_ends_it(files, monkeypatch, error):
    toy_runs.after(monkeypatch, ModelFiles, "append", 2, lambda: error)
    with pytest.raises(type(error)) as caught:
        do(make(files), Task("toy_1", 3))
    assert caught.value is error


@pytest.mark.usefixtures("fake")
def test_a_damaged_checkpoint_is_said_and_the_model_starts_again(files):
    do(make(files), Task("toy_1", 2))
    for file in (files.path / "checkpoints").rglob("d/*"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="starts again") as caught:
        again, told = do(make(files), Task("toy_1", 3))
    assert str(caught[0].message).startswith("toy_1 starts again: the checkpoint of epoch 2 in ")
    assert [done.record.epoch for done in told] == [3]  # what is recorded is not measured again
    assert records(again) == records(do(make(None), Task("toy_1", 3))[0])


@pytest.mark.usefixtures("fake")
def test_a_model_that_diverged_has_ended(files, monkeypatch):
    """Its worker died before it could say so: nothing is trained."""
    broken = dataclasses.replace(EpochRecord(0, 1.0, 0.5, 1.0, 0.5), validation_loss=float("nan"))
    files.append("toy_1", broken)
    monkeypatch.setattr(worker.training, "start", None)
    ended, told = do(make(files), Task("toy_1", 3))
    assert (ended.status, ended.epochs, told) == ("diverged", 0, [])


@pytest.mark.usefixtures("fake")
def test_a_share_of_time_that_is_over_stops_the_model(files, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    none, told = do(make(files), Task("toy_1", 3, TimeShare(rest=0.0)))
    assert (none.status, none.message, told) == (
        "stopped",
        "stopped by time_budget before anything was measured",
        [],
    )

    def emit(done):
        clock.now += 10.0

    some = make(files)(Task("toy_1", 3, TimeShare(own=1.0)), emit)
    assert (some.status, some.epochs) == ("stopped", 1)  # it has its first epoch all the same
    assert some.message == "stopped by model_time_budget after 1 of 3 epochs"


@pytest.mark.usefixtures("fake")
def test_a_model_that_is_refused_says_why_and_keeps_its_epochs(files):
    do(make(files), Task("toy_1", 2))
    refused, told = do(make(files), Task("toy_1", 3, TimeShare(refusal="no time was left")))
    assert (refused.status, refused.epochs, told) == ("stopped", 2, [])
    assert refused.message == "stopped by time_budget after 2 of 3 epochs: no time was left"


@pytest.mark.usefixtures("fake")
def test_the_time_of_earlier_turns_counts(files):
    do(make(files), Task("toy_1", 1))
    seen = files.position("toy_1").records
    ended, _ = do(make(files), Task("toy_1", 3))
    assert ended.seconds >= sum(record.seconds for record in seen)


def test_a_worker_that_does_not_see_the_folder_keeps_its_own(tmp_path):
    """Real training: its state comes back from the worker's own folder, exactly."""
    whole = toy_runs.rank(models=1).trajectories[0]
    job = Job(tuple(POOL), digits(), CONFIG)
    work = worker.join_work(job, str(tmp_path / "elsewhere"), "digest of another file")
    told: list[EpochDone] = []
    for until in (1, 3):
        trajectory = work(Task("toy_1", until), told.append)
    assert records(trajectory) == records(whole)
    assert [done.record.epoch for done in told] == [0, 1, 2, 3]
    assert not any(done.written for done in told)
    assert not list(tmp_path.iterdir())


def test_a_worker_knows_the_folder_by_its_run_file(tmp_path):
    job = Job(tuple(POOL), digits(), PLAN)
    (tmp_path / "run.json").write_text("{}")
    digest = worker.digest(tmp_path)
    assert worker.digest(tmp_path / "nowhere") == ""
    seeing = worker.join_work(job, str(tmp_path), digest)
    assert seeing.shared
    assert seeing.files.path == tmp_path
    (tmp_path / "run.json").write_text("{ }")
    assert not worker.join_work(job, str(tmp_path), digest).shared


@pytest.fixture
def forgotten(monkeypatch):
    """How often compiled programs were freed."""
    times: list[int] = []
    monkeypatch.setattr(worker.caching, "forget_compiled_programs", lambda: times.append(1))
    monkeypatch.setattr(worker, "MODELS_KEPT", 5)
    return times


def large(*names):
    parameters = dict.fromkeys(names, worker.LARGE)
    return [dataclasses.replace(s, parameters=parameters.get(s.name)) for s in POOL]


@pytest.mark.usefixtures("fake")
def test_a_large_model_counts_for_four(files, forgotten):
    work = make(files, specs=large("toy_1"))
    do(work, Task("toy_2", 3))
    assert not forgotten  # a small one
    do(work, Task("toy_1", 1))
    assert not forgotten  # it pauses, and will call them again
    do(work, Task("toy_1", 3))
    assert forgotten == [1]


@pytest.mark.usefixtures("fake")
def test_programs_stay_while_another_model_pauses(files, forgotten):
    work = make(files, specs=large("toy_1", "toy_2"))
    both = frozenset({"toy_1", "toy_2"})
    do(work, Task("toy_1", 1, alive=both))
    do(work, Task("toy_2", 3, alive=both))
    assert not forgotten
    do(work, Task("toy_3", 3, alive=frozenset({"toy_3"})))  # the others have left the run
    do(work, Task("toy_2", 3, alive=frozenset({"toy_2"})))
    assert forgotten == [1]


@pytest.mark.usefixtures("fake")
def test_programs_of_small_models_are_freed_when_they_add_up(monkeypatch, forgotten):
    monkeypatch.setattr(worker, "MODELS_KEPT", 2)
    work = make(None)
    for expected in (0, 1, 1, 2):
        do(work, Task("toy_1", 3))
        assert len(forgotten) == expected


def test_what_the_ranking_is_made_of_is_measured_after_every_epoch(files):
    """Else a network is measured after the last, by a model that has paused too."""
    deep = [deep_spec()]
    asked = {"last_validation_loss": [3], "scaled_ridge": [0, 1, 2, 3]}
    for predictor, epochs in asked.items():
        config = small_config(epochs=3, head="linear", predictor=predictor)
        whole, _ = do(make(None, config, deep), Task("deep", 3))
        assert [r.epoch for r in whole.records if r.beta_eff] == epochs
    files.start_again("deep")
    config = small_config(epochs=3, head="linear")
    parts = [do(make(files, config, deep), Task("deep", until))[0] for until in (1, 2, 3)]
    assert [r.epoch for r in parts[-1].records if r.beta_eff] == [3]
    assert [records(part) for part in parts] == [records(parts[-1])[:end] for end in (2, 3, 4)]
