"""The figures of a ranking: accuracy and β_eff by epoch, and one against the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncap_jax.predictor import PREDICTORS
from ncap_jax.predictor.ridge import fit_line, points
from ncap_jax.predictor.validation_score import as_scored
from ncap_jax.report import drawing, text
from ncap_jax.report.drawing import ACCURACY_AXIS, INK, epoch_ticks, line_style
from ncap_jax.types import STRENGTHS, RankedModel, Ranking, Strength, Trajectory


def figure_strength(ranking: Ranking) -> Strength | None:
    """The beta_eff that the figures show: the predictor's, else absolute, else any recorded."""
    recorded = {s for t in ranking.trajectories for r in t.records for s in r.beta_eff}
    chosen = PREDICTORS.get(ranking.predictor)
    wanted: list[Strength] = ["absolute", ranking.strength, *STRENGTHS]
    if chosen is not None and chosen.strength is not None:
        wanted.insert(0, chosen.strength)
    return next((strength for strength in wanted if strength in recorded), None)


def in_rank_order(ranking: Ranking) -> list[tuple[RankedModel, Trajectory]]:
    """Rows with their trajectories, in rank order; rows without records are left out.

    The trajectories are as the ranking's metric scores them (`as_scored`).
    """
    by_name = {t.model: t for t in as_scored(ranking.trajectories, ranking.config.metric)}
    return [
        (row, by_name[row.name])
        for row in ranking.models
        if row.name in by_name and by_name[row.name].records
    ]


def accuracy_curves(ranking: Ranking) -> str:
    """The validation score against epoch, with the predictions and their two-sigma bars."""
    pairs, metric = in_rank_order(ranking), text.metric_name(ranking.config.metric)
    name = "accuracy"
    with drawing.figure(name, (4.8, 3.3)) as (figure, axes):
        last = max((t.epochs for _, t in pairs), default=0)
        # Drawn last to first, so that the best lie on top.
        for position, (row, trajectory) in reversed(list(enumerate(pairs))):
            accuracy = trajectory.series("validation_accuracy")
            axes.plot(np.arange(accuracy.size), 100 * accuracy, **line_style(position))
            if math.isfinite(row.predicted_accuracy):
                # Spread out sideways, so that bars do not hide one another.
                x = last + 0.7 + 0.6 * position / max(len(pairs) - 1, 1)
                _prediction_bar(axes, x, row, line_style(position))
        ticks = epoch_ticks(last)
        axes.set_xticks([*ticks, last + 1], [*map(str, ticks), "pred."])
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {metric} (%)")
        # A wild extrapolation must not flatten the curves that were measured.
        axes.set_ylim(*np.clip(axes.get_ylim(), *ACCURACY_AXIS))
        alt = (
            f"Validation {metric} of {len(pairs)} models over {last} epochs, with predicted "
            f"{metric} and two standard deviations at the right; the table has the numbers."
        )
        return drawing.to_svg(figure, name, alt)


def _prediction_bar(axes: Any, x: float, row: RankedModel, style: Mapping[str, Any]) -> None:
    """A model's predicted accuracy in percent, with two standard deviations."""
    mean = 100 * row.predicted_accuracy
    spread = 0.0 if math.isnan(row.std) else 200 * row.std
    # No accuracy lies beyond 0 or 100, whatever the normal distribution says.
    down, up = min(spread, max(mean, 0.0)), min(spread, max(100.0 - mean, 0.0))
    axes.errorbar(
        [x],
        [mean],
        yerr=[[down], [up]],
        color=style["color"],
        marker=style["marker"] or ".",
        capsize=2,
        linewidth=1,
    )


def beta_curves(ranking: Ranking, strength: Strength) -> str:
    """beta_eff against epoch, on a logarithmic axis where the values span more than a decade.

    Empty where it was measured once: the table has the number.
    """
    pairs = in_rank_order(ranking)
    if all(np.isfinite(trajectory.beta_eff(strength)).sum() < 2 for _, trajectory in pairs):
        return ""
    name = "beta"
    with drawing.figure(name, (4.8, 3.3)) as (figure, axes):
        seen = []
        for position, (_, trajectory) in reversed(list(enumerate(pairs))):
            beta = trajectory.beta_eff(strength)
            # The line leads over the epochs that were not measured.
            epochs = np.flatnonzero(np.isfinite(beta))
            axes.plot(epochs, beta[epochs], **line_style(position))
            seen.append(beta[epochs])
        values = np.concatenate(seen) if seen else np.zeros(0)
        if values.size and values.min() > 0 and values.max() > 10 * values.min():
            axes.set_yscale("log")
        last = max((t.epochs for _, t in pairs), default=0)
        axes.set_xticks(epoch_ticks(last))
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"β_eff ({strength})")
        alt = f"{strength} beta_eff of {len(pairs)} models over {last} epochs."
        return drawing.to_svg(figure, name, alt)


def accuracy_against_beta(
    row: RankedModel,
    trajectory: Trajectory,
    strength: Strength,
    position: int,
    metric: str = "accuracy",
) -> str:
    """One model: its score against beta_eff, the fitted line to beta_eff = 0 and its 2σ band.

    Args:
        row: of the model.
        trajectory: of the model, as it is scored.
        strength: of beta_eff.
        position: in the ranking, from 0.
        metric: the score in words.
    """
    beta, accuracy, _ = points(trajectory, strength)
    name = f"fit{position}"
    style = line_style(position)
    with drawing.figure(name, (2.9, 2.2)) as (figure, axes):
        axes.scatter(beta, 100 * accuracy, color=style["color"], s=18, zorder=3)
        value = "no fit"
        if beta.size >= 2:
            fit = fit_line(beta, accuracy, scaled=True)
            x = np.linspace(min(0.0, beta.min()), max(0.0, beta.max()), 60)
            line = fit.intercept + fit.slope * x
            band = 2 * fit.line_std(x)
            # No accuracy lies beyond 0 or 1: there the line ends; its band may still reach in.
            inside = np.where((line >= 0) & (line <= 1), line, np.nan)
            axes.plot(x, 100 * inside, color=style["color"], linewidth=1.2)
            low, high = np.clip([line - band, line + band], 0, 1)
            axes.fill_between(x, 100 * low, 100 * high, color=style["color"], alpha=0.2, lw=0)
            value = f"{100 * fit.intercept:.1f} % at 0"
        axes.axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
        axes.set_ylim(*np.clip(axes.get_ylim(), *ACCURACY_AXIS))
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        axes.set_xlabel(f"β_eff ({strength})")
        axes.set_ylabel(f"{metric} (%)")
        alt = f"{row.name}: {metric} against {strength} beta_eff, {beta.size} epochs, line: {value}"
        return drawing.to_svg(figure, name, alt)
