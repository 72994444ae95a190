"""`ranking.json` and `ranking.csv`: written whole or not at all, and read back.

The JSON is strict: NaN and infinity become null. The trajectories and the run's facts have
files of their own (`trajectories/<model>.jsonl`, `run.json`) and are not repeated here.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ncap_jax import errors
from ncap_jax.types import Prediction, RankConfig, RankedModel, Ranking

SCHEMA = 1
# How the names of files end that are being written.
TEMPORARY = ".tmp"
_CSV_COLUMNS = [
    "rank",
    "name",
    "status",
    "predicted_accuracy",
    "std",
    "p_best",
    "tied_with_best",
    "best_seen",
    "last_seen",
    "epochs",
    "learning_rate",
    "beta_eff",
    "validation_accuracy",
    "seconds",
    "message",
]


def write_atomically(path: pathlib.Path, data: str | bytes) -> None:
    """Write a file so that readers see the old one or the whole new one.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    if isinstance(data, str):
        data = data.encode("utf-8")
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise errors.OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "Choose an output folder you may write to",
        ) from error


def strict(value: Any) -> Any:
    """A value made of JSON's types alone: non-finite floats become None, records dicts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return strict({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if hasattr(value, "item"):  # NumPy scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def ranking_to_json(ranking: Ranking) -> str:
    """The text of `ranking.json`."""
    document = {
        "schema": SCHEMA,
        "dataset": ranking.dataset,
        "config": ranking.config,
        "predictor": ranking.predictor,
        "strength": ranking.strength,
        "models": ranking.models,
    }
    return json.dumps(strict(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def ranking_to_csv(ranking: Ranking) -> str:
    """The text of `ranking.csv`: one line a model, series separated by blanks, NaN empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in strict(ranking.models):
        for name in ("beta_eff", "validation_accuracy"):
            row[name] = " ".join("nan" if v is None else repr(v) for v in row[name])
        writer.writerow(row)
    return buffer.getvalue()


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row_from_json(row: Mapping[str, Any]) -> RankedModel:
    fields = dict(row)
    for name in ("predicted_accuracy", "std", "best_seen", "last_seen", "p_best"):
        fields[name] = _number(fields[name])
    for name in ("beta_eff", "validation_accuracy"):
        fields[name] = tuple(_number(value) for value in fields[name])
    fields["predictions"] = {
        name: Prediction(_number(p["mean"]), _number(p["std"]), p["flag"], _number(p["own_std"]))
        for name, p in fields["predictions"].items()
    }
    return RankedModel(**fields)


def read_ranking(path: str | os.PathLike[str]) -> Ranking:
    """The ranking that a `ranking.json` holds; trajectories and info are left empty.

    Args:
        path: the file, or the output folder that holds it.

    Raises:
        OutputError: no such file, not a ranking, or of another schema.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "ranking.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.get("schema") != SCHEMA:
            raise errors.OutputError(
                f"{file} has schema {document.get('schema')!r}, this version reads {SCHEMA}",
                "Read it with the version of ncap_jax that wrote it",
            )
        return Ranking(
            dataset=document["dataset"],
            config=RankConfig.from_json(document["config"]),
            models=tuple(_row_from_json(row) for row in document["models"]),
            predictor=document["predictor"],
            strength=document["strength"],
        )
    except OSError as error:
        raise errors.OutputError(
            f"cannot read {file}: {error.strerror or error}", "Rank models first"
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise errors.OutputError(
            f"{file} is not a ranking: {error!r}", "Rank the models again"
        ) from error
