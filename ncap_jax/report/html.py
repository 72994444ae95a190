"""`report.html`: the whole answer in one file, without network, readable on any screen.

`Ranking.info` may hold, each shown where it is there:
    command: str, the command that repeats the run
    seconds: float, wall time in all
    device: str
    versions: mapping of package to version
    data: mapping of label to value, statistics of the data set
    class_names: sequence of str
    contact_sheet_png: bytes of a PNG, or its base64 text
    majority_accuracy, num_validation: share of validation images that always answering the largest
        class gets right, and their number; models that are no better are warned of
    full_epochs: int, epochs of full fine-tuning that the cost saved is set against
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
from typing import Any

from ncap_jax import predictor as predictors
from ncap_jax.report import figures, text
from ncap_jax.report.cost import cost
from ncap_jax.selection.ranking import TIE_PROBABILITY
from ncap_jax.types import RankedModel, Ranking

# So many models' accuracy against beta_eff are in sight; more are a click away.
OPEN_FITS = 8


@functools.cache
def _template():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ncap_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=text.percent, number=text.number, duration=text.duration, listed=text.listed
    )
    environment.globals["with_std"] = text.with_std
    return environment.get_template("report.html")


def render(ranking: Ranking) -> str:
    """The page.

    Args:
        ranking: with its trajectories; without them the figures are left out.

    Returns:
        A complete HTML document; names from outside are escaped.
    """
    return _template().render(
        ranking=ranking,
        answer=text.answer(ranking),
        warnings=text.warnings(ranking),
        learning_rates=text.learning_rates(ranking),
        rows=_rows(ranking),
        methods=_methods(ranking),
        description=_description(ranking),
        cost=cost(ranking),
        tie_probability=TIE_PROBABILITY,
        open_fits=OPEN_FITS,
        config={k: _plain(v) for k, v in dataclasses.asdict(ranking.config).items()},
        info=ranking.info,
        contact_sheet=_base64(ranking.info.get("contact_sheet_png")),
        **_figures(ranking),
    )


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _base64(png: bytes | str | None) -> str:
    if png is None:
        return ""
    return base64.b64encode(png).decode("ascii") if isinstance(png, bytes) else png


def _description(ranking: Ranking) -> str:
    chosen = predictors.PREDICTORS.get(ranking.predictor)
    return chosen.description if chosen is not None else ""


def _rows(ranking: Ranking) -> list[dict[str, Any]]:
    """Table rows: the record, its last beta_eff, and the interval as percent of the axis."""
    shown = [r for r in ranking.models if r.rank is not None]
    reach = [(r, 0.0 if math.isnan(r.std) else 2 * r.std) for r in shown]
    low = max(0.0, min((r.predicted_accuracy - s for r, s in reach), default=0.0))
    high = min(1.0, max((r.predicted_accuracy + s for r, s in reach), default=1.0))
    span = high - low if high > low else 1.0

    def place(value: float) -> float:
        return round(100 * min(max((value - low) / span, 0.0), 1.0), 2)

    def interval(row: RankedModel) -> dict[str, float] | None:
        if row.rank is None or not math.isfinite(row.predicted_accuracy):
            return None
        half = 0.0 if math.isnan(row.std) else 2 * row.std
        return {
            "low": place(row.predicted_accuracy - half),
            "mid": place(row.predicted_accuracy),
            "high": place(row.predicted_accuracy + half),
        }

    return [
        {"model": row, "beta": text.beta_eff_now(row), "interval": interval(row)}
        for row in ranking.models
    ]


def _methods(ranking: Ranking) -> dict[str, Any]:
    """What every method said: its names, a row of cells a model, and the flags as notes."""
    names = [n for n in predictors.PREDICTORS if any(n in r.predictions for r in ranking.models)]
    notes: list[str] = []
    rows = [
        {"name": row.name, "cells": [_cell(name, row, notes) for name in names]}
        for row in ranking.models
        if row.predictions
    ]
    described = [predictors.PREDICTORS[name] for name in names]
    return {"methods": described, "rows": rows, "notes": notes}


def _cell(name: str, row: RankedModel, notes: list[str]) -> dict[str, Any]:
    """The prediction as text, and the numbers of the notes that hold its flags."""
    prediction = row.predictions[name]
    flags = prediction.flag.split("; ") if prediction.flag else []
    notes.extend(flag for flag in flags if flag not in notes)
    numbers = [notes.index(flag) + 1 for flag in flags]
    if predictors.PREDICTORS[name].scores_only:
        return {"text": text.number(prediction.mean), "notes": numbers}
    return {"text": text.with_std(prediction.mean, prediction.std), "notes": numbers}


def _figures(ranking: Ranking) -> dict[str, Any]:
    pairs = figures.in_rank_order(ranking)
    strength = figures.figure_strength(ranking)
    styles = [
        {"name": row.name, "series": i + 1, "dash": figures.DASHES[i]}
        for i, (row, _) in enumerate(pairs[: len(figures.SERIES)])
    ]
    return {
        "strength": strength,
        "legend": styles,
        "others": max(len(pairs) - len(styles), 0),
        "accuracy_svg": figures.accuracy_curves(ranking) if pairs else "",
        "beta_svg": figures.beta_curves(ranking, strength) if pairs and strength else "",
        "fits": [
            {
                "name": row.name,
                "svg": figures.accuracy_against_beta(row, trajectory, strength, position),
            }
            for position, (row, trajectory) in enumerate(pairs)
        ]
        if strength
        else [],
    }
