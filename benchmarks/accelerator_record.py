"""What `benchmarks.accelerator` has measured on one device: a JSON file that grows part by part."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ncap_jax import files

SCHEMA = 1
# Characters of a part's output that are kept, from its end.
KEPT = 6000
DONE = "done"
# How often a part that failed, or took too long, is tried in all.
ATTEMPTS = 2


class Record:
    """The file of one device.

    Attributes:
        path: of the file.
        content: `schema`; `device`; `calls`: of each call its environment and minutes; `parts`:
            name -> `status` (done, failed, out of time, skipped, interrupted), `why`, `attempts`,
            `seconds`, `call` (number), `command`, `output` (its end) and `result`, which of a part
            that did not end is what it had written by then.
    """

    def __init__(self, path: pathlib.Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def of_device(cls, folder: pathlib.Path, device: str, name: str | None = None) -> Record:
        """The record of a device in a folder, with what earlier calls have written.

        Args:
            folder: of the records.
            device: the device's name.
            name: part of the file's name; None: made of the device's.

        Raises:
            ValueError: the file is not such a record.
        """
        path = folder / f"accelerator_{name or slug(device)}.json"
        if not path.exists():
            return cls(path, {"schema": SCHEMA, "device": device, "calls": [], "parts": {}})
        return cls(path, read(path))

    def save(self) -> None:
        """Write the file, whole or not at all."""
        files.write_atomically(self.path, files.to_json(self.content, indent=1) + "\n")

    def begin_call(self, about: Mapping[str, Any]) -> None:
        """Note that a call begins, with its environment."""
        self.content["calls"].append(dict(about))
        self.save()

    def part(self, name: str) -> dict[str, Any]:
        """What is known of a part; empty if nothing."""
        found: dict[str, Any] = self.content["parts"].get(name, {})
        return found

    def put(self, name: str, **facts: Any) -> None:
        """Note how a part ended, and write the file."""
        entry = {"call": len(self.content["calls"]) - 1, **facts}
        self.content["parts"][name] = entry
        self.save()

    def is_done(self, name: str) -> bool:
        """Whether a part needs no further call."""
        return self.part(name).get("status") == DONE

    def attempts(self, name: str) -> int:
        """How often a part has failed or taken too long."""
        return int(self.part(name).get("attempts", 0))


def slug(device: str) -> str:
    """A device's name as part of a file's: `NVIDIA H200` -> `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def read(path: pathlib.Path) -> dict[str, Any]:
    """The content of a record's file.

    Raises:
        ValueError: it is not such a record.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a record of benchmarks.accelerator. Move it away.")
    return content


def merge(contents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of several of the same device: of each part the better one, the later of equals.

    A part that is done is better than one that is not; the calls are kept one after the other.
    """
    merged: dict[str, Any] = {**contents[0], "calls": [], "parts": {}}
    for content in contents:
        shift = len(merged["calls"])
        new = [call for call in content["calls"] if call not in merged["calls"]]
        place = {
            number: merged["calls"].index(call)
            if call in merged["calls"]
            else shift + new.index(call)
            for number, call in enumerate(content["calls"])
        }
        merged["calls"] += new
        for name, part in content["parts"].items():
            before = merged["parts"].get(name, {})
            if before.get("status") != DONE or part["status"] == DONE:
                merged["parts"][name] = {**part, "call": place[part["call"]]}
    return merged
