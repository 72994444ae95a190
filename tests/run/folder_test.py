"""A run's folder: what it refuses, what a run resumes from, and that several processes agree."""

from __future__ import annotations

import contextlib
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.run import ledger
from ncap_jax.run.fingerprint import differences
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.model_files import ModelFiles, Position
from ncap_jax.run.recorded import Recorded
from ncap_jax.types import EpochRecord, Trajectory
from tests.support.two_processes import TwoProcesses

FACTS = {
    "config": {"epochs": 3, "seed": 3, "time_budget": None, "executor": "local"},
    "models": {"a": {}, "b": {}},
    "data": {"name": "digits", "sha256": "0"},
    "started": "today",
}
RECORDS = (
    EpochRecord(
        *(0, 1.0, 0.5, 1.25, 0.25),
        beta_eff={"absolute": (0.1, float("nan"))},
        beta_eff_status={"absolute": ("ok", "degenerate")},
    ),
    EpochRecord(1, 0.5, 0.75, 1.0, 0.5, running_loss=0.7, seconds=2.0),
    EpochRecord(2, 0.25, 0.8, 0.75, 0.75, running_loss=0.6, seconds=2.0),
)
STATE = {"w": jnp.arange(40.0), "half": jnp.ones(3, jnp.bfloat16), "key": jax.random.key(3)}
SMALL = {"w": jnp.zeros(2)}


def with_state(files: ModelFiles, records=RECORDS[:2], state=SMALL, model="a"):
    for record in records:
        files.append(model, record)
    files.checkpoints(model).save(records[-1].epoch, state)


def contents(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"config": {**FACTS["config"], "seed": 4}}, "config.seed was 3, is 4"),
        ({"data": {"name": "digits", "sha256": "1"}}, 'data.sha256 was "0", is "1"'),
        (
            {"config": {"seed": 4}, "models": {"c": {}, "b": {"weights_sha256": "x" * 99}}},
            'config.seed was 3, is 4; models.b.weights_sha256 was null, is "xx',
        ),
    ],
)
def test_another_run_is_refused_and_the_fields_are_named(tmp_path, changes, cause):
    with RunFolder(tmp_path, FACTS):
        pass
    before = contents(tmp_path)
    with pytest.raises(errors.OutputError) as error:
        RunFolder(tmp_path, {**FACTS, **changes})
    assert error.value.cause.startswith(f"{tmp_path} holds another run; different: {cause}")
    assert error.value.remedy == "Choose another folder, or repeat the same run to resume it"
    assert contents(tmp_path) == before


def test_the_same_run_resumes_whatever_does_not_decide_its_numbers(tmp_path):
    with RunFolder(tmp_path, FACTS):
        pass
    before = contents(tmp_path)
    free = {"config": {**FACTS["config"], "time_budget": 60.0}, "started": "tomorrow"}
    with RunFolder(tmp_path, {**FACTS, **free}):
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"threads": 8}, {"threads": 2}, "run.threads was 8, is 2"),
        (
            {"versions": {"jax": "0.7.0"}, "device": "1 x cpu (cpu)"},
            {"versions": {"jax": "0.10.2"}, "device": "1 x H100 (gpu)"},
            'run.device was "1 x cpu (cpu)", is "1 x H100 (gpu)"; run.versions.jax was "0.7.0", is '
            '"0.10.2"',
        ),
        (
            {"config": {**FACTS["config"], "executor": "ray"}},
            {"config": {**FACTS["config"], "executor": "processes"}},
            'run.executor was "ray", is "this machine"',
        ),
    ],
)
def test_a_run_that_resumes_where_arithmetic_rounds_otherwise_says_so(
    tmp_path, before, after, moved
):
    with RunFolder(tmp_path, {**FACTS, **before}):
        pass
    with pytest.warns(UserWarning, match="was begun") as warned:
        RunFolder(tmp_path, {**FACTS, **after})
    assert [str(warning.message) for warning in warned] == [
        f"{tmp_path} was begun in another way ({moved}): from here on numbers may round "
        "differently. For a ranking made in one way, choose another folder"
    ]


