"""`report.html`: the whole answer in one file, without network, readable on any screen.

Which facts of the run it shows, where they are there: `ncap_jax.types.RunInfo`.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ncap_jax import predictor as predictors
from ncap_jax.predictor.base import Predictor
from ncap_jax.predictor.ridge import points
from ncap_jax.report import (
    drawing,
    figures,
    funnel,
    funnel_figure,
    inference,
    pareto,
    text,
    winner_page,
)
from ncap_jax.report.cost import cost, wall_time
from ncap_jax.report.finished import FinishedRun, newer
from ncap_jax.types import RankedModel, Ranking, Strength, Trajectory

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

# At most this many models' accuracy against beta_eff are in sight; the others are a click away.
OPEN_FITS = 8
# The methods that draw such a line; where none of them ranks, all models' are a click away.
LINES = ("published_ridge", "scaled_ridge")


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ncap_jax", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    environment.filters.update(
        percent=text.percent,
        number=text.number,
        duration=text.duration,
        shell=text.shell,
        breakable=_breakable,
    )
    environment.globals["with_std"] = text.with_std
    return environment.get_template("report.html")


def _breakable(name: str) -> Markup:
    """A name that may wrap after its parts: `tiny_` `resnet_` `random`."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[_/.:-])(?=\w)", text.visible(name))
    return Markup("<wbr>").join(map(escape, parts))


def _visible(value: Any) -> Any:
    """What the template is given to print; figures are markup, their words were made visible."""
    return text.visible(value) if type(value) is str else value


def render(ranking: Ranking, finished: FinishedRun | None = None, how_to_finish: str = "") -> str:
    """The page.

    Args:
        ranking: with its trajectories; without them the page has no figures.
        finished: what became of its first models; None: they were not finished.
        how_to_finish: the command that does it, shown where it was not done, or was done with an
            earlier ranking.

    Returns:
        A complete HTML document; names from outside are escaped.
    """
    return _template().render(
        ranking=ranking,
        answer=text.answer(ranking),
        epochs_each=text.epochs_each(ranking),
        finished=None if finished is None else winner_page.parts(finished),
        newer="" if finished is None else newer(finished.ranking, ranking),
        how_to_finish=how_to_finish,
        warnings=text.warnings(ranking),
        metric=text.metric_name(ranking.config.metric),
        metric_note=text.metric_note(ranking),
        learning_rates=text.learning_rates(ranking),
        rows=_rows(ranking),
        has_beta_eff=text.has_beta_eff(ranking),
        methods=_methods(ranking),
        description=_description(ranking),
        cost=cost(ranking),
        wall_time=wall_time(ranking.info.seconds, finished.seconds if finished else None),
        use=_use(ranking),
        left_out=funnel.left_out(ranking),
        funnel=_funnel(funnel.with_finish(ranking, finished)),
        within=f"within {text.points(ranking.config.shortlist_points)}",
        fits_rank=ranking.predictor in LINES,
        open_fits=OPEN_FITS,
        config={k: _plain(v) for k, v in dataclasses.asdict(ranking.config).items()},
        info=ranking.info,
        contact_sheet=base64.b64encode(ranking.info.contact_sheet_png or b"").decode("ascii"),
        **_figures(ranking),
    )


def _funnel(ranking: Ranking) -> dict[str, Any]:
    """The steps from the candidates on, and all that were left out; empty if nobody was."""
    steps = funnel.rows(ranking)
    if not steps:
        return {}
    header, left_out = funnel.HEADER, funnel.in_order(ranking)
    return {
        "title": funnel.TITLE,
        "header": header,
        "rows": steps,
        "left_out": left_out,
        "svg": funnel_figure.figure(ranking),
    }


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _description(ranking: Ranking) -> str:
    chosen = predictors.PREDICTORS.get(ranking.predictor)
    return "" if chosen is None else _described(chosen, ranking).description


def _described(method: Predictor, ranking: Ranking) -> Predictor:
    """A method whose description names the metric that it predicts here."""
    name = text.metric_name(ranking.config.metric)
    words = method.description.replace("validation accuracy", f"validation {name}")
    return dataclasses.replace(method, description=words)


def _rows(ranking: Ranking) -> list[dict[str, Any]]:
    """Table rows: the record, its last beta_eff, and its interval in percent of the axis."""
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
    """What every method predicts: the methods, a row of cells per model, the flags as notes."""
    names = [n for n in predictors.PREDICTORS if any(n in r.predictions for r in ranking.models)]
    notes: list[str] = []
    rows = [
        {"name": row.name, "cells": [_cell(name, row, notes) for name in names]}
        for row in ranking.models
        if row.predictions
    ]
    described = [_described(predictors.PREDICTORS[name], ranking) for name in names]
    return {"methods": described, "rows": rows, "notes": notes}


def _cell(name: str, row: RankedModel, notes: list[str]) -> dict[str, Any]:
    """The prediction as text that may wrap between its parts, and the numbers of its notes."""
    prediction = row.predictions[name]
    flags = prediction.flag.split("; ") if prediction.flag else []
    notes.extend(flag for flag in flags if flag not in notes)
    numbers = [notes.index(flag) + 1 for flag in flags]
    if predictors.PREDICTORS[name].scores_only:
        return {"parts": [text.number(prediction.mean)], "notes": numbers}
    mean, plus_minus, std = text.with_std(prediction.mean, prediction.std).partition("± ")
    return {"parts": [mean.strip(), *filter(None, [plus_minus + std])], "notes": numbers}


def _fits(
    pairs: Sequence[tuple[RankedModel, Trajectory]], strength: Strength | None, metric: str
) -> list[dict[str, str]]:
    """Every model's score against beta_eff; none if no model has a line's two points."""
    if strength is None or all(points(t, strength)[0].size < 2 for _, t in pairs):
        return []
    return [
        {
            "name": row.name,
            "svg": figures.accuracy_against_beta(row, trajectory, strength, position, metric),
        }
        for position, (row, trajectory) in enumerate(pairs)
    ]


def _use(ranking: Ranking) -> dict[str, Any]:
    """What the use of the models costs; empty if nothing is known of it."""
    if not inference.is_known(ranking):
        return {}
    smallest = ranking.smallest
    return {
        "smallest": inference.smallest(ranking),
        "header": inference.header(ranking),
        "rows": [
            {"name": name, "cells": cells, "best": smallest is not None and name == smallest.name}
            for name, *cells in inference.rows(ranking)
        ],
        "note": inference.note(ranking),
        "figures": [
            {"words": axis.words, "svg": pareto.figure(ranking, axis)}
            for axis in pareto.axes_of(ranking)
        ],
    }


def _figures(ranking: Ranking) -> dict[str, Any]:
    pairs = figures.in_rank_order(ranking)
    strength = figures.figure_strength(ranking)
    styles = [
        {"name": row.name, "series": i + 1, "dash": drawing.DASHES[i]}
        for i, (row, _) in enumerate(pairs[: len(drawing.SERIES)])
    ]
    return {
        "strength": strength,
        "legend": styles,
        "others": max(len(pairs) - len(styles), 0),
        "accuracy_svg": figures.accuracy_curves(ranking) if pairs else "",
        "beta_svg": figures.beta_curves(ranking, strength) if strength else "",
        "fits": _fits(pairs, strength, text.metric_name(ranking.config.metric)),
    }
