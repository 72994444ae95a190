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
from tests.support.recall_runs import SOUND, broken

TIMES = re.compile(r'"(seconds|measure_seconds)": [-+.e\d]+')


def start(folder: pathlib.Path, toys: int, torn: int) -> subprocess.Popen:
    """The run in a process of its own, with a cache of its own."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.recall_runs", str(folder), str(toys), str(torn)],
        cwd=ROOT,
        env={**environment(), "NCAP_CACHE": str(folder / "cache"), "NCAP_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
    )


def killed_once(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    """SIGKILL the run as soon as it has reached something."""
    while not reached():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("toys", "torn"), [(0, 2), (85, 10)], ids=["7 candidates", "100"])
def test_killed_while_scoring_after_the_decision_and_in_training(tmp_path, toys, torn):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, toys, torn).wait() == 0
    sound = len(SOUND) + toys

    def scores() -> list[pathlib.Path]:
        """Of weights with a digest in the cache, of the others in the run's folder."""
        places = folder / "cache" / "recall", folder / "run" / "recall"
        return [file for place in places for file in place.glob("*.json")]

    def epochs() -> int:
        files = (folder / "run" / "trajectories").glob("*.jsonl")
        return sum(file.read_text().count("\n") for file in files)

    decision = folder / "run" / "recall.json"
    for reached in (lambda: len(scores()) >= 1, lambda: len(scores()) >= sound // 2 + 1):
        killed_once(start(folder, toys, torn), reached)
    killed_once(start(folder, toys, torn), decision.exists)
    decided = decision.read_bytes()
    for number in (1, 5):
        killed_once(start(folder, toys, torn), lambda number=number: epochs() >= number)
    seen = {file: os.stat(file).st_mtime_ns for file in scores()}
    assert start(folder, toys, torn).wait() == 0
    # Nothing is decided or scored a second time.
    assert decision.read_bytes() == decided
    assert seen == {file: os.stat(file).st_mtime_ns for file in scores()}
    assert len(seen) == sound
    texts = [(place / "run" / "ranking.json").read_text() for place in (whole, folder)]
    first, second = (TIMES.sub("", text).replace(str(whole), str(folder)) for text in texts)
    assert first == second
    failed = [each for each in json.loads(texts[1])["left_out"] if each["step"] == "failed"]
    assert [each["name"] for each in failed] == broken(torn)
