"""Figures of the studies: β_eff against accuracy, τ against cost, τ after so many steps."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.tasks import EARLY, Task

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
# Okabe and Ito's colours: told apart with every common colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Panels beside one another; of more there are several rows.
IN_A_ROW = 4


def beta_eff_against_accuracy(tasks: Sequence[Task], epochs: int) -> pathlib.Path:
    """Absolute β_eff of the probe after n epochs against the accuracy after full fine-tuning."""
    figure, axes = _panels(len(tasks), "white")
    for axis, task in zip(axes, tasks, strict=True):
        for i, trajectory in enumerate(task.pools[0]):
            betas = [pool[i].beta_eff("absolute")[epochs] for pool in task.pools]
            axis.plot(
                betas,
                [100 * task.truth[i]] * len(betas),
                MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markersize=4,
                label=trajectory.model.removeprefix("tiny_"),
            )
        axis.set(title=task.name, xlabel=f"absolute β_eff after {epochs} epochs")
    axes[0].set_ylabel("accuracy at the end, %")
    axes[-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _save(figure, "beta_eff_accuracy.svg")


def tau_against_cost(
    taus: Mapping[str, Mapping[str, Sequence[float]]], costs: Mapping[str, Sequence[float]]
) -> pathlib.Path:
    """Kendall τ with the truth against CPU seconds as a share of full fine-tuning's.

    Args:
        taus: head -> method -> τ after each of `EARLY` epochs, NaN where there is none.
        costs: head -> share after each of `EARLY` epochs.
    """
    figure, axes = _panels(len(taus), "white")
    for axis, (head, methods) in zip(axes, taus.items(), strict=True):
        for i, (name, values) in enumerate(methods.items()):
            style = f"{MARKERS[i % len(MARKERS)]}-"
            axis.plot(
                100 * np.asarray(costs[head]),
                values,
                style,
                color=COLOURS[i % len(COLOURS)],
                markersize=4,
                label=name,
            )
        axis.set(title=f"head={head}", xlabel="cost, % of full fine-tuning", ylim=(-0.2, 1.0))
    axes[0].set_ylabel(f"Kendall τ, n = {', '.join(map(str, EARLY))}")
    axes[-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _save(figure, "tau_cost.svg")


def tau_after_steps(
    panels: Mapping[str, Mapping[str, Sequence[float]]], steps: Sequence[int]
) -> pathlib.Path:
    """Kendall τ with the truth within and after the first long epochs.

    Args:
        panels: title -> signal -> τ after each number of steps, NaN where there is none.
        steps: the numbers.
    """
    figure, axes = _panels(len(panels), "white")
    for axis, (title, signals) in zip(axes, panels.items(), strict=True):
        for i, (name, values) in enumerate(signals.items()):
            style = f"{MARKERS[i]}-"
            axis.plot(steps, values, style, color=COLOURS[i], markersize=4, label=name)
        axis.set(title=title, xlabel="steps", xscale="log", ylim=(-0.7, 1.0))
        axis.axhline(0.0, color="0.8", linewidth=0.8, zorder=0)
        axis.title.set_fontsize(7)
    axes[0].set_ylabel("Kendall τ with the end")
    axes[-1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return _save(figure, "long_epochs.svg")


def _panels(count: int, colour: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    rows = math.ceil(count / IN_A_ROW)
    columns = math.ceil(count / rows)
    size = (3.0 * columns + 1.2, 3.0 * rows)
    figure = Figure(figsize=size, layout="constrained", facecolor=colour)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def _save(figure: Any, name: str) -> pathlib.Path:
    import matplotlib

    path = DOCS / name
    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": 8}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path
