"""Too little memory: recognised, tried once more with halves, remembered."""

from __future__ import annotations

import pytest

from ncap_jax.run import ledger, memory
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.types import EpochRecord, Trajectory
from tests.support.small import small_config
from tests.support.toy_runs import exhausted

CONFIG = small_config(batch_size=32)
NOTE = (
    "out of memory with batches of 32: each batch is taken in two halves, with accumulated "
    "gradients (batch norm sees the halves)"
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trajectories").mkdir()
    return ModelFiles(tmp_path)


class Attempt:
    """Fails in these attempts, and keeps with how many parts each batch was taken."""

    def __init__(self, *failures, message=""):
        self.failures, self.message = list(failures), message
        self.parts: list[int] = []

    def __call__(self, micro_batches):
        self.parts.append(micro_batches)
        if len(self.parts) <= len(self.failures):
            raise self.failures[len(self.parts) - 1]
        return Trajectory("a", "probe", (), message=self.message)


def test_enough_memory_changes_nothing(files):
    attempt = Attempt(message="fine")
    assert memory.with_retry(attempt, "a", CONFIG, files).message == "fine"
    assert attempt.parts == [1]
    assert ledger.read(files.path) == []


def test_half_the_batch_follows_and_is_noted(files):
    files.append("a", EpochRecord(0, 1.0, 0.5, 1.0, 0.5))
    attempt = Attempt(exhausted(), message="diverged")
    assert memory.with_retry(attempt, "a", CONFIG, files).message == f"{NOTE}; diverged"
    assert attempt.parts == [1, 2]
    assert not files.trajectory("a").exists()  # it started afresh
    assert files.halving_note("a") == NOTE
    assert files.halving_note("b") == ""


def test_a_run_that_resumes_stays_at_half_the_batch(files):
    memory.with_retry(Attempt(exhausted()), "a", CONFIG, files)
    attempt = Attempt()
    assert memory.with_retry(attempt, "a", CONFIG, files).message == NOTE
    assert attempt.parts == [2]


def test_without_files_it_is_tried_again_too():
    assert memory.with_retry(Attempt(MemoryError()), "a", CONFIG, None).message == NOTE


def test_a_second_lack_of_memory_says_that_it_is_the_second():
    error = MemoryError()
    with pytest.raises(MemoryError) as caught:
        memory.with_retry(Attempt(MemoryError(), error), "a", CONFIG, None)
    assert caught.value is error
    assert error.__notes__ == [f"This was the second attempt: {NOTE}"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_half_of_a_tiny_batch(batch_size):
    attempt = Attempt(MemoryError())
    with pytest.raises(MemoryError):
        memory.with_retry(attempt, "a", small_config(batch_size=batch_size), None)
    assert attempt.parts == [1]


def test_other_errors_are_not_tried_again():
    attempt = Attempt(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        memory.with_retry(attempt, "a", CONFIG, None)
    assert attempt.parts == [1]
