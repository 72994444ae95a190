"""Two processes of `jax.distributed`, two devices each, fine-tune one model together."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from ncap_jax import errors
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


def together(folder):
    """Exit codes and outputs of two processes that run as one."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        ncap(
            "--mesh=data:4",
            "--distributed",
            f"--output_dir={folder}",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
        )
        for number in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    one = ncap(f"--output_dir={tmp_path / 'one'}")
    assert one.wait() == 0
    outputs = together(tmp_path / "two")
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
    together(tmp_path / "two")
    assert (tmp_path / "two" / "ledger.jsonl").read_bytes() == before


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
