"""The run's reports, written again once there is a winner to show."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ncap_jax import data, errors, report
from ncap_jax.finetune import trajectory_files
from ncap_jax.report.finished import (
    FinishedModel,
    FinishedRun,
    RankingSummary,
    WrongImage,
    part_shown,
)
from ncap_jax.run import facts, finish_record, stopwatch
from ncap_jax.run.fingerprint import RUN_FILE
from ncap_jax.run.folder import ModelFiles
from ncap_jax.types import Ranking, Trajectory

if TYPE_CHECKING:
    import pathlib

    from ncap_jax.data.held_out import HeldOut
    from ncap_jax.run.finish_source import Ranked
    from ncap_jax.run.job import Job
    from ncap_jax.winner.facts import ModelFacts
    from ncap_jax.winner.training import Converged


def write(
    ranked: Ranked,
    job: Job,
    about: ModelFacts,
    ends: Mapping[str, Converged],
    test: HeldOut | None,
    place: pathlib.Path,
    seconds: float | None = None,
) -> None:
    """Write the reports of a run with its winner; the ranking's other files stay what they are.

    What they show is kept for the reports of later rankings in the folder, too.

    Args:
        ranked: the run; it has a folder.
        job: its models and data.
        about: the winner.
        ends: the models that were finished, in the order of the ranking.
        test: the test part, if there is one.
        place: where the winner was saved.
        seconds: wall time of the finish; None: not known.

    Raises:
        OutputError: they cannot be written.
    """
    assert ranked.folder is not None
    ranking = whole(ranked.ranking, job, ranked.folder)
    finished = FinishedRun(
        facts=about,
        models=_models(ranking, ends),
        wrong=_wrong(about, job, test),
        folder=os.fspath(place),
        seconds=seconds,
        ranking=RankingSummary.of(ranking),
    )
    finish_record.write(ranked.folder, finished)
    report.write(ranking, ranked.folder, finished)


def whole(ranking: Ranking, job: Job, folder: pathlib.Path) -> Ranking:
    """The ranking with its trajectories and the facts of its run, read where it lacks them."""
    if ranking.trajectories:
        return ranking
    model_files = ModelFiles(folder)
    trajectories = []
    for row in ranking.models:
        # There may be more epochs than were ranked.
        records = trajectory_files.read_sound(model_files.trajectory(row.name))[: row.epochs + 1]
        head, seconds = ranking.config.head, row.seconds
        trajectories.append(
            Trajectory(row.name, head, records, row.status, row.message, seconds=seconds)
        )
    before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    info = facts.run_info(job, before, stopwatch.read(folder))
    return dataclasses.replace(ranking, trajectories=tuple(trajectories), info=info)


def _models(ranking: Ranking, ends: Mapping[str, Converged]) -> tuple[FinishedModel, ...]:
    rows = {row.name: row for row in ranking.models}
    # A ranking of probes is repeated with a linear head, for all of its epochs.
    probes = ranking.config.head != "linear"
    return tuple(
        FinishedModel(
            name,
            rows[name].rank,
            end.records,
            ranking.config.epochs if probes else rows[name].epochs,
            end.best_epoch,
            end.metric,
        )
        for name, end in ends.items()
    )


def _wrong(about: ModelFacts, job: Job, test: HeldOut | None) -> tuple[WrongImage, ...]:
    """The images of the winner's worst mistakes; without a picture where one cannot be read."""
    part = part_shown(about)
    images: Any = job.dataset.validation_images if test is None else test.images
    names = None if test is None else test.names

    def name(index: int) -> str:
        if names is not None:
            return names[index]
        return images.name(index) if hasattr(images, "name") else ""

    return tuple(
        WrongImage(each, name(each.index), _picture(images, each.index))
        for each in about.metrics[part].mistakes
    )


def _picture(images: Any, index: int) -> bytes:
    try:
        return data.thumbnail(images[index])
    except errors.DataError as error:
        # The winner is saved by now, and is worth more than a picture.
        warnings.warn(f"the report lacks a picture: {error}", stacklevel=2)
        return b""
