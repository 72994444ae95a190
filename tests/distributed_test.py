"""Two processes of `jax.distributed` hear of one another, and fine-tune a model together.

In the slow tests they have two devices each, are killed in the middle of a model, and must resume
as if nothing had happened. A process that waits for the other for ever is killed by a timeout, and
fails the test.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from ncap_jax import distributed, errors, peers
from ncap_jax.finetune import trajectory_files
from ncap_jax.run import ledger
from tests.support.two_processes import free_port

ARGUMENTS = [
    "--models=tiny_depthwise",
    "--epochs=1",
    "--max_train=64",
    "--max_validation=64",
    "--probe_widths=16,12,8",
    "--batch_size=16",
]
TIMEOUT = 280  # seconds; a run takes some 30 on one core
# Enough epochs for the run to be killed before the last; each takes longer than the pause between
# two looks at the folder.
LONG = ["--models=tiny_plain_wide,tiny_plain", "--epochs=12"]
FIRST, KILLED = "tiny_plain_wide", "tiny_plain"
# Adam's first steps have the same size for the smallest gradient, of whatever sign rounding gives.
PLAIN_STEPS = ["--optimizer=sgd", "--learning_rate=0.001", "--trial_rates=0.01"]


def ncap(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "ncap_jax", *ARGUMENTS, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(folder, *arguments):
    """Two processes that run as one."""
    address = f"127.0.0.1:{free_port()}"
    return [
        ncap(
            "--mesh=data:4",
            "--distributed",
            f"--output_dir={folder}",
            *arguments,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
        )
        for number in range(2)
    ]


def together(folder, *arguments, codes=(0, 0)):
    """Outputs of two processes that run as one, and end with these exit codes."""
    processes = start(folder, *arguments)
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        kill(processes)
    assert tuple(process.returncode for process in processes) == codes, outputs
    return outputs


def kill(processes):
    """With SIGKILL, those that still live."""
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()


# What both processes do and hear of one another; the lines that they print are compared.
TALK = """
import json
import os
import jax
import numpy as np
from ncap_jax import distributed, errors

distributed.join()
number = jax.process_index()
found = {
    "distributed": distributed.is_distributed(),
    "primary": distributed.is_primary(),
    "broadcast": distributed.broadcast_json([number, "\u00e9" * 2000 * (1 - number)]),
    "gathered": distributed.gather_json([number, "x" * 3000 * number]),
}
distributed.PIECE_BYTES = 16
data = (np.arange(40) + 100 * number).astype(np.uint8)
found["bytes"] = [distributed.broadcast_bytes(part).tolist() for part in (data, data[:0])]

def outcome(function, action):
    try:
        return function(action)
    except Exception as error:
        cause = error.__cause__
        return [type(error).__name__, str(error), type(cause).__name__ if cause else ""]

def refuse():
    raise errors.WeightsError("gone " * 400, "Put it there")

def stumble():
    raise KeyError("x")

def own(failing, action=refuse):
    return lambda: action() if number == failing else "weights"

