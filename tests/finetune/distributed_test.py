"""Two processes of `jax.distributed`, two devices each, fine-tune one model together.

They are killed in the middle of a model, and must go on as if nothing had been. A process that
waits for the other for ever is killed by a timeout, and fails the test.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ncap_jax import errors, ledger
from ncap_jax.finetune import parallel, records
from tests.small import small_config

ARGUMENTS = [
    "--models=tiny_depthwise",
    "--epochs=1",
    "--max_train=64",
    "--max_validation=64",
    "--probe_widths=16,12,8",
    "--batch_size=16",
]
TIMEOUT = 280  # seconds; a run takes some 30 on one core
# So many epochs that the run is killed before the last, each of which takes longer than the pause
# between two looks at the folder.
LONG = ["--models=tiny_plain_wide,tiny_plain", "--epochs=12"]
FIRST, KILLED = "tiny_plain_wide", "tiny_plain"
# Adam's first steps have the same size for the smallest gradient, of whatever sign rounding gives.
PLAIN_STEPS = ["--optimizer=sgd", "--learning_rate=0.001", "--trial_rates=0.01"]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


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


ALL_DO = """
import jax
from ncap_jax import errors
from ncap_jax.finetune import parallel

parallel.join()

def read():
    if jax.process_index() == 1:
        raise errors.WeightsError("gone " * 400, "Put it there")
    return "weights"

try:
    parallel.all_do(read)
except errors.WeightsError as error:
    print(len(error.cause), error.remedy)
print(parallel.gather(jax.process_index()))
"""


def test_what_one_process_fails_at_all_fail_at():
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ALL_DO],
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
    for output, complaint in outputs:
        # Before these, Gloo may say that it is connected.
        assert output.splitlines()[-2:] == ["2000 Put it there", "[0, 1]"], complaint


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    one = ncap(f"--output_dir={tmp_path / 'one'}", *PLAIN_STEPS)
    assert one.wait(TIMEOUT) == 0
    outputs = together(tmp_path / "two", *PLAIN_STEPS)
    assert "Fine-tune tiny_depthwise" in outputs[0][0]
    assert "Fine-tune" not in outputs[1][0]  # the first alone reports
    found, expected = (
        records.read(tmp_path / run / records.FOLDER / "tiny_depthwise.jsonl")
        for run in ("two", "one")
    )
    assert [r.epoch for r in found] == [0, 1]
    for name in ("train_loss", "validation_loss"):
        values = [[getattr(r, name) for r in run] for run in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4)
    ranking = json.loads((tmp_path / "two" / "ranking.json").read_text())
    assert [m["status"] for m in ranking["models"]] == ["ok"]
    # Taken up again: the first knows that nothing is left to do, and the second hears of it.
    before = (tmp_path / "two" / "ledger.jsonl").read_bytes()
    together(tmp_path / "two", *PLAIN_STEPS)
    assert (tmp_path / "two" / "ledger.jsonl").read_bytes() == before


def epochs_kept(folder):
    """Epochs of the killed model that have a whole checkpoint."""
    checkpoints = folder / "checkpoints" / KILLED
    return [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]


def lines_of(folder, model):
    return (folder / records.FOLDER / f"{model}.jsonl").read_text().splitlines()


def timeless(folder):
    """What must be equal of two runs: records and ranking without times."""
    trajectories = {
        model: [
            dataclasses.replace(record, seconds=0.0, measure_seconds=0.0)
            for record in records.read(folder / records.FOLDER / f"{model}.jsonl")
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
def test_killed_processes_go_on_from_the_last_epoch(whole, killed, tmp_path):
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


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, "several processes, but no mesh"),
        ({"mesh": "data:1", "time_budget": 5.0}, "time_budget=5.0 with several processes"),
        ({"mesh": "data:1", "strategy": "halving"}, "strategy='halving' with several"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(monkeypatch, changes, match):
    monkeypatch.setattr(parallel, "several", lambda: True)
    with pytest.raises(errors.ConfigError, match=match):
        parallel.check(dataclasses.replace(small_config(), **changes))


@pytest.mark.slow
def test_a_process_that_nobody_told_of_the_others_says_so():
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
