"""`ranking.json` and `ranking.csv`: their texts, and the ranking that a `ranking.json` holds.

The JSON is strict: NaN and infinity become null. The trajectories and the run's facts have
files of their own (`trajectories/<model>.jsonl`, `run.json`) and are not repeated here. Within a
schema fields are added, never renamed: with another metric than accuracy (`config.metric`) the
fields `predicted_accuracy`, `std`, `best_seen`, `last_seen` and `predictions` are of that metric.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ncap_jax import errors
from ncap_jax.files import DAMAGE, number, strict
from ncap_jax.options import RankConfig
from ncap_jax.report import inference
from ncap_jax.types import (
    FunnelStep,
    InferenceCost,
    InferenceSpeed,
    LeftOut,
    Prediction,
    RankedModel,
    Ranking,
)

SCHEMA = 1
_CSV_COLUMNS = [
    "rank",
    "name",
    "status",
    "predicted_accuracy",
    "std",
    "p_best",
    "p_within",
    "shortlisted",
    "tied_with_best",
    "best_seen",
    "last_seen",
    "epochs",
    "learning_rate",
    "beta_eff",
    "validation_accuracy",
    "seconds",
    "message",
    "metric",
    "parameters",
    "flops",
    "latency_ms",
    "images_per_second",
    "licence",
]


def ranking_to_json(ranking: Ranking) -> str:
    """The text of `ranking.json`."""
    document = {
        "schema": SCHEMA,
        "dataset": ranking.dataset,
        "config": ranking.config,
        "predictor": ranking.predictor,
        "strength": ranking.strength,
        "expected_regret": ranking.expected_regret,
        "models": ranking.models,
        "smallest_within_one_point": None if ranking.smallest is None else ranking.smallest.name,
        "left_out": ranking.left_out,
        "funnel": ranking.funnel,
    }
    return json.dumps(strict(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def ranking_to_csv(ranking: Ranking) -> str:
    """The text of `ranking.csv`: one line per model, series separated by spaces, NaN empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for model, row in zip(ranking.models, strict(ranking.models), strict=True):
        for name in ("beta_eff", "validation_accuracy"):
            row[name] = " ".join("nan" if v is None else repr(v) for v in row[name])
        writer.writerow({**row, "metric": ranking.config.metric, **_cost_cells(model)})
    return buffer.getvalue()


def _cost_cells(row: RankedModel) -> dict[str, Any]:
    many = inference.at(row, 64)
    return strict(
        {
            "parameters": row.cost.parameters,
            "flops": row.cost.flops,
            "latency_ms": inference.latency(row),
            "images_per_second": None if many is None else many.images_per_second,
            "licence": row.cost.licence,
        }
    )


def _row_from_json(row: Mapping[str, Any]) -> RankedModel:
    fields = dict(row)
    for name in ("predicted_accuracy", "std", "best_seen", "last_seen", "p_best"):
        fields[name] = number(fields[name])
    if "p_within" in fields:  # not in files of earlier versions
        fields["p_within"] = number(fields["p_within"])
    for name in ("beta_eff", "validation_accuracy"):
        fields[name] = tuple(number(value) for value in fields[name])
    fields["predictions"] = {
        name: Prediction(number(p["mean"]), number(p["std"]), p["flag"], number(p["own_std"]))
        for name, p in fields["predictions"].items()
    }
    if "cost" in fields:  # earlier versions did not know it
        cost = dict(fields["cost"])
        speeds = tuple(InferenceSpeed(**speed) for speed in cost.pop("speeds"))
        fields["cost"] = InferenceCost(**cost, speeds=speeds)
    return RankedModel(**fields)


def read_ranking(path: str | os.PathLike[str]) -> Ranking:
    """The ranking in a `ranking.json`, without trajectories and info.

    Args:
        path: the file, or the output folder that holds it.

    Raises:
        OutputError: the file is missing, is not a ranking, or has another schema.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "ranking.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document.get("schema") != SCHEMA:
            raise errors.OutputError(
                f"{file} has schema {document.get('schema')!r}, but this version of ncap_jax reads "
                f"schema {SCHEMA}",
                "Read it with the version of ncap_jax that wrote it",
            )
        return Ranking(
            dataset=document["dataset"],
            config=RankConfig.from_json(document["config"]),
            models=tuple(_row_from_json(row) for row in document["models"]),
            predictor=document["predictor"],
            strength=document["strength"],
            left_out=tuple(LeftOut(**each) for each in document.get("left_out", ())),
            funnel=tuple(FunnelStep(**each) for each in document.get("funnel", ())),
            expected_regret=number(document.get("expected_regret")),
        )
    except OSError as error:
        raise errors.OutputError(
            f"cannot read {file}: {error.strerror or error}", "Rank models first"
        ) from error
    except DAMAGE as error:
        raise errors.OutputError(
            f"{file} is not a ranking: {error!r}", "Rank the models again"
        ) from error
