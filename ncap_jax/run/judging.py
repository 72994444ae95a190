"""The winner with its figures: on the validation part, which chose it, and on the test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ncap_jax import data, errors
from ncap_jax.data.held_out import HeldOut
from ncap_jax.options import FinishConfig
from ncap_jax.report import text
from ncap_jax.run import facts
from ncap_jax.types import Dataset, Ranking
from ncap_jax.winner import calibration
from ncap_jax.winner.architecture import architecture_of, origin_of, preprocessing_of
from ncap_jax.winner.facts import LEAKS, ModelFacts
from ncap_jax.winner.model import Winner

if TYPE_CHECKING:
    from ncap_jax.run.job import Job
    from ncap_jax.winner.training import Converged, Finished


def draft(job: Job, name: str, described: Mapping[str, Any]) -> ModelFacts:
    """What is known of a model before it is finished.

    Args:
        job: the run.
        name: of the model.
        described: the data, in words of the model card.

    Raises:
        PackageError: no package could hold the model, which its user is told before it is trained.
    """
    dataset, config = job.dataset, job.config
    (spec,) = (spec for spec in job.specs if spec.name == name)
    found = ModelFacts(
        name=name,
        architecture=architecture_of(spec),
        preprocessing=preprocessing_of(spec, dataset, config.input_size),
        class_names=dataset.class_names or tuple(map(str, range(dataset.num_classes))),
        dtype=config.dtype,
        data=described,
        origin=origin_of(spec, config.weights, config.weights_dir),
        versions=facts.describe()["versions"],
    )
    if problem := found.problem("sha256"):
        raise errors.PackageError(
            f"{name} could not be saved once it is finished: {problem}",
            "Change that, and rank again",
        )
    return found


def judged(
    about: ModelFacts, finished: Finished, dataset: Dataset, test: HeldOut | None = None
) -> Winner:
    """The model with its temperature and its figures.

    They are computed from what the model itself answers, so that they come again wherever it is
    loaded.

    Args:
        about: what else is known of the model.
        finished: the model.
        dataset: of the run; its validation part is looked at.
        test: the test part; None: there is none.
    """
    weights = finished.converged.weights
    plain = Winner(finished.network, weights.params, weights.state, about)
    parts: dict[str, tuple[Any, np.ndarray]] = {
        "validation": (dataset.validation_images, np.asarray(dataset.validation_labels))
    }
    if test is not None:
        parts["test"] = test.images, test.labels
    logits = {part: plain.logits(images) for part, (images, _) in parts.items()}
    temperature = calibration.fit_temperature(logits["validation"], parts["validation"][1])
    metrics = {
        part: calibration.calibrated_metrics(logits[part], labels, about.class_names, temperature)
        for part, (_, labels) in parts.items()
    }
    with_figures = dataclasses.replace(about, temperature=temperature, metrics=metrics)
    return dataclasses.replace(plain, facts=with_figures)


def how_chosen(
    ranking: Ranking, config: FinishConfig, finished: Mapping[str, Converged]
) -> dict[str, Any]:
    """How a winner was chosen, in words of the model card."""
    ranks = {row.name: row.rank for row in ranking.models}
    metric = text.metric_name(ranking.config.metric)
    of = "" if ranking.config.metric == "accuracy" else f", {metric}"
    return {
        "candidates": [row.name for row in ranking.models],
        "ranked by": f"{ranking.predictor} after {ranking.config.epochs} epochs{of}",
        "finished": {
            name: {
                "rank": ranks[name],
                "epochs": converged.records[-1].epoch,
                "best epoch": converged.best_epoch,
                f"validation {metric}": converged.merit[0],
            }
            for name, converged in finished.items()
        },
        "options": dataclasses.asdict(config),
        "seed": ranking.config.seed,
    }


def describe_data(job: Job, test: HeldOut | None) -> dict[str, Any]:
    """The data in words of the model card; warns of copies in the test part."""
    about = data.statistics(job.dataset)
    return {
        "name": about["name"],
        "training images": about["num_train"],
        "validation images": about["num_validation"],
        "test images": 0 if test is None else len(test.labels),
        **({} if test is None else {LEAKS: data.count_leaks(job.dataset, test)}),
        "classes": about["num_classes"],
        "sha256": facts.data_digest(job.dataset),
    }
