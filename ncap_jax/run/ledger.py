"""The ledger of a run: a line for every model that ended, appended and flushed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings
from collections.abc import Iterable

from ncap_jax import files
from ncap_jax.types import Status

FILE = "ledger.jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a model ended, or that it starts again (no records), perhaps in halves (`half_batch`).

    Attributes:
        model: its name.
        status: of its trajectory.
        message: of its trajectory.
        seconds: of its trajectory.
        records: lines of its trajectory.
        half_batch: it did not end.
    """

    model: str
    status: Status
    message: str
    seconds: float
    records: int
    half_batch: bool = False


def append(folder: pathlib.Path, entry: Entry) -> None:
    """Add a line, flushed to the disk.

    Raises:
        OutputError: it cannot be written.
    """
    files.append_line(folder / FILE, files.to_json(entry))


def read(folder: pathlib.Path) -> list[Entry]:
    """The sound lines, in order; a damaged one is left out with a warning."""
    file = folder / FILE
    if not file.is_file():
        return []
    entries = []
    for number, line in enumerate(files.read_lines(file), start=1):
        try:
            entries.append(parse(line))
        except files.DAMAGE:
            warnings.warn(
                f"{file}, line {number} is damaged and left out: if a model's end stood there, "
                "what follows its last checkpoint is repeated",
                stacklevel=2,
            )
    return entries


def whole(entries: Iterable[Entry]) -> dict[str, int]:
    """Model -> how many lines its trajectory has, or had before damage, since it last started.

    Where a later call ranked fewer epochs, the lines of the others are still there.
    """
    found: dict[str, int] = {}
    for entry in entries:
        found[entry.model] = max(entry.records, found.get(entry.model, 0)) if entry.records else 0
    return found


def parse(line: str) -> Entry:
    """The entry of a line; raises one of `files.DAMAGE` where it is not one."""
    entry = Entry(**json.loads(line))
    for field, kind in (("model", str), ("status", str), ("message", str), ("records", int)):
        if not isinstance(getattr(entry, field), kind):
            raise TypeError(field)
    return dataclasses.replace(
        entry, seconds=float(entry.seconds), half_batch=bool(entry.half_batch)
    )
