"""What a run's folder knows of its models, and what a ranking with other options takes of it.

A folder keeps every epoch that was ever recorded in it. What a call ranks follows from its options
alone: an epoch beyond them is left out, and so is a beta_eff that a fresh run would not have
measured. So a run that has grown comes to the ranking of a fresh run with the same options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ncap_jax.finetune import outcome
from ncap_jax.options import Recipe
from ncap_jax.types import EpochRecord, Trajectory


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Epochs of one model that need not be trained again.

    Attributes:
        model: its name.
        records: from epoch 0 on.
        state: the epoch of the state that was kept; None: none was.
        seconds: what the records took, compilation included where that is known.
        note: what the model's message begins with.
    """

    model: str
    records: tuple[EpochRecord, ...]
    state: int | None = None
    seconds: float = 0.0
    note: str = ""

    def reaches(self, epoch: int) -> bool:
        """Whether the model is known up to an epoch, or has diverged before it."""
        return len(self.records) > epoch or not outcome.is_finite(self.records[-1])

    def until(self, epoch: int, recipe: Recipe) -> Trajectory:
        """What a run up to an epoch that pauses there has of the model."""
        records = self.records[: epoch + 1]
        whole = len(records) == len(self.records)
        seconds = self.seconds if whole else sum(record.seconds for record in records)
        status, message = outcome.end(records, recipe)
        message = "; ".join(filter(None, (self.note, message)))
        return Trajectory(self.model, recipe.head, records, status, message, seconds)


def as_measured(trajectory: Trajectory, measured: Collection[int] | None) -> Trajectory:
    """A trajectory with beta_eff after these epochs alone; None: as it is."""
    if measured is None or all(r.epoch in measured or not r.beta_eff for r in trajectory.records):
        return trajectory
    records = tuple(
        record
        if record.epoch in measured
        else dataclasses.replace(record, beta_eff={}, beta_eff_status={}, measure_seconds=0.0)
        for record in trajectory.records
    )
    return dataclasses.replace(trajectory, records=records)
