"""The winner with its figures: on the validation part, which chose it, and on the test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ncap_jax import data
from ncap_jax.data.held_out import HeldOut
from ncap_jax.options import FinishConfig
from ncap_jax.run import facts
from ncap_jax.types import Ranking
from ncap_jax.winner import calibration
from ncap_jax.winner.architecture import architecture_of, origin_of, preprocessing_of
from ncap_jax.winner.facts import ModelFacts
from ncap_jax.winner.model import Winner

if TYPE_CHECKING:
    from ncap_jax.run.job import Job
    from ncap_jax.winner.training import Converged, Finished


def judged(
    job: Job,
    name: str,
    finished: Finished,
    chosen: Mapping[str, Any],
    created: str,
    test: HeldOut | None = None,
) -> Winner:
    """The model with its temperature and its figures.

    They are computed from what the model itself answers, so that they come again wherever it is
    loaded.

    Args:
        job: the run.
        name: of the model.
        finished: the model.
        chosen: how it was chosen, for its card.
        created: when, as ISO 8601.
        test: the test part; None: there is none.
    """
    dataset = job.dataset
    names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    (spec,) = (spec for spec in job.specs if spec.name == name)
    config = job.config
    plain = Winner(
        finished.network,
        finished.converged.weights.params,
        finished.converged.weights.state,
        ModelFacts(
            name=name,
            architecture=architecture_of(spec),
            preprocessing=preprocessing_of(spec, dataset, config.input_size),
            class_names=names,
            dtype=config.dtype,
            chosen=chosen,
            data=_described(job, test),
            origin=origin_of(spec, config.weights, config.weights_dir),
            versions=facts.describe()["versions"],
            created=created,
        ),
    )
    parts: dict[str, tuple[Any, np.ndarray]] = {
        "validation": (dataset.validation_images, np.asarray(dataset.validation_labels))
    }
    if test is not None:
        parts["test"] = test.images, test.labels
    logits = {part: plain.logits(images) for part, (images, _) in parts.items()}
    temperature = calibration.fit_temperature(logits["validation"], parts["validation"][1])
    metrics = {
        part: calibration.calibrated_metrics(logits[part], labels, names, temperature)
        for part, (_, labels) in parts.items()
    }
    with_figures = dataclasses.replace(plain.facts, temperature=temperature, metrics=metrics)
    return dataclasses.replace(plain, facts=with_figures)


def how_chosen(
    ranking: Ranking, config: FinishConfig, finished: Mapping[str, Converged]
) -> dict[str, Any]:
    """How a winner was chosen, in words of the model card."""
    ranks = {row.name: row.rank for row in ranking.models}
    return {
        "candidates": [row.name for row in ranking.models],
        "ranked by": f"{ranking.predictor} after {ranking.config.epochs} epochs",
        "finished": {
            name: {
                "rank": ranks[name],
                "epochs": converged.records[-1].epoch,
                "best epoch": converged.best_epoch,
                "validation accuracy": converged.merit[0],
            }
            for name, converged in finished.items()
        },
        "options": dataclasses.asdict(config),
        "seed": ranking.config.seed,
    }


def _described(job: Job, test: HeldOut | None) -> dict[str, Any]:
    """The data in words of the model card."""
    about = data.statistics(job.dataset)
    return {
        "name": about["name"],
        "training images": about["num_train"],
        "validation images": about["num_validation"],
        "test images": 0 if test is None else len(test.labels),
        "classes": about["num_classes"],
        "sha256": facts.data_digest(job.dataset),
    }