def test_worker_processes_go_on_with_what_one_process_began_without_a_word(tmp_path):
    there = {"threads": 2, "device": "1 x cpu (cpu)"}
    with RunFolder(tmp_path, {**FACTS, **there}):
        pass
    executor = {**FACTS["config"], "executor": "processes", "workers": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with RunFolder(tmp_path, {**FACTS, **there, "config": executor}):
            pass


def test_long_values_are_cut_in_the_message():
    (text,) = differences({"x": "a" * 100}, {"x": 1}, "data")
    assert text == f'data.x was "{"a" * 58}…, is 1'


def test_one_process_at_a_time(tmp_path):
    with RunFolder(tmp_path, FACTS):
        with pytest.raises(errors.OutputError) as error:
            RunFolder(tmp_path, FACTS)
        assert error.value.cause == f"another process is working in {tmp_path}"
        assert error.value.remedy == "Wait for it, or choose another folder"
    with RunFolder(tmp_path, FACTS):
        pass


def test_a_refusal_frees_the_folder(tmp_path):
    with RunFolder(tmp_path, FACTS):
        pass
    with pytest.raises(errors.OutputError):
        RunFolder(tmp_path, {**FACTS, "data": {}})
    with RunFolder(tmp_path, FACTS):
        pass


def refused(path, before=lambda folder: None):
    """A run that is refused after its folder has been opened."""
    with contextlib.suppress(errors.ConfigError), RunFolder(path, FACTS) as folder:
        before(folder)
        raise errors.ConfigError("no cluster", "Start one")


def test_a_run_that_is_refused_leaves_nothing_behind(tmp_path):
    refused(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
    refused(tmp_path)  # the folder was there
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("somebody else's")
    refused(tmp_path)
    assert (tmp_path / "notes.txt").exists()


def test_what_was_recorded_is_kept_whatever_follows(tmp_path):
    refused(tmp_path / "a", lambda folder: folder.files.append("a", RECORDS[0]))
    assert len(contents(tmp_path / "a")) == 3
    with RunFolder(tmp_path / "b", FACTS):
        pass
    before = contents(tmp_path / "b")
    refused(tmp_path / "b")  # it has been there from an earlier call
    assert contents(tmp_path / "b") == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.OutputError) as error:
        RunFolder(tmp_path / "file" / "run", FACTS)
    assert error.value.cause == f"cannot write to {tmp_path / 'file' / 'run'}: Not a directory"
    assert error.value.remedy == "Choose a folder that you may write to"


@pytest.mark.parametrize("content", [b'{"schema": 1', b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_run_json_is_a_named_error(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(errors.OutputError) as error:
        RunFolder(tmp_path, FACTS)
    assert error.value.cause.startswith(f"{tmp_path / 'run.json'} cannot be read: ")
    assert error.value.remedy == "Choose another folder, or remove this one"


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    with RunFolder(tmp_path, FACTS):
        pass
    left = [tmp_path / ".ranking.json.1.tmp", tmp_path / "trajectories" / ".a.jsonl.1.tmp"]
    for file in left:
        file.touch()
    with RunFolder(tmp_path, FACTS):
        assert not any(file.exists() for file in left)


def test_a_model_resumes_after_its_last_checkpoint(tmp_path):
    """A kill came before that of the last line was whole: the epoch counts once it is trained."""
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.files.append("a", RECORDS[2])
        assert repr(folder.files.position("a")) == repr(Position(RECORDS, 1))
        found = trajectory_files.read(folder.files.trajectory("a"))
        assert repr(found) == repr(RECORDS)
        known = Recorded("a", RECORDS[:2], state=1, seconds=4.0)
        assert repr(folder.recorded()) == repr({"a": known})


def test_a_model_that_ended_is_taken_as_it_is(tmp_path):
    ended = Trajectory("a", "probe", RECORDS, "diverged", "not finite", 5.0)
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.files.append("a", RECORDS[2])
        folder.finish(ended)
        known = Recorded("a", RECORDS, state=1, seconds=5.0)
        assert repr(folder.recorded()) == repr({"a": known})


def test_states_of_models_that_ended_are_kept_by_name(tmp_path):
    ends = {"a": "ok", "b": "diverged", "c": "ok", "d": "stopped"}
    trajectories = [Trajectory(name, "probe", RECORDS[:1], status) for name, status in ends.items()]
    with RunFolder(tmp_path, FACTS) as folder:
        for name in ends:
            folder.files.checkpoints(name).save(0, SMALL)
        folder.keep_states(trajectories, ("c",))
    # Who was stopped may go on in a later call.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["c", "d"]


def test_a_shorter_ranking_leaves_the_states_of_a_longer_one(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.recorded()
        folder.keep_states([Trajectory("a", "probe", RECORDS[:1])], ())
        assert folder.files.checkpoints("a").latest() == 1
        folder.keep_states([Trajectory("a", "probe", RECORDS[:2])], ())
        assert folder.files.checkpoints("a").latest() is None


@pytest.mark.parametrize("status", ["failed", "out_of_memory", "stopped"])
def test_a_model_whose_end_had_another_cause_is_tried_again(tmp_path, status):
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.finish(Trajectory("a", "probe", RECORDS[:2], status))
        known = Recorded("a", RECORDS[:2], state=1)
        assert repr(folder.recorded()) == repr({"a": known})  # it lost nothing
        assert repr(folder.files.position("a")) == repr(Position(RECORDS[:2], 1))


def test_an_end_is_entered_once(tmp_path):
    """Every call comes to it again; only another end is news."""
    ends = [
        Trajectory("a", "probe", RECORDS, "failed"),
        Trajectory("a", "probe", RECORDS, "ok", seconds=7.0),
        Trajectory("a", "probe", RECORDS, "ok", seconds=8.0),
    ]
    for _ in range(2):
        with RunFolder(tmp_path, FACTS) as folder:
            folder.recorded()
            for record in RECORDS if len(ends) == 3 else ():
                folder.files.append("a", record)
            for end in ends:
                folder.finish(end)
        ends = ends[1:]
    assert [(e.status, e.seconds) for e in ledger.read(tmp_path)] == [("failed", 0.0), ("ok", 7.0)]


def test_a_damaged_trajectory_of_a_model_that_ended_is_said(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.finish(Trajectory("a", "probe", RECORDS[:2]))
        trajectory = folder.files.trajectory("a")
        trajectory.write_text(trajectory.read_text()[:-20])
        with pytest.warns(UserWarning, match="is damaged") as caught:
            (known,) = folder.recorded().values()
    assert repr(known.records) == repr(RECORDS[:1])
    (warning,) = caught
    assert str(warning.message) == f"{trajectory} is damaged: a trains again what is missing"


def test_a_checkpoint_half_removed_is_removed(tmp_path):
    """A kill between the ledger's line and the end of the removal leaves no litter for good."""
    left = tmp_path / "checkpoints" / "a" / "2" / "default" / "d"
    with RunFolder(tmp_path, FACTS) as folder:
        folder.files.append("a", RECORDS[0])
        folder.finish(Trajectory("a", "probe", RECORDS[:1]))
    left.mkdir(parents=True)
    with RunFolder(tmp_path, FACTS) as folder:
        assert list(folder.recorded()) == ["a"]
        folder.keep_states([Trajectory("a", "probe", RECORDS[:1])], ())
    assert not (tmp_path / "checkpoints" / "a").exists()


def test_a_model_that_starts_again_is_not_taken_for_a_damaged_one(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.finish(Trajectory("a", "probe", RECORDS[:2]))
        folder.files.start_again("a")
        folder.files.append("a", RECORDS[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert folder.recorded() == {}  # it has not ended, and no state was kept


def test_a_run_grows_in_its_folder(tmp_path):
    """What it holds is entered once nothing is refused any more."""
    with RunFolder(tmp_path, FACTS):
        pass
    before = contents(tmp_path)
    config = {**FACTS["config"], "epochs": 5, "executor": "processes"}
    with RunFolder(tmp_path, {**FACTS, "config": config, "models": {"c": {}, "a": {}}}) as folder:
        assert contents(tmp_path) == before
        folder.grow()
    held = json.loads((tmp_path / "run.json").read_text())
    assert list(held["models"]) == ["c", "a"]
    assert held["set_aside"] == {"b": {}}
    assert held["config"] == {**FACTS["config"], "epochs": 5}  # begun in one process
    with RunFolder(tmp_path, FACTS) as folder:
        folder.grow()
    held = json.loads((tmp_path / "run.json").read_text())
    assert held == {**FACTS, "set_aside": {"c": {}}}


def test_halving_the_batch_forgets_the_model_and_is_remembered(tmp_path):
    with RunFolder(tmp_path, FACTS) as folder:
        with_state(folder.files)
        folder.files.halve_batch("a", "halved")
        assert not folder.files.trajectory("a").exists()
        assert folder.files.checkpoints("a").latest() is None
    with RunFolder(tmp_path, FACTS) as folder:
        assert folder.files.halving_note("a") == "halved"
        assert folder.files.halving_note("b") == ""
        assert folder.recorded() == {}
        folder.files.append("a", RECORDS[0])
        folder.finish(Trajectory("a", "probe", RECORDS[:1]))
        assert folder.recorded()["a"].note == "halved"


# Two processes of one run.


@pytest.fixture
def both(monkeypatch):
    """Lets two processes do the same; gives what each returned or raised."""
    return TwoProcesses(monkeypatch)


def bits(tree):
    arrays = {**tree, "key": jax.random.key_data(tree["key"])}
    return {name: (leaf.dtype, np.asarray(leaf).tobytes()) for name, leaf in arrays.items()}


def blank(tree):
    """Another state of the same layout."""
    return {**{n: jnp.zeros_like(tree[n]) for n in ("w", "half")}, "key": jax.random.key(0)}


def test_records_and_state_are_those_of_both(both, tmp_path):
    def act():
        with RunFolder(tmp_path, FACTS) as folder:
            with_state(folder.files, state=STATE)
            seen = folder.files.position("a").records
            store = folder.files.checkpoints("a")
            assert store.latest() == 1
            state = store.restore(1, blank(STATE))
            folder.files.halve_batch("b", "halved")
            folder.finish(Trajectory("a", "probe", seen, seconds=3.0))
            note = folder.files.halving_note("b")
            folder.keep_states([Trajectory("a", "probe", seen)], ())
            return repr((seen, note, folder.recorded())), bits(state)

    known = {"a": Recorded("a", RECORDS[:2], seconds=3.0)}
    assert both(act) == [(repr((RECORDS[:2], "halved", known)), bits(STATE))] * 2
    assert not (tmp_path / "checkpoints" / "a").exists()
    assert len((tmp_path / "trajectories" / "a.jsonl").read_text().splitlines()) == 2
    assert len(ledger.read(tmp_path)) == 2  # written once


def test_damage_is_known_to_both(both, tmp_path):
    def act():
        with RunFolder(tmp_path, FACTS) as folder:
            with_state(folder.files)
            if both.is_primary():
                for file in (tmp_path / "checkpoints" / "a").rglob("d/*"):
                    file.write_bytes(b"")
            try:
                folder.files.checkpoints("a").restore(1, SMALL)
            except errors.CheckpointError as error:
                folder.files.start_again("a")
                return error.cause, folder.files.position("a")

    first, second = both(act)
    assert first == second
    place = tmp_path / "checkpoints" / "a"
    assert first[0].startswith(f"the checkpoint of epoch 1 in {place} cannot be read: ")
    assert first[1] == Position()


def test_another_run_is_refused_by_both(both, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FACTS))
    outcomes = both(lambda: RunFolder(tmp_path, {**FACTS, "data": {"name": "other"}}))
    assert [type(error) for error in outcomes] == [errors.OutputError] * 2
    assert str(outcomes[0]) == str(outcomes[1])
    assert outcomes[1].remedy == "Choose another folder, or repeat the same run to resume it"


def test_a_full_disk_stops_both(both, tmp_path, monkeypatch):
    """At a line of a trajectory, at a checkpoint, and at the end of a model."""

    def full(*arguments):
        assert both.is_primary()  # which alone writes
        raise errors.OutputError("the disk is full", "Free space")

    for owner, name, act in (
        (trajectory_files, "append", lambda folder: folder.files.append("a", RECORDS[0])),
        (Checkpoints, "_save", lambda folder: folder.files.checkpoints("a").save(0, SMALL)),
        (ledger, "append", lambda folder: folder.finish(Trajectory("a", "probe", ()))),
    ):
        monkeypatch.setattr(owner, name, full)

        def attempt(act=act):
            with RunFolder(tmp_path, FACTS) as folder:
                act(folder)

        outcomes = both(attempt)
        assert [type(error) for error in outcomes] == [errors.OutputError] * 2
        assert {str(error) for error in outcomes} == {"the disk is full. Free space."}


def test_models_that_are_chosen_later_are_described_then(tmp_path):
    """With the weights that the folder knows them by, if it knows them."""
    before = {**FACTS, "models": {}}
    with RunFolder(tmp_path, before) as folder:
        assert json.loads((tmp_path / "run.json").read_text())["models"] == {}
        folder.describe(FACTS)
        folder.grow()
        assert folder.recorded() == {}
    assert json.loads((tmp_path / "run.json").read_text())["models"] == FACTS["models"]
    other = {**FACTS, "models": {"a": {"weights_sha256": "x"}}}
    with (
        RunFolder(tmp_path, before) as folder,
        pytest.raises(errors.OutputError, match=r"models\.a\.weights_sha256 was null"),
    ):
        folder.describe(other)
