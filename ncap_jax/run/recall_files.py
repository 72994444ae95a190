"""What a recall keeps: its decision in the run's folder, and the scores of features in a cache.

    <run>/recall.json           the decision; a run that resumes reads it and decides nothing anew
    <cache>/recall/*.json       scores of weights that have a SHA-256, for all later runs
    <run>/recall/*.json         scores of all others, which only this run knows for the same

Scores are kept by what they depend on: weights, data, the images looked at, size and arithmetic. A
file that is damaged or cannot be written costs time only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ncap_jax import caching, errors, files
from ncap_jax.options import RankConfig
from ncap_jax.selection.recall import Candidate
from ncap_jax.types import LeftOut, ModelSpec
from ncap_jax.zoo.weights import sources

FILE, FOLDER = "recall.json", "recall"
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a recall came to.

    Attributes:
        chosen: names of the models that are fine-tuned, the most promising first.
        left_out: the others, each with its reason.
        seconds: that the recall took.
        candidates: what was known of each.
    """

    chosen: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    seconds: float
    candidates: tuple[Candidate, ...] = ()


def write_decision(run: pathlib.Path, key: Mapping[str, Any], decision: Decision) -> None:
    """Keep a decision in a run's folder.

    Args:
        run: path of the folder.
        key: what the decision follows from; see `read_decision`.
        decision: the decision.

    Raises:
        OutputError: it cannot be written.
    """
    content = {"schema": SCHEMA, "key": key, **files.strict(decision)}
    files.write_atomically(run / FILE, files.to_json(content, indent=1) + "\n")


def read_decision(run: pathlib.Path, key: Mapping[str, Any]) -> Decision | None:
    """The decision that a run's folder holds; None: none, a damaged one, or one of another key."""
    try:
        content = json.loads((run / FILE).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA or content["key"] != json.loads(files.to_json(key)):
            return None
        return Decision(
            tuple(map(str, content["chosen"])),
            tuple(LeftOut(**each) for each in content["left_out"]),
            float(content["seconds"]),
            tuple(_candidate(each) for each in content["candidates"]),
        )
    except (OSError, *files.DAMAGE):
        return None


def _candidate(fields: Mapping[str, Any]) -> Candidate:
    return Candidate(**{**fields, "prior": files.number(fields["prior"])})


def weights_digest(spec: ModelSpec, config: RankConfig) -> str | None:
    """SHA-256 of a model's weights; None: it has none, or the file is not here."""
    if config.weights == sources.RANDOM or spec.build_pretrained is not None:
        return None
    return sources.digest(spec, config.weights_dir)


class Scores(NamedTuple):
    """Scores of one model's features, and the seconds that they took."""

    values: Mapping[str, float]
    seconds: float


class ScoreCache:
    """Scores on the disk.

    Args:
        run: path of the run's folder; None: it has none.
        setting: what the scores of all models depend on.
    """

    def __init__(self, run: pathlib.Path | None, setting: Mapping[str, Any]):
        self._run, self._setting = run, dict(setting)

    def get(self, model: str, weights: str | None) -> Scores | None:
        """The scores of a model; None: they are not there.

        Args:
            model: by which it is found: its reference or name.
            weights: SHA-256 of its weights; None: not known.
        """
        if (file := self._file(model, weights)) is None:
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            values = {str(name): float(value) for name, value in content["scores"].items()}
            seconds = float(content["seconds"])
        except (OSError, *files.DAMAGE):
            return None
        return Scores(values, seconds) if all(map(math.isfinite, values.values())) else None

    def put(self, model: str, weights: str | None, scores: Scores) -> None:
        """Keep scores, if they can be written."""
        if (file := self._file(model, weights)) is None:
            return
        about = {**self._setting, "model": model, "weights": weights}
        content = {"about": about, "scores": scores.values, "seconds": scores.seconds}
        with contextlib.suppress(errors.OutputError):
            files.write_atomically(file, files.to_json(content) + "\n")

    def _file(self, model: str, weights: str | None) -> pathlib.Path | None:
        place = self._run if weights is None else caching.folder()
        if place is None:
            return None
        key = files.to_json({**self._setting, "model": model, "weights": weights})
        return place / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
