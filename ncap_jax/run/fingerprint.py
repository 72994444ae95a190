"""What makes a run another run: the part of `run.json` that must not change.

A run may grow in its folder: epochs and models are added or left out, another predictor ranks. What
it then holds, `run.json` says: the options and models of the last ranking, and those models whose
files lie in the folder without being ranked (`set_aside`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any

from ncap_jax.options import FREE_FIELDS, GROWING_FIELDS, Execution

RUN_FILE = "run.json"
# What must be equal for a run to resume; the rest of run.json may differ (versions, device, time).
FINGERPRINT = ("config", "models", "data")
# Options that the `run.json` of an earlier version does not name, and what it did.
ADDED: Mapping[str, Any] = {"validation_splits": 1, "metric": "accuracy"}
# Models of earlier rankings, whose files are kept.
SET_ASIDE = "set_aside"


def fixed(part: Any, name: str) -> Any:
    """A part of run.json without what may change when a run resumes."""
    if name == "config":
        named = {**ADDED, **part} if isinstance(part, dict) else part
        return _without(named, FREE_FIELDS)
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


def conflicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on in the folder of another, named with both values.

    Args:
        old: content of the `run.json` that is there.
        new: of the one that would be written.
    """
    there, asked = models_of(old), new["models"]
    common = there.keys() & asked.keys()
    config = [_without(fixed(facts["config"], "config"), GROWING_FIELDS) for facts in (old, new)]
    data = [fixed(facts["data"], "data") for facts in (old, new)]
    models = [{name: known[name] for name in common} for known in (there, asked)]
    return [
        found
        for part, (before, after) in zip(FINGERPRINT, (config, models, data), strict=True)
        for found in differences(before, after, part)
    ]


def models_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """All models whose files a folder holds, ranked or set aside; name -> what is fixed of them."""
    return {**facts.get(SET_ASIDE, {}), **facts["models"]}


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `run.json` once the run of `old` has become that of `new`.

    Versions, device and where the run executes stay those that it was begun with: numbers may round
    differently elsewhere, which every later call is told.
    """
    where = {field.name for field in dataclasses.fields(Execution)}
    begun = {name: value for name, value in old["config"].items() if name in where}
    config = {**new["config"], **begun}
    aside = {n: m for n, m in models_of(old).items() if n not in new["models"]}
    unchanged = old["config"] == config and list(old["models"]) == list(new["models"])
    if unchanged and old.get(SET_ASIDE, {}) == aside:
        return dict(old)
    told = {name: new[name] for name in ("models", "data", "command") if name in new}
    return {**old, **told, "config": config, SET_ASIDE: aside}


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
