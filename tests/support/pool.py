"""A synthetic pool that looks like real fine-tuning runs, for the tests of three stages.

Accuracy rises to a model's own limit by a stretched exponential with binomial noise; the loss
follows the accuracy's logit, and that of the training images falls further; beta_eff falls in
proportion to what is still to gain, at the small scale (1e-3) that real probes show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from ncap_jax.types import ClassCounts, EpochRecord, Trajectory


def make_trajectory(
    name: str, epochs: int, limit: float, rate: float, rng: np.random.Generator
) -> Trajectory:
    records = []
    for epoch in range(epochs + 1):
        clean = limit - (limit - 0.1) * np.exp(-((rate * epoch) ** 0.8))
        accuracy = rng.binomial(1000, clean) / 1000
        margin = np.log(clean / (1 - clean))
        loss = float(np.exp(0.1 - 0.7 * margin + 0.05 * rng.normal()))
        gap = limit - clean
        beta = {
            "signed": (1e-4 * rng.normal() - 1e-3 * gap,),
            "absolute": (2e-2 * gap * np.exp(0.05 * rng.normal()),),
            "squared": (1e-5 * gap**2,),
            "total": (1e-3 * rng.normal(),),
        }
        records.append(
            EpochRecord(
                epoch=epoch,
                train_loss=(1 - min(0.08 * epoch, 0.8)) * loss,
                train_accuracy=min(1.0, accuracy + 0.02),
                validation_loss=loss,
                validation_accuracy=float(accuracy),
                running_loss=None if epoch == 0 else 0.9 * loss,
                beta_eff=beta,
                beta_eff_status=dict.fromkeys(beta, ("ok",)),
                seconds=1.5,
                measure_seconds=0.2,
            )
        )
    return Trajectory(name, "trainable_probe", tuple(records), seconds=1.5 * (epochs + 1) + 2.0)


def make_pool(models: int = 8, epochs: int = 5, seed: int = 0) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    limits = np.linspace(0.95, 0.7, models)
    return [
        make_trajectory(f"model_{i}", epochs, float(limit), float(rng.uniform(0.4, 0.8)), rng)
        for i, limit in enumerate(limits)
    ]


def with_last(trajectory: Trajectory, **changes: Any) -> Trajectory:
    """The trajectory with fields of its last record replaced."""
    last = dataclasses.replace(trajectory.records[-1], **changes)
    return dataclasses.replace(trajectory, records=(*trajectory.records[:-1], last))


def measured_after(trajectory: Trajectory, epochs: Container[int]) -> Trajectory:
    """The trajectory with beta_eff after these epochs alone."""
    records = tuple(
        r if r.epoch in epochs else dataclasses.replace(r, beta_eff={}, beta_eff_status={})
        for r in trajectory.records
    )
    return dataclasses.replace(trajectory, records=records)


def counted(trajectory: Trajectory, images: tuple[int, ...], rare: float = 1.0) -> Trajectory:
    """The trajectory with answers by class, and the accuracies that follow from them.

    Args:
        trajectory: whose accuracies are the recalls of all classes but the last.
        images: of each class.
        rare: the last class's recall, as a share of the others'.
    """
    records = []
    for record in trajectory.records:
        recalls = [record.validation_accuracy] * (len(images) - 1)
        recalls.append(rare * record.validation_accuracy)
        right = [round(n * recall) for n, recall in zip(images, recalls)]
        wrong = [n - r for n, r in zip(images, right)]
        predicted = [r + w for r, w in zip(right, wrong[1:] + wrong[:1])]  # for the class before
        counts = ClassCounts(images, (tuple(right),), (tuple(predicted),))
        accuracy = sum(right) / sum(images)
        changes = {"validation_accuracy": accuracy, "validation_counts": counts}
        records.append(dataclasses.replace(record, **changes))
    return dataclasses.replace(trajectory, records=tuple(records))


def with_accuracies(trajectory: Trajectory, accuracies: Sequence[float]) -> Trajectory:
    """The trajectory with these validation accuracies, epoch 0's first."""
    records = zip(trajectory.records, accuracies, strict=True)
    changed = tuple(dataclasses.replace(r, validation_accuracy=float(a)) for r, a in records)
    return dataclasses.replace(trajectory, records=changed)
