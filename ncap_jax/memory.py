"""Memory that does not suffice for a candidate: one more attempt, with the batch in two halves.

The halves' gradients are accumulated, so that the effective batch, and with it the update, stays
what it was (`finetune.steps.accumulated`); evaluation takes half as many samples at a time. Batch
norm then sees halves: its statistics are those of micro-batches, which the message says.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

from ncap_jax import errors
from ncap_jax.run_folder import RunFolder
from ncap_jax.types import RankConfig, Trajectory

# What XLA says when the device's memory does not suffice.
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
# Half of less would be a single sample, which has no batch statistics.
SMALLEST_BATCH = 4


def exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory, the device's or the machine's, did not suffice."""
    if isinstance(error, errors.NcapError):
        return False
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in OUT_OF_MEMORY)


def with_retry(
    attempt: Callable[[int], Trajectory], model: str, config: RankConfig, folder: RunFolder | None
) -> Trajectory:
    """A candidate's trajectory; from its start at half the batch if memory does not suffice.

    The folder's ledger remembers the halving: a run that is killed goes on at half the batch.

    Args:
        attempt: fine-tunes with each batch taken in so many parts.
        model: the candidate's name.
        config: of the run.
        folder: of the run, or None.

    Raises:
        Exception: whatever `attempt` raises, a second lack of memory too.
    """
    note = folder.halved(model) if folder is not None else ""
    if not note:
        try:
            return attempt(1)
        except Exception as error:
            if not exhausted(error) or config.batch_size < SMALLEST_BATCH:
                raise
        # Out here the exception is gone, and with its traceback the first attempt's arrays.
        gc.collect()
        note = (
            f"out of memory with batches of {config.batch_size}: taken in two halves with "
            "accumulated gradients (batch norm sees the halves)"
        )
        if folder is not None:
            folder.halve(model, note)
    try:
        trajectory = attempt(2)
    except Exception as error:
        error.add_note(f"This was the second attempt: {note}")
        raise
    message = "; ".join(filter(None, (note, trajectory.message)))
    return dataclasses.replace(trajectory, message=message)
