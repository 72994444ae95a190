"""How long a run will still take, where starting a model costs more than its epochs."""

from __future__ import annotations

import math

from ncap_jax.types import EpochRecord


class Pace:
    """Splits the time so far into starts (compilation, first measurement) and epochs.

    A model's first epoch compiles its program and can take ten times as long as the next ones: by
    the mean over epochs, hours would seem to be left where it is minutes.
    """

    def __init__(self) -> None:
        self._fastest: dict[str, float] = {}  # seconds of each model's fastest epoch
        self._begun: set[str] = set()  # in this process
        self._trained = 0  # epochs, in this process

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Take an epoch into account; epoch 0 is measured, not trained."""
        self._begun.add(model)
        if record.epoch > 0:
            self._trained += 1
            fastest = min(self._fastest.get(model, math.inf), record.seconds)
            self._fastest[model] = fastest

    def left(self, elapsed: float, epochs_left: int, models_left: int) -> float:
        """Seconds left.

        Args:
            elapsed: seconds since the run began in this process.
            epochs_left: over all models.
            models_left: that have not begun.

        Returns:
            NaN before the first epoch, 0 when nothing is left.
        """
        if epochs_left == 0:
            return 0.0
        if not self._fastest:
            return math.nan
        steady = sum(self._fastest.values()) / len(self._fastest)
        trained = self._trained * steady
        # Epoch 0 has compiled the measurements, epoch 1 compiles the training step.
        halfway = 0.5 * len(self._begun - set(self._fastest))
        starts = len(self._fastest) + halfway
        start = max(0.0, elapsed - trained) / starts
        done = starts * start + trained
        # Models that run in parallel do more than a second's work in a second.
        speed = done / elapsed if elapsed > 0 and done > 0 else 1.0
        return (epochs_left * steady + (models_left + halfway) * start) / speed
