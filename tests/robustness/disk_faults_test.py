"""Disks that are full, read-only or damaged, and clocks that run backwards: said, nothing lost."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
import warnings

import pytest

from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from tests.support import toy_runs
from tests.support.toy_runs import rank, timeless


@pytest.fixture(scope="module")
def whole():
    """The run that nothing interrupts."""
    return timeless(rank())


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
def test_a_full_disk(whole, disk, left):
    ballast = fill(disk, left)
    with pytest.raises(errors.OutputError) as error:
        rank(disk / "run")
    assert error.value.cause.startswith("cannot write")
    assert "No space left on device" in error.value.cause
    assert error.value.remedy
    ballast.unlink()
    assert timeless(rank(disk / "run")) == whole


def test_a_disk_that_became_read_only(whole, disk):
    toy_runs.interrupted(disk / "run", 2, "save")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(errors.OutputError) as error:
        rank(disk / "run")
    assert error.value.cause == f"cannot write to {disk / 'run'}: Read-only file system"
    assert error.value.remedy == "Choose a folder that you may write to"
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert timeless(rank(disk / "run")) == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.OutputError) as error:
        rank(tmp_path / "run")
    assert error.value.cause == f"cannot write to {tmp_path / 'run'}: Permission denied"


def interrupted(folder):
    """The files of a run's checkpoints that stopped after two of its first model."""
    toy_runs.interrupted(folder, 2, "save")
    return sorted(p for p in (folder / "checkpoints").rglob("*") if p.is_file())


def damage(file):
    """Change a byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def test_a_changed_byte_of_the_arrays_is_noticed(whole, tmp_path):
    files = interrupted(tmp_path)
    (arrays,) = (f for f in files if f.parent.parts[-2:] == ("default", "d"))
    damage(arrays)
    with pytest.warns(UserWarning, match="toy_1 starts again: the checkpoint"):
        resumed = rank(tmp_path)
    assert timeless(resumed) == whole


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "truncated", "removed"])
def test_damage_to_any_file_of_a_checkpoint(whole, tmp_path, how):
    """Noticed, or without consequence: never another result."""
    for number in itertools.count():
        folder = tmp_path / str(number)
        files = [f for f in interrupted(folder) if f.stat().st_size]
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
            assert timeless(rank(folder)) == whole, files[number]


def test_a_truncated_ledger_and_a_damaged_trajectory(whole, tmp_path):
    rank(tmp_path)
    ledger = tmp_path / "ledger.jsonl"
    first, second = ledger.read_bytes().splitlines(keepends=True)
    assert json.loads(first)["model"] == "toy_1"
    ledger.write_bytes(first[:30] + b"\xff\n" + second)
    trajectory = tmp_path / trajectory_files.FOLDER / "toy_2.jsonl"
    trajectory.write_text(trajectory.read_text()[:-20])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        resumed = rank(tmp_path)
    said = "\n".join(str(warning.message) for warning in caught)
    assert "ledger.jsonl, line 1 is damaged and left out" in said
    assert "toy_2.jsonl is damaged: toy_2 trains again what is missing" in said
    assert timeless(resumed) == whole


def test_a_clock_that_runs_backwards(whole, tmp_path, monkeypatch):
    """Wall time falls by an hour at every look; durations are taken from a monotonic clock."""
    now = time.time()
    hours = itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    toy_runs.interrupted(tmp_path, 2, "save")
    resumed = rank(tmp_path)
    assert timeless(resumed) == whole
    assert all(row.seconds > 0 for row in resumed.models)
    assert all(r.seconds > 0 for t in resumed.trajectories for r in t.records)
