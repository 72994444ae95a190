"""The recall stage: who is looked at, who is chosen, and what a kill leaves."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.report.ranking_files import ranking_to_json
from ncap_jax.run import admission, looking, pipeline, recall, start
from ncap_jax.run.job import Job
from ncap_jax.types import LeftOut
from tests.support import fake_training
from tests.support.toy_runs import CONFIG, NAMES, POOL, Stop, digits, rank, timeless

# Training is fake, and so are the features: toy_2 is the best, toy_1 the last.
RECALL = dataclasses.replace(CONFIG, head="linear", recall=2, epochs=1, keep_states=0)
VALUES = {"toy_1": 0.1, "toy_2": 0.9, "toy_3": 0.5}


class Features:
    """In place of those of real networks; `broken` raise, and `seen` are the models shown."""

    def __init__(self):
        self.seen: list[str] = []
        self.broken: dict[str, BaseException] = {}

    def __call__(self, spec, feed, config):
        self.seen.append(spec.name)
        if spec.name in self.broken:
            raise self.broken[spec.name]
        return np.array([[VALUES[spec.name]], [2.0]]), np.array([0, 1])


@pytest.fixture
def features(monkeypatch):
    fake_training.install(monkeypatch)
    monkeypatch.setattr(pipeline.report, "write", lambda ranking, folder, finished: None)
    found = Features()
    monkeypatch.setattr(looking.evaluation, "untouched_features", found)
    monkeypatch.setattr(looking, "feature_scores", lambda x, labels: {"logme": float(x[0, 0])})
    return found


def names(ranking):
    """Of the models that were fine-tuned, in any order."""
    return sorted(row.name for row in ranking.models)


def test_the_best_by_their_features_are_fine_tuned(features, tmp_path):
    ranking = rank(tmp_path, RECALL, models=3)
    assert names(ranking) == ["toy_2", "toy_3"]
    assert features.seen == list(NAMES)
    (left_out,) = ranking.left_out
    assert left_out == LeftOut("toy_1", "place 3 of 3 in the recall, which keeps 2", step="recall")
    steps = [(step.step, step.models) for step in ranking.funnel]
    assert steps == [("candidates", 3), ("filtered", 3), ("recalled", 2), ("trained", 2)]
    assert list(json.loads((tmp_path / "run.json").read_text())["models"]) == ["toy_2", "toy_3"]
    written = json.loads(ranking_to_json(ranking))
    assert written["left_out"][0]["step"] == "recall"
    assert [step["step"] for step in written["funnel"]] == [step for step, _ in steps]


def test_a_part_that_is_switched_off_loads_nothing(features):
    off = dataclasses.replace(RECALL, recall_parts=("prior", "diversity"))
    assert names(rank(config=off, models=3)) == ["toy_1", "toy_2"]  # nothing is known of them
    assert features.seen == []
    assert names(rank(config=dataclasses.replace(RECALL, recall=0), models=3)) == list(NAMES)


def test_a_run_killed_after_the_recall_decides_nothing_anew(features, tmp_path, monkeypatch):
    whole = timeless(rank(tmp_path / "whole", RECALL, models=3))
    features.seen.clear()
    with monkeypatch.context() as patch:

        def stop(*arguments):
            raise Stop

        patch.setattr(pipeline, "grow", stop)
        with pytest.raises(Stop):
            rank(tmp_path / "run", RECALL, models=3)
    assert len(features.seen) == 3
    decided = (tmp_path / "run" / "recall.json").read_bytes()
    # Whatever would be found now, the decision stands.
    features.broken["toy_2"] = RuntimeError("the file is gone")
    assert timeless(rank(tmp_path / "run", RECALL, models=3)) == whole
    assert len(features.seen) == 3
    assert (tmp_path / "run" / "recall.json").read_bytes() == decided


def test_a_run_killed_within_the_recall_looks_at_the_rest_alone(features, tmp_path):
    whole = timeless(rank(tmp_path / "whole", RECALL, models=3))
    features.broken["toy_3"] = Stop()
    with pytest.raises(Stop):
        rank(tmp_path / "run", RECALL, models=3)
    features.broken.clear()
    features.seen.clear()
    assert timeless(rank(tmp_path / "run", RECALL, models=3)) == whole
    assert features.seen == ["toy_3"]


def test_another_recall_in_the_folder_is_decided_from_the_same_scores(features, tmp_path):
    rank(tmp_path, RECALL, models=3)
    features.seen.clear()
    one = rank(tmp_path, dataclasses.replace(RECALL, recall=1), models=3)
    assert names(one) == ["toy_2"]
    assert features.seen == []
    more = rank(tmp_path, dataclasses.replace(RECALL, recall=None), models=3)
    assert names(more) == list(NAMES)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.WeightsError("the file is torn", "Fetch it again"), "the file is torn"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "RuntimeError: RESOURCE_EXHAUSTED"),
    ],
)
def test_a_model_that_fails_is_listed_and_the_run_goes_on(features, error, words):
    features.broken["toy_2"] = error
    ranking = rank(config=RECALL, models=3)
    assert names(ranking) == ["toy_1", "toy_3"]
    (failed,) = ranking.left_out
    assert (failed.name, failed.step) == ("toy_2", "failed")
    assert failed.reason.startswith(f"it failed before training: {words}")
    assert ncap.format_ranking(ranking).count("toy_2") == 2  # left out, and warned of


def test_if_all_fail_the_first_is_named(features):
    features.broken = dict.fromkeys(NAMES, RuntimeError("no such operator"))
    with pytest.raises(errors.ModelError) as refusal:
        rank(config=RECALL, models=3)
    assert refusal.value.cause == (
        "none of the 3 candidates can be fine-tuned; toy_1: it failed before training: "
        "RuntimeError: no such operator"
    )


def test_an_image_that_has_changed_ends_the_run(features):
    features.broken["toy_2"] = errors.ChangedDataError("0.png has changed", "Restore it")
    with pytest.raises(errors.ChangedDataError):
        rank(config=RECALL, models=3)


def job(**changes):
    """Of all toys."""
    config = dataclasses.replace(RECALL, **changes)
    return Job(tuple(POOL), digits(), config, recall=2)


def decide(job, tell, run=None, **options):
    """In this process."""
    makers = start.Makers(lambda: looking.Looker(job, recall.images_of(10)), None)
    return recall.decide(job, "data", run, tell, makers, **options)


def test_features_that_tell_nothing_are_a_failure(monkeypatch):
    monkeypatch.setattr(
        looking.evaluation,
        "untouched_features",
        lambda spec, feed, config: (np.ones((4, 3)), np.array([0, 0, 1, 1])),
    )
    with pytest.raises(errors.ModelError, match="its features are constant"):
        decide(job(), lambda line: None, None)


def test_when_time_is_over_the_rest_is_ranked_without_features(features, monkeypatch):
    clock = iter([0.0, 0.0, 0.0, 5.0, 99.0, 99.0, 99.0])  # of the first model's look: five seconds
    # The modules' own clock: threads of other tests may read that of the process.
    for module in (recall, looking):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[str] = []
    found = decide(job(recall_seconds=3.0), said.append, None)
    assert features.seen == ["toy_1"]
    assert found.chosen == ("toy_1", "toy_2")  # of one known value nothing follows
    assert found.candidates[0].seconds == 5.0
    assert said[-1] == (
        "Recall: no time was left for the features of 2 of 3 candidates; they are ranked "
        "without them."
    )


@pytest.mark.parametrize("broken", [False, True])
def test_random_networks_are_looked_at_only_to_fill_the_pool(features, monkeypatch, broken):
    """toy_2 is the best by its features, but random: it has a turn where another one fails."""
    values = {"toy_1": 70.0, "toy_2": -np.inf, "toy_3": 60.0}
    monkeypatch.setattr(recall, "static_prior", lambda specs: [values[s.name] for s in specs])
    if broken:
        features.broken = {"toy_1": ValueError("torn")}
    said: list[str] = []
    found = decide(job(weights="pretrained"), said.append, None)
    assert sorted(found.chosen) == (["toy_2", "toy_3"] if broken else ["toy_1", "toy_3"])
    assert features.seen == ["toy_1", "toy_3", *(["toy_2"] if broken else [])]
    line = (
        "Recall: 1 of 3 candidates have random weights and are not looked at: enough others are "
        "left."
    )
    assert (line in said) is not broken
    assert not any("no time" in each for each in said)


def test_a_time_budget_bounds_the_recall_too():
    assert recall.seconds_for(RECALL) == 600
    assert recall.seconds_for(dataclasses.replace(RECALL, time_budget=90.0)) == pytest.approx(30)


@pytest.mark.parametrize(("classes", "images"), [(2, 256), (85, 680), (525, 1024)])
def test_how_many_images_are_looked_at(classes, images):
    assert recall.images_of(classes) == images


def test_who_is_too_large_or_cannot_be_built_makes_room_for_the_next(features, monkeypatch):
    """Only those that would be chosen are built."""
    built: list[str] = []

    def unfit(specs, config):
        built.extend(spec.name for spec in specs)
        return tuple(LeftOut(s.name, "too large") for s in specs if s.name == "toy_3")

    monkeypatch.setattr(admission, "unfit", unfit)
    found = decide(dataclasses.replace(job(), recall=1), lambda line: None, None)
    assert (found.chosen, built) == (("toy_2",), ["toy_2"])
    found = decide(job(), lambda line: None, None)
    assert found.chosen == ("toy_2", "toy_1")
    assert built[1:] == ["toy_2", "toy_3", "toy_1"]


def test_who_is_too_slow_makes_room_for_the_next(features, monkeypatch):
    timed: list[str] = []

    def too_slow(specs, dataset, config):
        timed.extend(spec.name for spec in specs)
        return tuple(LeftOut(s.name, "9 ms", "filter") for s in specs if s.name == "toy_2")

    monkeypatch.setattr(admission, "too_slow", too_slow)
    found = decide(job(max_latency_ms=5.0), lambda line: None, None)
    assert found.chosen == ("toy_3", "toy_1")
    assert timed == ["toy_2", "toy_3", "toy_1"]
    assert found.left_out == (LeftOut("toy_2", "9 ms", "filter"),)
    monkeypatch.setattr(
        admission,
        "too_slow",
        lambda specs, dataset, config: tuple(LeftOut(s.name, "9 ms") for s in specs),
    )
    with pytest.raises(errors.ConfigError, match="can be fine-tuned; toy_2: 9 ms"):
        decide(job(max_latency_ms=5.0), lambda line: None, None)


def test_real_features_of_real_networks(tmp_path, monkeypatch):
    """A row for every image of the subset, in the order of the labels."""
    shapes = []

    def scores(features, labels):
        shapes.append((features.shape, labels.shape, np.unique(labels).size))
        return {"logme": float(features.std()), "linear_probe": float(features.mean())}

    monkeypatch.setattr(looking, "feature_scores", scores)
    said: list[str] = []
    whole = job(recall_parts=("features",))
    found = decide(dataclasses.replace(whole, recall=1), said.append, tmp_path)
    assert len(found.chosen) == 1
    assert shapes == [((96, 12), (96,), 10)] * 3
    assert len({each.scores["logme"] for each in found.candidates}) == 3
    assert len(list((tmp_path / "recall").iterdir())) == 3
    assert said[1].startswith("toy_1: logme ")
    assert said[1].endswith("[1/3 candidates]")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_other_processes_look_at_the_models_and_train_them(tmp_path):
    """What two processes find is what this one finds, times apart; a torn file fails alone."""
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x10\0\0\0\0\0\0\0{torn")
    broken = dataclasses.replace(POOL[0], name="broken", weights=str(torn))
    drawn = [dataclasses.replace(spec, weights="random") for spec in POOL]
    config = dataclasses.replace(RECALL, weights="pretrained", recall_parts=("features",))
    here, there = (
        ncap.rank_models(
            [*drawn, broken], digits(), changed, tmp_path / changed.executor, show_progress=False
        )
        for changed in (config, dataclasses.replace(config, executor="processes", workers=2))
    )
    assert timeless(there) == timeless(here)
    assert there.left_out == here.left_out
    assert [each.name for each in there.left_out if each.step == "failed"] == ["broken"]
    for folder in ("local", "processes"):
        assert len(list((tmp_path / folder / "recall").iterdir())) == 3


def test_a_file_that_cannot_be_read_fails_alone(features, monkeypatch):
    def unreadable(spec, config):
        if spec.name == "toy_2":
            raise PermissionError("not yours")

    for module in (recall, looking):
        monkeypatch.setattr(module, "weights_digest", unreadable)
    found = decide(job(), lambda line: None)
    assert sorted(found.chosen) == ["toy_1", "toy_3"]
    assert found.candidates[1].failure == "PermissionError: not yours"


def test_a_worker_that_dies_costs_its_model(monkeypatch):
    class Dying(start.executors.Local):
        def run(self, names, make_task, on_item, on_end):
            on_end(names[0], start.executors.Lost("its worker ended 3 times"))
            super().run(names[1:], make_task, on_item, on_end)

    monkeypatch.setattr(start.executors, "Local", Dying)
    monkeypatch.setattr(looking, "feature_scores", lambda x, labels: {"logme": float(x.std())})
    said: list[str] = []
    found = decide(job(), said.append)
    assert sorted(found.chosen) == ["toy_2", "toy_3"]
    assert found.candidates[0].failure == "its worker ended 3 times"
    assert said[1] == "toy_1: failed: its worker ended 3 times [1/3 candidates]"


def test_within_a_time_budget_as_many_are_kept_as_may_race(features, monkeypatch):
    """Of 40 candidates, a second each: 200 seconds are enough for 40, and 100 for 20."""
    pool = [dataclasses.replace(POOL[0], name=f"m{number:02d}") for number in range(40)]
    monkeypatch.setitem(VALUES, "m39", 1.5)
    for spec in pool[:-1]:
        monkeypatch.setitem(VALUES, spec.name, 1.0)
    ticks = iter(range(10**6))
    monkeypatch.setattr(looking.time, "monotonic", lambda: float(next(ticks)))
    config = dataclasses.replace(RECALL, recall=None, time_budget=3600.0, strategy="race")
    timed = Job(tuple(pool), digits(), config, recall=12)
    said: list[str] = []
    for left, expected in ((1000.0, 40), (100.0, 20), (10.0, 12)):
        found = decide(timed, said.append, left=lambda left=left: left)
        assert len(found.chosen) == expected
        assert found.chosen[0] == "m39"
        assert said[-1] == f"Recall: {expected} of them are put in order for the race."
    assert said[0] == "Recall: of 40 candidates as many as there is time for will be fine-tuned."
    asked = dataclasses.replace(timed, config=dataclasses.replace(config, recall=5), recall=5)
    assert len(decide(asked, said.append, left=lambda: 1000.0).chosen) == 5
    keys = [
        recall.decision_key(dataclasses.replace(j, config=c), "data")
        for j, c in (
            (timed, config),
            (timed, dataclasses.replace(config, time_budget=60.0)),
            (asked, dataclasses.replace(config, recall=5)),
            (asked, dataclasses.replace(config, recall=5, time_budget=60.0)),
        )
    ]
    assert keys[0] != keys[1]
    assert keys[2] == keys[3]


@pytest.mark.slow
def test_five_hundred_candidates_of_which_fifty_fail_end_in_a_ranking(
    features, tmp_path, monkeypatch
):
    """Downloads, torn files and memory: each has its line, and the best of the others are kept."""
    pool = [dataclasses.replace(POOL[0], name=f"m{number:03d}") for number in range(500)]
    for number, spec in enumerate(pool):
        monkeypatch.setitem(VALUES, spec.name, number / 1000)
    kinds = (
        errors.WeightsError("cannot download https://x/y: no name", "Check the connection"),
        errors.WeightsError("m.safetensors is damaged", "Fetch it again"),
        MemoryError("RESOURCE_EXHAUSTED: Out of memory"),
    )
    features.broken = {pool[n].name: kinds[n % 3] for n in range(5, 500, 10)}
    config = dataclasses.replace(RECALL, recall=12, strategy="race")
    ranking = ncap.rank_models(pool, digits(), config, tmp_path, show_progress=False)
    best = [spec.name for spec in reversed(pool) if spec.name not in features.broken][:12]
    assert names(ranking) == sorted(best)
    failed = [each for each in ranking.left_out if each.step == "failed"]
    assert [each.name for each in failed] == list(features.broken)
    assert {each.reason for each in failed} == {
        "it failed before training: cannot download https://x/y: no name",
        "it failed before training: m.safetensors is damaged",
        "it failed before training: MemoryError: RESOURCE_EXHAUSTED: Out of memory",
    }
    assert len(ranking.left_out) == 488
    steps = [(step.step, step.models) for step in ranking.funnel]
    assert steps[:3] == [("candidates", 500), ("filtered", 500), ("recalled", 12)]
    assert "and 43 more, all of them in ranking.json" in ncap.format_ranking(ranking, width=4000)
