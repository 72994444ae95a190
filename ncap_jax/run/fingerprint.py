"""What makes a run another run: the part of `run.json` that must not change."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ncap_jax.options import FREE_FIELDS

RUN_FILE = "run.json"
# What must be equal for a run to resume; the rest of run.json may differ (versions, device, time).
FINGERPRINT = ("config", "models", "data")


def fixed(part: Any, name: str) -> Any:
    """A part of run.json without what may change when a run resumes."""
    if name == "config":
        return _without(part, FREE_FIELDS)
    if name == "data" and isinstance(part, dict) and "config" in part:
        # `sha256` stands for the images and labels: where they lie, and what was left out on the
        # way to them, may differ. A copy of a folder is the same data.
        return {**_without(part, ("info",)), "config": _without(part["config"], ("data_dir",))}
    return part


def _without(part: Any, names: Collection[str]) -> Any:
    """A mapping without these keys; what is not a mapping (damage) as it is."""
    if not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if key not in names}


def differences(old: Any, new: Any, name: str) -> list[str]:
    """Names and values of what differs between two JSON values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted(set(old) | set(new))
            for found in differences(old.get(key), new.get(key), f"{name}.{key}")
        ]
    return [] if old == new else [f"{name} was {_short(old)}, is {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
