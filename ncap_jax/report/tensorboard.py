"""Live scalars for TensorBoard, by tensorboardX (no TensorFlow): the extra `tensorboard`."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
from types import TracebackType
from typing import TYPE_CHECKING

from ncap_jax import errors
from ncap_jax.predictor.validation_score import score
from ncap_jax.types import EpochRecord, Trajectory

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

# Written for every epoch, beside one scalar of beta_eff for each strength.
_FIELDS = tuple(
    f.name
    for f in dataclasses.fields(EpochRecord)
    if f.name not in ("epoch", "steps", "features", "validation_counts") and "beta" not in f.name
)


class TensorBoard:
    """Writes each epoch's numbers under `folder`, one run per model; called like `Progress`.

    If a model resumes an earlier run, its earlier epochs are where that run wrote them; if that run
    wrote none, they are added when the model finishes.

    Args:
        folder: for `tensorboard --logdir`; made when the first epoch is written.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise errors.ConfigError(
                "tensorboardX, which writes TensorBoard scalars, is not installed",
                "Run: pip install 'ncap_jax[tensorboard]'",
            ) from error
        self._make = SummaryWriter
        self._folder = pathlib.Path(folder)
        self._writers: dict[str, SummaryWriter] = {}
        self._written: dict[str, set[int] | None] = {}

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
        """Write one epoch of one model; the step is the epoch.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            self._write(model, record)
        except OSError as error:
            raise errors.OutputError(
                f"cannot write to {self._folder}: {error.strerror or error}",
                "Free space, or choose a folder that you may write to",
            ) from error

    def finished(self, trajectory: Trajectory) -> None:
        """Write the epochs that an earlier run did not write, and close the model's run."""
        written = self._epochs_written(trajectory.model)
        if written is not None:
            for record in trajectory.records:
                if record.epoch not in written:
                    self.epoch(trajectory.model, record)
        writer = self._writers.pop(trajectory.model, None)
        if writer is not None:
            writer.close()

    def _run(self, model: str) -> pathlib.Path:
        # A name such as hf://owner/model is one folder, and below `folder`.
        return self._folder / re.sub(r"[^\w.-]+", "_", model)

    def _epochs_written(self, model: str) -> set[int] | None:
        """Epochs that this process wrote; None: the model's run existed before and is extended."""
        if model not in self._written:
            before = any(self._run(model).glob("events.out.tfevents.*"))
            self._written[model] = None if before else set()
        return self._written[model]

    def _write(self, model: str, record: EpochRecord) -> None:
        written = self._epochs_written(model)
        if written is not None:
            written.add(record.epoch)
        if model not in self._writers:
            self._writers[model] = self._make(str(self._run(model)))
        writer = self._writers[model]
        for name in _FIELDS:
            value = getattr(record, name)
            if value is not None:
                writer.add_scalar(name, value, record.epoch)
        if record.validation_counts is not None:
            for metric in ("balanced_accuracy", "macro_f1"):
                value = score(record, metric)
                writer.add_scalar(f"validation_{metric}", value, record.epoch)
        for strength, values in record.beta_eff.items():
            if values:
                mean = math.fsum(values) / len(values)
                writer.add_scalar(f"beta_eff/{strength}", mean, record.epoch)
        writer.flush()
