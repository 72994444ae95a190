"""Live scalars for TensorBoard, by tensorboardX (no TensorFlow): the extra `tensorboard`."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from types import TracebackType

from ncap_jax import errors
from ncap_jax.types import EpochRecord, Trajectory

# Written for every epoch; beta_eff comes beside them, one scalar a strength.
_FIELDS = tuple(
    f.name
    for f in dataclasses.fields(EpochRecord)
    if f.name not in ("epoch",) and "beta" not in f.name
)


class TensorBoard:
    """Writes each epoch's numbers under `folder`, one run a model; driven like `Progress`.

    Args:
        folder: what `tensorboard --logdir` is pointed at.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise errors.ConfigError(
                "TensorBoard scalars need tensorboardX", "pip install 'ncap_jax[tensorboard]'"
            ) from error
        self._make = SummaryWriter
        self._folder = pathlib.Path(folder)
        self._writers: dict[str, SummaryWriter] = {}

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Write one epoch of one model; the step is the epoch."""
        if model not in self._writers:
            # A name such as hf://owner/model is one folder, and below `folder`.
            run = re.sub(r"[^\w.-]+", "_", model)
            self._writers[model] = self._make(str(self._folder / run))
        writer = self._writers[model]
        for name in _FIELDS:
            value = getattr(record, name)
            if value is not None:
                writer.add_scalar(name, value, record.epoch)
        for strength, values in record.beta_eff.items():
            if values:
                mean = math.fsum(values) / len(values)
                writer.add_scalar(f"beta_eff/{strength}", mean, record.epoch)
        writer.flush()

    def finished(self, trajectory: Trajectory) -> None:
        """Close the model's run."""
        writer = self._writers.pop(trajectory.model, None)
        if writer is not None:
            writer.close()
