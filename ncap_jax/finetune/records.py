"""Trajectories as JSON lines: one line an epoch, appended and flushed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from ncap_jax import errors
from ncap_jax.types import EpochRecord, Head, Trajectory

FOLDER = "trajectories"
# What reading a line that is damaged, or was never ours, can raise.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


def append(path: str | os.PathLike, record: EpochRecord) -> None:
    """Append one epoch to a trajectory file and flush it to the disk.

    Raises:
        OutputError: the file cannot be written.
    """
    append_line(path, line(record))


def append_line(path: str | os.PathLike, text: str) -> None:
    """Append a line to a file and flush it to the disk, closing a torn one before it.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise errors.OutputError(
            f"cannot write {path}: {error.strerror}", "Free space or choose another output folder"
        ) from error


def line(record: EpochRecord) -> str:
    """One epoch as a line of strict JSON."""
    return json.dumps(to_json(record), allow_nan=False) + "\n"


def to_json(record: EpochRecord) -> dict[str, Any]:
    """The fields of one line: tuples as lists, non-finite numbers as null (strict JSON)."""
    return _jsonable(dataclasses.asdict(record))


def read(path: str | os.PathLike) -> tuple[EpochRecord, ...]:
    """Read a trajectory file.

    Raises:
        OutputError: the file cannot be read, or a line is damaged (its number is named).
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise errors.OutputError(f"cannot read {path}: {error}", "Check the path") from error
    records = []
    for number, text in enumerate(lines, start=1):
        try:
            records.append(parse(json.loads(text)))
        except DAMAGE as error:
            raise errors.OutputError(
                f"{path}, line {number} is damaged: {error}", "Remove the line and what follows it"
            ) from error
    return tuple(records)


def sound(path: str | os.PathLike) -> tuple[EpochRecord, ...]:
    """The records before the first damaged line; none where there is no file."""
    if not pathlib.Path(path).is_file():
        return ()
    found = []
    for text in pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(parse(json.loads(text)))
        except DAMAGE:
            break
    return tuple(found)


def parse(fields: dict[str, Any]) -> EpochRecord:
    """An EpochRecord from the fields of one line; null is NaN where a number must stand."""
    values = dict(fields)
    if type(values["epoch"]) is not int:
        raise TypeError("epoch is not a whole number")
    for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        values[name] = _number(values[name])
    for name in ("seconds", "measure_seconds"):
        values[name] = float(values.get(name, 0.0))
    for name in ("running_loss", "learning_rate"):
        if values.get(name) is not None:
            values[name] = float(values[name])
    values["beta_eff"] = {k: tuple(_number(x) for x in v) for k, v in values["beta_eff"].items()}
    values["beta_eff_status"] = {
        k: tuple(map(str, v)) for k, v in values["beta_eff_status"].items()
    }
    return EpochRecord(**values)


def load_trajectories(
    output_dir: str | os.PathLike, head: Head = "probe"
) -> tuple[Trajectory, ...]:
    """All trajectories that a run left under `output_dir`, by model name.

    Args:
        output_dir: of a run.
        head: how the run was made; read from `run.json` where it is there.

    Raises:
        OutputError: there is none, or one is damaged.
    """
    folder = pathlib.Path(output_dir) / FOLDER
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise errors.OutputError(
            f"no trajectories under {folder}", "Give the output folder of a run"
        )
    run = pathlib.Path(output_dir) / "run.json"
    if run.is_file():
        try:
            head = json.loads(run.read_text(encoding="utf-8"))["config"]["head"]
        except (OSError, *DAMAGE) as error:
            raise errors.OutputError(
                f"{run} cannot be read: {error}", "Remove it and give the head"
            ) from error
    return tuple(
        Trajectory(model=file.stem, head=head, records=records, seconds=_seconds(records))
        for file in files
        for records in [read(file)]
    )


def _seconds(records: tuple[EpochRecord, ...]) -> float:
    return sum(record.seconds for record in records)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _jsonable(value: Any) -> Any:
    """Tuples to lists, non-finite numbers to null: strict JSON."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
