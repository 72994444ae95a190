"""Disks that are full, read-only or damaged, and clocks that run backwards: said, nothing lost."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
import warnings

import pytest

import ncap_jax as ncap
from ncap_jax import errors
from ncap_jax.finetune import records
from tests.run_folder_test import (  # noqa: F401  (fixtures)
    CONFIG,
    POOL,
    Stop,
    digits,
    interrupt_after,
    timeless,
    whole,
)


def run(data, folder):
    return ncap.rank_models(POOL, data, CONFIG, folder, show_progress=False)


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system can be mounted by root alone: {error}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk, left):
    """Leave `left` bytes free; returns the file that takes the rest."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(free - left))
    return ballast


# Room for nothing; for run.json and little more; for the models, but hardly for the report.
@pytest.mark.parametrize("left", [0, 32 << 10, pytest.param(96 << 10, marks=pytest.mark.slow)])
def test_a_full_disk(digits, whole, disk, left):  # noqa: F811
    ballast = fill(disk, left)
    with pytest.raises(errors.OutputError, match="No space left on device"):
        run(digits, disk / "run")
    ballast.unlink()
    assert timeless(run(digits, disk / "run")) == whole


def test_a_disk_that_became_read_only(digits, whole, disk, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, "save")
        with pytest.raises(Stop):
            run(digits, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(errors.OutputError, match=r"cannot write to .*Read-only file system"):
        run(digits, disk / "run")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert timeless(run(digits, disk / "run")) == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(digits, tmp_path):  # noqa: F811
    tmp_path.chmod(0o500)
    with pytest.raises(errors.OutputError, match=r"cannot write to .*Permission denied"):
        run(digits, tmp_path / "run")


def interrupted(data, folder, monkeypatch):
    """A run that stopped after two checkpoints of its first model."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, "save")
        with pytest.raises(Stop):
            run(data, folder)
    return sorted(p for p in (folder / "checkpoints").rglob("*") if p.is_file())


def damage(file):
    """Change a byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def test_a_changed_byte_of_the_arrays_is_noticed(digits, whole, tmp_path, monkeypatch):  # noqa: F811
    files = interrupted(digits, tmp_path, monkeypatch)
    (arrays,) = (f for f in files if f.parent.parts[-2:] == ("default", "d"))
    damage(arrays)
    with pytest.warns(UserWarning, match="small_4 starts again: the checkpoint"):
        resumed = run(digits, tmp_path)
    assert timeless(resumed) == whole


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_damage_to_any_file_of_a_checkpoint(digits, whole, tmp_path, monkeypatch, how):  # noqa: F811
    """Noticed, or without consequence: never another result."""
    for number in itertools.count():
        folder = tmp_path / str(number)
        files = [f for f in interrupted(digits, folder, monkeypatch) if f.stat().st_size]
        if number == len(files):
            break
        if how == "changed":
            damage(files[number])
        elif how == "truncated":
            files[number].write_bytes(files[number].read_bytes()[:-1])
        else:
            files[number].unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert timeless(run(digits, folder)) == whole, files[number]


def test_a_truncated_ledger_and_a_damaged_trajectory(digits, whole, tmp_path):  # noqa: F811
    run(digits, tmp_path)
    ledger = tmp_path / "ledger.jsonl"
    first, second = ledger.read_bytes().splitlines(keepends=True)
    assert json.loads(first)["model"] == "small_4"
    ledger.write_bytes(first[:30] + b"\xff\n" + second)
    trajectory = tmp_path / records.FOLDER / "small_8.jsonl"
    trajectory.write_text(trajectory.read_text()[:-20])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        resumed = run(digits, tmp_path)
    said = "\n".join(str(warning.message) for warning in caught)
    assert "ledger.jsonl, line 1 is damaged and left out" in said
    assert "small_8.jsonl is damaged: small_8 starts again" in said
    assert timeless(resumed) == whole


def test_a_clock_that_runs_backwards(digits, whole, tmp_path, monkeypatch):  # noqa: F811
    """Wall time falls by an hour at every look; durations are taken from a monotonic clock."""
    now = time.time()
    hours = itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, "save")
        with pytest.raises(Stop):
            run(digits, tmp_path)
    resumed = run(digits, tmp_path)
    assert timeless(resumed) == whole
    assert all(row.seconds > 0 for row in resumed.models)
    assert all(r.seconds > 0 for t in resumed.trajectories for r in t.records)
