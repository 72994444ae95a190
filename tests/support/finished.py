"""A finished run for the tests of the report, which no training made."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ncap_jax.report import finish_figures, html
from ncap_jax.report.finished import FinishedModel, FinishedRun, WrongImage
from ncap_jax.types import EpochRecord
from ncap_jax.winner.facts import Architecture, ModelFacts, Origin, Preprocessing
from ncap_jax.winner.metrics import ClassificationMetrics, classification_metrics
from tests.support.pool import make_trajectory

NAMES = ("cat", "dog", "eel", "fox")


def made_up_metrics(
    class_names: tuple[str, ...] = NAMES, count: int = 200, seed: int = 0
) -> ClassificationMetrics:
    """Figures of a model that is right about three times out of four, and too sure of itself."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(class_names), count)
    logits = rng.normal(size=(count, len(class_names)))
    logits[np.arange(count), labels] += 1.5
    shares = [np.exp(scale * logits) for scale in (1.0, 3.0)]
    honest, sure = (share / share.sum(axis=1, keepdims=True) for share in shares)
    return classification_metrics(honest, labels, class_names, uncalibrated=sure)


def png(seed: int = 0) -> bytes:
    """A picture of grey noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 1), np.uint8).repeat(3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def records(ranked: int, finish: int, seed: int = 0) -> tuple[EpochRecord, ...]:
    """Epochs of a ranking, and of a finish, which measures only what is validated."""
    rng = np.random.default_rng(seed)
    whole = make_trajectory("m", ranked + finish, 0.9 - 0.02 * seed, 0.4, rng).records
    bare = {"train_loss": np.nan, "train_accuracy": np.nan, "beta_eff": {}, "beta_eff_status": {}}
    return tuple(r if r.epoch <= ranked else dataclasses.replace(r, **bare) for r in whole)


def facts(class_names: tuple[str, ...] = NAMES, **changes: Any) -> ModelFacts:
    """What `model.json` of the winner holds."""
    validation, test = (made_up_metrics(class_names, seed=seed) for seed in (1, 2))
    fields: dict[str, Any] = {
        "temperature": 2.5,
        "metrics": {"validation": validation, "test": test},
        "origin": Origin("tiny.safetensors"),
        **changes,
    }
    return ModelFacts(
        "model_1",
        Architecture("zoo", "tiny_plain"),
        Preprocessing("unit", 32, (8, 8)),
        class_names,
        **fields,
    )


def finished_run(class_names: tuple[str, ...] = NAMES, **changes: Any) -> FinishedRun:
    """Two models, of which the second one of the ranking won."""
    about = facts(class_names)
    models = tuple(
        FinishedModel(f"model_{place}", place + 1, records(5, 12 - place, place), 5, 11 - place)
        for place in range(2)
    )
    wrong = tuple(
        WrongImage(mistake, f"photos/test/{mistake.true}/{mistake.index}.jpg", png(number))
        for number, mistake in enumerate(about.metrics["test"].mistakes)
    )
    return FinishedRun(
        **{
            "facts": about,
            "models": models,
            "wrong": wrong,
            "folder": "runs/photos/winner",
            **changes,
        }
    )


def without_figures(patch: pytest.MonkeyPatch) -> None:
    """Let pages be made without figures, which take longer than all else."""
    for name in ("accuracy_to_the_end", "loss_to_the_end"):
        patch.setattr(finish_figures, name, lambda models, metric="accuracy": "")
    patch.setattr(finish_figures, "confusion", lambda metrics: "")
    none = {"strength": None, "legend": [], "others": 0, "fits": []}
    patch.setattr(html, "_figures", lambda ranking: {**none, "accuracy_svg": "", "beta_svg": ""})
