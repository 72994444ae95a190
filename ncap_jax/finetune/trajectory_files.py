"""Trajectories as JSON lines: one line an epoch, appended and flushed."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from ncap_jax import errors, files
from ncap_jax.files import DAMAGE
from ncap_jax.options import Head
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

FOLDER = "trajectories"


def append(path: str | os.PathLike[str], record: EpochRecord) -> None:
    """Append one epoch to a trajectory file and flush it to the disk.

    Raises:
        OutputError: the file cannot be written.
    """
    files.append_line(path, line(record))


def line(record: EpochRecord) -> str:
    """One epoch as a line of strict JSON, without the line's end."""
    return files.to_json(record)


def to_json(record: EpochRecord) -> dict[str, Any]:
    """The fields of one line: tuples as lists, non-finite numbers as null (strict JSON)."""
    return files.strict(record)


def read(path: str | os.PathLike[str]) -> tuple[EpochRecord, ...]:
    """Read a trajectory file.

    Raises:
        OutputError: the file cannot be read, or a line is damaged (its number is named).
    """
    try:
        lines = files.read_lines(path)
    except OSError as error:
        raise errors.OutputError(
            f"cannot read {path}: {error.strerror or error}", "Check the path"
        ) from error
    records = []
    for line_number, text in enumerate(lines, start=1):
        try:
            records.append(parse(json.loads(text)))
        except DAMAGE as error:
            raise errors.OutputError(
                f"{path}, line {line_number} is damaged: {error}",
                "Remove that line and all lines after it",
            ) from error
    return tuple(records)


def read_sound(path: str | os.PathLike[str]) -> tuple[EpochRecord, ...]:
    """The records before the first damaged line; empty if the file does not exist."""
    if not pathlib.Path(path).is_file():
        return ()
    found = []
    for text in files.read_lines(path):
        try:
            found.append(parse(json.loads(text)))
        except DAMAGE:
            break
    return tuple(found)


def parse(fields: dict[str, Any]) -> EpochRecord:
    """An EpochRecord from the fields of one line; null becomes NaN where a number is required."""
    values = dict(fields)
    if type(values["epoch"]) is not int:
        raise TypeError("epoch is not a whole number")
    for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        values[name] = files.number(values[name])
    for name in ("seconds", "measure_seconds"):
        values[name] = float(values.get(name, 0.0))
    for name in ("running_loss", "learning_rate"):
        if values.get(name) is not None:
            values[name] = float(values[name])
    values["beta_eff"] = {
        k: tuple(files.number(x) for x in v) for k, v in values["beta_eff"].items()
    }
    values["beta_eff_status"] = {
        k: tuple(map(str, v)) for k, v in values["beta_eff_status"].items()
    }
    steps = values.get("steps")
    if steps is not None and (type(steps) is not int or steps < 0):
        raise ValueError("steps is not a number of steps")
    values["features"] = str(values.get("features", ""))
    values["validation_counts"] = _counts(values.get("validation_counts"))
    return EpochRecord(**values)


def _counts(fields: dict[str, Any] | None) -> ClassCounts | None:
    """The counts of one line; None where an earlier version wrote it."""
    if fields is None:
        return None
    images = tuple(map(int, fields["images"]))
    correct, predicted = (
        tuple(tuple(map(int, row)) for row in fields[name]) for name in ("correct", "predicted")
    )
    if {*map(len, correct), *map(len, predicted)} != {len(images)}:
        raise ValueError("validation_counts are not of one number of classes")
    return ClassCounts(images, correct, predicted)


def load_trajectories(
    output_dir: str | os.PathLike[str], head: Head = "probe"
) -> tuple[Trajectory, ...]:
    """The trajectories of the models that `output_dir` ranks, sorted by model name.

    Args:
        output_dir: of a run. What it keeps beside its ranking is left out: models that are set
            aside, and epochs beyond those of `run.json`.
        head: of the run; `run.json` decides if it exists.

    Raises:
        OutputError: there are none, or a file is damaged.
    """
    folder = pathlib.Path(output_dir) / FOLDER
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise errors.OutputError(f"no trajectories in {folder}", "Give the output folder of a run")
    run = pathlib.Path(output_dir) / "run.json"
    aside, end = {}, None
    if run.is_file():
        try:
            facts = json.loads(run.read_text(encoding="utf-8"))
            head, aside = facts["config"]["head"], dict(facts.get("set_aside", {}))
            if "epochs" in facts["config"]:
                end = int(facts["config"]["epochs"]) + 1
        except (OSError, *DAMAGE) as error:
            raise errors.OutputError(
                f"{run} cannot be read: {error}", "Restore it, or remove it and pass `head`"
            ) from error
    return tuple(
        Trajectory(model=file.stem, head=head, records=records, seconds=_seconds(records))
        for file in files
        if file.stem not in aside
        for records in [read(file)[:end]]
    )


def _seconds(records: tuple[EpochRecord, ...]) -> float:
    return sum(record.seconds for record in records)