found["primary alone"] = outcome(distributed.on_primary, lambda: ["told", number])
found["primary refuses"] = outcome(distributed.on_primary, refuse)
found["primary stumbles"] = outcome(distributed.on_primary, stumble)
found["all can"] = outcome(distributed.on_every, own(None))
found["first cannot"] = outcome(distributed.on_every, own(0))
found["second cannot"] = outcome(distributed.on_every, own(1))
found["second stumbles"] = outcome(distributed.on_every, own(1, stumble))
jax.distributed.shutdown()  # waits for the other process
print(json.dumps(found), flush=True)
# Gloo's threads may abort an interpreter that ends in the ordinary way.
os._exit(0)
"""
REFUSAL = "gone " * 399 + "gone . Put it there."


@pytest.fixture(scope="module")
def heard():
    """What each of two processes found."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TALK],
            env={
                **os.environ,
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        kill(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    # Before this line Gloo may say that it is connected.
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def test_one_of_two_processes_is_the_primary_one(heard):
    assert [each["distributed"] for each in heard] == [True, True]
    assert [each["primary"] for each in heard] == [True, False]


def test_what_the_primary_process_says_all_hear(heard):
    for each in heard:
        assert each["broadcast"] == [0, "é" * 2000]
        assert each["bytes"] == [list(range(40)), []]


def test_what_each_says_all_hear_in_order(heard):
    for each in heard:
        assert each["gathered"] == [[0, ""], [1, "x" * 3000]]


def test_what_the_primary_process_fails_at_all_fail_at(heard):
    for each in heard:
        assert each["primary alone"] == ["told", 0]
        assert each["primary refuses"][:2] == ["WeightsError", REFUSAL]
        assert each["primary stumbles"][:2] == ["RuntimeError", "KeyError: 'x'"]
    # The process in which it happened shows where.
    assert [each["primary refuses"][2] for each in heard] == ["WeightsError", ""]
    assert [each["primary stumbles"][2] for each in heard] == ["KeyError", ""]


def test_what_one_process_fails_at_all_fail_at(heard):
    """A process that went on would wait for the other in its first collective operation."""
    for each in heard:
        assert each["all can"] == "weights"
        assert each["first cannot"][:2] == ["WeightsError", REFUSAL]
        assert each["second cannot"][:2] == ["WeightsError", REFUSAL]
        assert each["second stumbles"][:2] == ["RuntimeError", "KeyError: 'x'"]
    assert [each["second cannot"][2] for each in heard] == ["", "WeightsError"]


def test_one_process_alone_calls_plainly():
    def fail():
        raise KeyError("as it is")

    assert not distributed.is_distributed()
    assert distributed.is_primary()
    for function in (distributed.on_primary, distributed.on_every):
        assert function(lambda: 3) == 3
        with pytest.raises(KeyError, match="as it is"):
            function(fail)
    assert distributed.on_primary(lambda: None) is None
    assert distributed.broadcast_json({"a": (1,)}) == {"a": (1,)}
    assert distributed.gather_json([1]) == [[1]]
    data = np.arange(3, dtype=np.uint8)
    assert distributed.broadcast_bytes(data) is data


def test_a_broken_connection_is_an_error_of_ours():
    with pytest.raises(errors.ProcessError) as error, distributed._named_failure():
        raise ValueError("Gloo all-reduce failed: Connection reset by peer\nmore")
    assert error.value.cause == (
        "another process of this run is gone: Gloo all-reduce failed: Connection reset by peer"
    )
    assert error.value.remedy == peers.REMEDY


def test_a_failure_in_this_process_alone_is_an_error_of_ours(monkeypatch):
    class Watch:
        def failed(self, kind, what):
            raise peers.FailedAloneError(f"{kind} of {what}")

    distributed.failed("ValueError", "a")  # the only process
    monkeypatch.setattr(distributed, "_watch", Watch())
    with pytest.raises(errors.ProcessError) as error:
        distributed.failed("ValueError", "a")
    assert (error.value.cause, error.value.remedy) == ("ValueError of a", peers.REMEDY)


@pytest.mark.parametrize("variables", [{"JAX_NUM_PROCESSES": "two"}, {}])
def test_a_process_that_nobody_told_of_the_others_says_so(monkeypatch, variables):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def initialize(**arguments):
        assert arguments == {"num_processes": None, "process_id": None}
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(errors.ConfigError) as error:
        distributed.join()
    assert error.value.cause.startswith("this process cannot join the others: ")
    reason = "invalid literal for int()" if variables else "coordinator_address"
    assert reason in error.value.cause
    assert error.value.remedy == (
        "Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each of them"
    )


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    one = ncap(f"--output_dir={tmp_path / 'one'}", *PLAIN_STEPS)
    assert one.wait(TIMEOUT) == 0
    outputs = together(tmp_path / "two", *PLAIN_STEPS)
    assert "Fine-tune tiny_depthwise" in outputs[0][0]
    assert "Fine-tune" not in outputs[1][0]  # only the primary process reports
    found, expected = (
        trajectory_files.read(tmp_path / run / trajectory_files.FOLDER / "tiny_depthwise.jsonl")
        for run in ("two", "one")
    )
    assert [r.epoch for r in found] == [0, 1]
    for name in ("train_loss", "validation_loss"):
        values = [[getattr(r, name) for r in run] for run in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4)
    ranking = json.loads((tmp_path / "two" / "ranking.json").read_text())
    assert [m["status"] for m in ranking["models"]] == ["ok"]
    # Run again: the primary process knows that nothing is left to do, and the other hears of it.
    before = (tmp_path / "two" / "ledger.jsonl").read_bytes()
    together(tmp_path / "two", *PLAIN_STEPS)
    assert (tmp_path / "two" / "ledger.jsonl").read_bytes() == before


def epochs_kept(folder):
    """Epochs of the killed model that have a whole checkpoint."""
    checkpoints = folder / "checkpoints" / KILLED
    return [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]


def lines_of(folder, model):
    return (folder / trajectory_files.FOLDER / f"{model}.jsonl").read_text().splitlines()


def timeless(folder):
    """What must be equal of two runs: records and ranking without times."""
    trajectories = {
        model: [
            dataclasses.replace(record, seconds=0.0, measure_seconds=0.0)
            for record in trajectory_files.read(folder / trajectory_files.FOLDER / f"{model}.jsonl")
        ]
        for model in (FIRST, KILLED)
    }
    rows = json.loads((folder / "ranking.json").read_text())["models"]
    return trajectories, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    together(folder, *LONG)
    return timeless(folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed in the middle of its second model."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    processes = start(folder, *LONG)
    try:
        end = time.monotonic() + TIMEOUT
        while max(epochs_kept(folder), default=0) < 1:
            assert time.monotonic() < end, "no checkpoint in time"
            assert [process.poll() for process in processes] == [None, None]
            time.sleep(0.005)
    finally:
        kill(processes)
    assert [process.returncode for process in processes] == [-9, -9]
    ended = [entry.model for entry in ledger.read(folder)]
    assert ended == [FIRST], "killed too late"
    return folder


def again(killed, folder):
    """A copy of the killed run's folder, and the epoch of its checkpoint."""
    shutil.copytree(killed, folder)
    epoch = max(epochs_kept(folder))
    assert 1 <= epoch < 12
    return epoch


@pytest.mark.slow
def test_killed_processes_resume_after_the_last_epoch(whole, killed, tmp_path):
    folder = tmp_path / "run"
    epoch = again(killed, folder)
    finished, kept = lines_of(folder, FIRST), lines_of(folder, KILLED)[: epoch + 1]
    (_, log), _ = together(folder, *LONG)
    assert timeless(folder) == whole
    # No two runs measure the same times: these lines were not written again.
    assert lines_of(folder, FIRST) == finished
    assert lines_of(folder, KILLED)[: epoch + 1] == kept
    assert f"{KILLED}: epoch {epoch}/12" not in log
    assert f"{KILLED}: epoch {epoch + 1}/12" in log
    assert [json.loads(line)["epoch"] for line in lines_of(folder, KILLED)] == [*range(13)]
    assert [entry.model for entry in ledger.read(folder)] == [FIRST, KILLED]
    assert not epochs_kept(folder)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_the_same_to_both(whole, killed, tmp_path):
    folder = tmp_path / "run"
    again(killed, folder)
    for file in (folder / "checkpoints" / KILLED).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    outputs = together(folder, *LONG)
    for _, log in outputs:
        assert f"{KILLED} starts again" in log
    assert f"{KILLED}: epoch 0/12" in outputs[0][1]
    assert timeless(folder) == whole


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_by_both(killed):
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    for _, log in together(killed, codes=(2, 2)):
        assert "holds another run" in log
    assert before == {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_command_line_tells_a_process_that_cannot_join():
    alone = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    alone["JAX_NUM_PROCESSES"] = "two"
    result = subprocess.run(
        [sys.executable, "-m", "ncap_jax", "--distributed"],
        env=alone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "this process cannot join the others" in result.stderr
    assert "JAX_COORDINATOR_ADDRESS" in result.stderr
