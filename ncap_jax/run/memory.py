"""Too little memory for a candidate: one more attempt, with the batch in two halves.

The halves' gradients are accumulated, so that the effective batch, and with it the update, stays
what it was (`finetune.steps.accumulated`); evaluation takes half as many samples at a time. Batch
norm then sees halves: its statistics are those of micro-batches, which the message says.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

from ncap_jax import errors
from ncap_jax.options import RankConfig
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.types import Trajectory

# Half of less would be a single sample, which has no batch statistics.
SMALLEST_BATCH = 4
# How the note begins that an error of the second attempt carries.
SECOND = "This was the second attempt: "


def with_retry(
    attempt: Callable[[int], Trajectory], model: str, config: RankConfig, files: ModelFiles | None
) -> Trajectory:
    """A candidate's trajectory; from its start at half the batch if memory runs out.

    The folder's ledger remembers the halving: a run that is killed resumes at half the batch.

    Args:
        attempt: fine-tunes with each batch taken in this many parts.
        model: the candidate's name.
        config: of the run.
        files: of the run's models, or None.

    Raises:
        Exception: whatever `attempt` raises, running out of memory a second time too.
    """
    note = files.halving_note(model) if files is not None else ""
    if not note:
        try:
            return attempt(1)
        except Exception as error:
            if not errors.is_out_of_memory(error) or config.batch_size < SMALLEST_BATCH:
                raise
        # Out here the exception is gone, and with its traceback the first attempt's arrays.
        gc.collect()
        note = (
            f"out of memory with batches of {config.batch_size}: each batch is taken in two "
            "halves, with accumulated gradients (batch norm sees the halves)"
        )
        if files is not None:
            files.halve_batch(model, note)
    try:
        trajectory = attempt(2)
    except Exception as error:
        error.add_note(f"{SECOND}{note}")
        raise
    message = "; ".join(filter(None, (note, trajectory.message)))
    return dataclasses.replace(trajectory, message=message)
