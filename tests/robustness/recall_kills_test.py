"""A run with a recall that is killed again and again comes to the result of one that is not."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.command_line import ROOT, environment
from tests.support.recall_runs import BROKEN, SOUND

TIMES = re.compile(r'"(seconds|measure_seconds)": [-+.e\d]+')


def start(folder: pathlib.Path) -> subprocess.Popen:
    """The run in a process of its own, with a cache of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.recall_runs", str(folder)],
        cwd=ROOT,
        env={**environment(), "NCAP_CACHE": str(folder / "cache"), "NCAP_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
    )


def killed_once(folder: pathlib.Path, reached: Callable[[], bool]) -> None:
    """SIGKILL the run as soon as it has reached something."""
    process = start(folder)
    while not reached():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_while_scoring_after_the_decision_and_in_training(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0

    def scores() -> int:
        return len(list((folder / "cache" / "recall").glob("*.json")))

    def epochs() -> int:
        files = (folder / "run" / "trajectories").glob("*.jsonl")
        return sum(file.read_text().count("\n") for file in files)

    killed_once(folder, lambda: scores() >= 1)
    killed_once(folder, lambda: scores() >= 3)
    killed_once(folder, lambda: (folder / "run" / "recall.json").exists())
    decided = (folder / "run" / "recall.json").read_bytes()
    killed_once(folder, lambda: epochs() >= 1)
    killed_once(folder, lambda: epochs() >= 4)
    seen = {file: os.stat(file).st_mtime_ns for file in (folder / "cache" / "recall").iterdir()}
    assert start(folder).wait() == 0
    # Nothing is decided or scored a second time.
    assert (folder / "run" / "recall.json").read_bytes() == decided
    assert seen == {f: os.stat(f).st_mtime_ns for f in (folder / "cache" / "recall").iterdir()}
    assert len(seen) == len(SOUND)
    texts = [(place / "run" / "ranking.json").read_text() for place in (whole, folder)]
    first, second = (TIMES.sub("", text).replace(str(whole), str(folder)) for text in texts)
    assert first == second
    failed = [each for each in json.loads(texts[1])["left_out"] if each["step"] == "failed"]
    assert [each["name"] for each in failed] == list(BROKEN)
