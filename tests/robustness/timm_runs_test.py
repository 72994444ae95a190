"""timm's models in runs that are killed, in processes and on Ray give what one process gives."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import ncap_jax as ncap
from ncap_jax.finetune import trajectory_files
from tests.support import killing
from tests.support.command_line import environment, in_process
from tests.support.torch_nets import needs_timm

pytestmark = [needs_timm, pytest.mark.slow, pytest.mark.timeout(3600)]

# timm's own small networks for tests: one with batch norm, one transformer, one ConvNeXt.
THREE = ("timm:test_resnet", "timm:test_vit", "timm:test_convnext")
CONFIG = ncap.RankConfig(
    epochs=2, input_size=32, weights="random", learning_rate=1e-3, trial_rates=()
)
FEW = ncap.DataConfig(max_train=64, max_validation=64)


def rank(
    folder: pathlib.Path | None, config: ncap.RankConfig = CONFIG, models: Any = THREE
) -> ncap.Ranking:
    return ncap.rank_models(
        list(models), "digits", config, folder, data_config=FEW, show_progress=False
    )


def numbers(ranking: ncap.Ranking) -> list[Any]:
    """All that a ranking holds but times."""
    rows: list[Any] = [
        (t.model, [without_times(trajectory_files.to_json(r)) for r in t.records])
        for t in ranking.trajectories
    ]
    return rows + [(row.name, row.rank, row.status) for row in ranking.models]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith("seconds")}


@pytest.fixture(scope="module")
def whole() -> ncap.Ranking:
    """A run that nothing disturbs, in this process."""
    return rank(None)


def test_two_processes_of_which_one_is_killed_give_what_one_process_gives(
    whole: ncap.Ranking,
    tmp_path: pathlib.Path,
) -> None:
    killed: list[int] = []
    killer = threading.Thread(
        target=killing.kill_a_worker, args=(tmp_path, "test_vit.r160_in1k", 2, killed)
    )
    killer.start()
    found = rank(tmp_path, dataclasses.replace(CONFIG, executor="processes", workers=2))
    killer.join()
    assert killed == [2]
    assert numbers(found) == numbers(whole)


def test_ray_gives_what_one_process_gives(whole: ncap.Ranking, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    config = dataclasses.replace(CONFIG, executor="ray", workers=1)
    assert numbers(rank(tmp_path, config)) == numbers(whole)


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
