"""What the reports show of a finish beside its model: `finish/report.json`.

    sha256      of the weights that the model had, by which it is known again
    ranking     that the finish went on from: predictor, epochs, models in order
    models      that were finished, with their epochs
    pictures    of the winner's worst mistakes
    seconds     that the finish took

A ranking that is repeated in the folder reads the winner's part of its reports here. It trains and
tests nothing for it, and does not open the test part.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pathlib
import warnings
from dataclasses import dataclass
from typing import Any

from ncap_jax import errors, files
from ncap_jax.finetune import trajectory_files
from ncap_jax.options import Metric
from ncap_jax.report.finished import (
    FinishedModel,
    FinishedRun,
    RankingSummary,
    WrongImage,
    part_shown,
)
from ncap_jax.run.finish_folder import FOLDER
from ncap_jax.winner import storage
from ncap_jax.winner.facts import ModelFacts
from ncap_jax.winner.strict_json import read_record

FILE = "report.json"
SCHEMA = 1


@dataclass(frozen=True)
class ModelContent:
    """A `FinishedModel` in the file."""

    name: str
    rank: int | None
    ranked_epochs: int
    best_epoch: int
    records: tuple[Any, ...]
    metric: Metric = "accuracy"


@dataclass(frozen=True)
class PictureContent:
    """Name of a wrong image, and its PNG as base64."""

    name: str
    png: str


@dataclass(frozen=True)
class Content:
    """The fields of the file; see the module's text."""

    sha256: str
    ranking: RankingSummary
    models: tuple[ModelContent, ...]
    pictures: tuple[PictureContent, ...]
    seconds: float | None = None


def write(run: pathlib.Path, finished: FinishedRun) -> None:
    """Keep what the reports show of a finish, for those that are written later.

    Args:
        run: path of the run's folder, which holds the winner.
        finished: with the ranking that it went on from.

    Raises:
        OutputError: it cannot be written.
        PackageError: the winner cannot be read.
    """
    assert finished.ranking is not None
    content = Content(
        storage.read_facts(run / storage.FOLDER).sha256,
        finished.ranking,
        tuple(
            ModelContent(m.name, m.rank, m.ranked_epochs, m.best_epoch, m.records, m.metric)
            for m in finished.models
        ),
        tuple(
            PictureContent(each.name, base64.b64encode(each.png).decode("ascii"))
            for each in finished.wrong
        ),
        finished.seconds,
    )
    text = files.to_json({"schema": SCHEMA, **files.strict(content)}) + "\n"
    files.write_atomically(run / FOLDER / FILE, text)


def found(run: pathlib.Path) -> FinishedRun | None:
    """The winner in a run's folder, as its reports show it.

    Args:
        run: path of the run's folder.

    Returns:
        The record; None where no model was finished. None, with a warning, where the winner or what
        is told of it is damaged, or the winner is not of this finish: no ranking is lost for it.
    """
    file, place = run / FOLDER / FILE, run / storage.FOLDER
    if not file.is_file() or not place.is_dir():
        return None
    try:
        facts = storage.read_facts(place)
        storage.check_weights(place, facts)
        return _shown(_read(file), facts, place)
    except errors.NcapError as error:
        warnings.warn(
            f"the report lacks the winner: {error.cause}. To save it anew, finish the run again",
            stacklevel=2,
        )
        return None


def _read(file: pathlib.Path) -> Content:
    """The content of the file, each field of its type, the models' epochs complete.

    Raises:
        OutputError: it is damaged.
    """
    try:
        fields = dict(json.loads(file.read_text(encoding="utf-8")))
        if (schema := fields.pop("schema", None)) != SCHEMA:
            raise ValueError(f"schema is {schema!r}, not {SCHEMA}")
        content = read_record(Content, fields)
        models = tuple(map(_parsed, content.models))
        for picture in content.pictures:
            base64.b64decode(picture.png, validate=True)
    except (OSError, *files.DAMAGE) as error:
        raise errors.OutputError(f"{file}: {error}", "Finish the run again") from error
    return dataclasses.replace(content, models=models)


def _parsed(model: ModelContent) -> ModelContent:
    records = tuple(map(trajectory_files.parse, model.records))
    if [record.epoch for record in records] != list(range(len(records))):
        raise ValueError(f"models.{model.name} lacks epochs")
    for epoch in (model.best_epoch, model.ranked_epochs):
        if not 0 <= epoch < len(records):
            raise ValueError(f"models.{model.name} has no epoch {epoch}")
    return dataclasses.replace(model, records=records)


def _shown(content: Content, facts: ModelFacts, place: pathlib.Path) -> FinishedRun:
    """What the reports show.

    Raises:
        OutputError: the content is that of another model, or the model has no figures.
    """
    problem = ""
    part = part_shown(facts)
    mistakes = facts.metrics[part].mistakes if part in facts.metrics else ()
    if content.sha256 != facts.sha256:
        problem = f"{place} holds another model than the one that was finished here"
    elif part not in facts.metrics:
        problem = f"{place} has no figures"
    elif len(content.pictures) != len(mistakes):
        problem = f"{FOLDER}/{FILE}: {len(content.pictures)} pictures of {len(mistakes)} mistakes"
    if problem:
        raise errors.OutputError(problem, "Finish the run again")
    return FinishedRun(
        facts,
        tuple(
            FinishedModel(m.name, m.rank, m.records, m.ranked_epochs, m.best_epoch, m.metric)
            for m in content.models
        ),
        tuple(
            WrongImage(mistake, picture.name, base64.b64decode(picture.png))
            for mistake, picture in zip(mistakes, content.pictures)
        ),
        os.fspath(place),
        content.seconds,
        content.ranking,
    )
