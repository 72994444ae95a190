"""timm's models in runs of every kind give what an undisturbed run in one process gives.

Killed and resumed, halved, in processes of which one is killed, on Ray, on a mesh.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import ncap_jax as ncap
from ncap_jax.finetune import trajectory_files
from tests.support import killing
from tests.support.command_line import environment, in_process
from tests.support.timm_runs import CONFIG, SGD, THREE, numbers, rank, records, without_times
from tests.support.torch_nets import needs_timm

pytestmark = [needs_timm, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def whole() -> ncap.Ranking:
    """A run that nothing disturbs, in this process."""
    return rank(None)


@pytest.fixture(scope="module")
def halved() -> ncap.Ranking:
    """Likewise, but the model of the highest loss is stopped after the first epoch."""
    with pytest.MonkeyPatch.context() as patch:
        killing.the_worst_has_no_chance(patch)
        return rank(None, dataclasses.replace(CONFIG, strategy="halving"))


def test_halving_stops_one_and_changes_no_number_of_the_others(
    whole: ncap.Ranking, halved: ncap.Ranking
) -> None:
    full, found = records(whole), records(halved)
    worst = max(full, key=lambda model: full[model][1]["validation_loss"])
    assert {model: len(epochs) for model, epochs in found.items()} == {
        model: 2 if model == worst else 3 for model in full
    }
    assert all(full[model][: len(epochs)] == epochs for model, epochs in found.items())
    assert {row.name: row.status for row in halved.models}[worst] == "stopped"


@pytest.mark.parametrize("strategy", ["full", "halving"])
def test_two_processes_of_which_one_is_killed_give_what_one_process_gives(
    strategy: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    killing.the_worst_has_no_chance(monkeypatch)
    killed: list[int] = []
    killer = threading.Thread(
        target=killing.kill_a_worker, args=(tmp_path, "test_vit.r160_in1k", 2, killed)
    )
    killer.start()
    config = dataclasses.replace(CONFIG, executor="processes", workers=2, strategy=strategy)
    found = rank(tmp_path, config)
    killer.join()
    assert killed == [2]
    expected = request.getfixturevalue("whole" if strategy == "full" else "halved")
    assert numbers(found) == numbers(expected)


def test_ray_gives_what_one_process_gives(whole: ncap.Ranking, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    config = dataclasses.replace(CONFIG, executor="ray", workers=1)
    assert numbers(rank(tmp_path, config)) == numbers(whole)


ON_A_MESH = """
import dataclasses, json, pathlib, sys
import jax
from tests.support import timm_runs

config = dataclasses.replace(timm_runs.SGD, mesh="data:8")
found = timm_runs.records(timm_runs.rank(pathlib.Path(sys.argv[1]), config))
print(json.dumps({"devices": len(jax.devices()), "records": found}))
"""


def test_a_mesh_of_eight_devices_gives_what_one_gives(tmp_path: pathlib.Path) -> None:
    """But for sums in another order."""
    result = subprocess.run(
        [sys.executable, "-c", ON_A_MESH, str(tmp_path / "run")],
        env={**environment(), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["devices"] == 8
    one = records(rank(None, SGD))
    assert found["records"].keys() == one.keys()
    for model, epochs in one.items():
        for name in ("train_loss", "validation_loss"):
            losses, expected = (
                [epoch[name] for epoch in each] for each in (found["records"][model], epochs)
            )
            assert abs(losses[-1] / losses[0] - 1) > 1e-3, "it was trained"
            np.testing.assert_allclose(losses, expected, rtol=1e-4, err_msg=f"{model}: {name}")


def test_a_run_that_is_killed_resumes_to_the_same(tmp_path: pathlib.Path) -> None:
    flags = [
        f"--models={','.join(THREE[:2])}",
        *("--dataset=digits", "--epochs=2", "--input_size=32", "--weights=random"),
        *("--max_train=64", "--max_validation=64"),
    ]
    second = "test_vit.r160_in1k"
    killed_at(tmp_path / "killed", flags, second, lines=2)
    for name in ("killed", "whole"):
        said = in_process(*flags, f"--output_dir={tmp_path / name}", cwd=tmp_path)
        assert said.code == 0, said.err
    for model in ("test_resnet.r160_in1k", second):
        one, other = (
            [
                without_times(json.loads(line))
                for line in (tmp_path / name / "trajectories" / f"{model}.jsonl")
                .read_text(encoding="utf-8")
                .splitlines()
            ]
            for name in ("killed", "whole")
        )
        assert one == other


def killed_at(folder: pathlib.Path, flags: list[str], model: str, lines: int) -> None:
    """Start a run and kill it by SIGKILL once a model has this many epochs in its file."""
    trajectory = folder / trajectory_files.FOLDER / f"{model}.jsonl"
    log = folder.parent / "killed.log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", "ncap_jax", *flags, f"--output_dir={folder}"],
            cwd=folder.parent,
            env=environment(),
            stdout=file,
            stderr=file,
        ) as process,
    ):
        while not (trajectory.exists() and trajectory.read_text().count("\n") >= lines):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "ranking.json").exists()
