"""The figures of `experiments.reproduce_paper`, as SVG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import paper_tables as tables
from experiments.paper_tables import Results
from ncap_jax import errors
from ncap_jax.types import Strength, Trajectory

MARKERS = "os^DvPX<>p*h8d"
SHOWN: tuple[str, ...] = ("published_ridge", "scaled_ridge", "best_seen", "last_seen", "power_law")
SHOWN += ("curve_families", "baker_svr", "logme")


def draw(results: Results) -> dict[str, str]:
    """File name -> SVG."""
    figures = {
        "beta_eff": beta_eff(results),
        "predicted": predicted(results),
        "relative_accuracy": relative_accuracy(results),
        "effects": effects(results),
        "time": time(results),
    }
    return {f"{results.name}_{name}.svg": svg for name, svg in figures.items()}


def _axes(count: int, width: float = 4.2) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, 3.4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    style: Any = {"svg.hashsalt": "paper", "svg.fonttype": "none"}
    with matplotlib.rc_context(style):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _look(number: int) -> dict[str, Any]:
    """Colour and marker, which together differ for all 17 models."""
    return {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)], "markersize": 4}


def _legend(axis: Any) -> None:
    axis.legend(fontsize="xx-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def beta_eff(results: Results) -> str:
    """β_eff against validation accuracy, a line a model, its epochs in order; the first seed."""
    figure, axes = _axes(2)
    models = results.models()
    strengths: tuple[Strength, ...] = ("signed", "absolute")
    for axis, strength in zip(axes, strengths, strict=True):
        for number, run in enumerate(results.pools("probe", models)[0]):
            x, y = run.beta_eff(strength)[1:], 100 * run.series("validation_accuracy")[1:]
            axis.plot(x, y, linewidth=0.8, label=run.model, **_look(number))
            # The ring is the last epoch.
            axis.plot(x[-1:], y[-1:], "o", markersize=9, fillstyle="none", color=f"C{number % 10}")
        axis.set(xlabel=f"β_eff ({strength})", ylabel="validation accuracy (%)")
    axes[0].axvline(0, color="#999999", linewidth=0.8)
    _legend(axes[1])
    return _svg(figure)


def predicted(results: Results) -> str:
    """Predicted against final accuracy with the prediction's standard deviation; all seeds."""
    figure, axes = _axes(3)
    models = results.models()
    truth = 100 * results.ends("probe", models)
    for axis, method in zip(axes, (*tables.RIDGES, "last_seen"), strict=True):
        found = tables.predictions(results, method, models, results.epochs)
        for number, model in enumerate(models):
            column = [row[number] for row in found]
            axis.errorbar(
                truth[:, number],
                [100 * p.mean for p in column],
                yerr=[100 * p.std if np.isfinite(p.std) else 0.0 for p in column],
                linestyle="none",
                label=model,
                **_look(number),
            )
        low, high = truth.min(), truth.max()
        axis.plot([low, high], [low, high], color="#999999", linewidth=0.8)
        axis.set(xlabel="final accuracy (%)", ylabel=f"{method}, {results.epochs} epochs (%)")
    _legend(axes[2])
    return _svg(figure)


def relative_accuracy(results: Results) -> str:
    """Best accuracy among the k models predicted best, over the best of all, against k."""
    figure, axes = _axes(max(len(results.truths), 1))
    for axis, head in zip(axes, results.truths):
        models = results.models(head)
        truth = results.ends(head, models).mean(axis=0)
        ks = range(1, len(models) + 1)
        for number, method in enumerate(SHOWN):
            try:
                found = tables.values(tables.predictions(results, method, models, results.epochs))
            except errors.ConfigError:  # too few finished runs for it to learn from
                continue
            values = [tables.relative(found, truth, k) for k in ks]
            axis.plot(ks, values, label=method, linewidth=1.0, **_look(number))
        axis.set(xlabel="k", ylabel="relative accuracy of the top k", title=f"head={head}")
        axis.set_xticks(ks)
        _legend(axis)
    return _svg(figure)


def effects(results: Results) -> str:
    """Kendall τ of the ridges against the number of epochs, the starting epoch and the probe."""
    figure, axes = _axes(3)
    length, starts = tables.starts(results)
    numbers, probes = tables.numbers(results), results.probes
    panels: list[tuple[str, list, list]] = [
        ("first n epochs", numbers, [(results, n, 1) for n in numbers]),
        (f"{length} epochs from", starts, [(results, length, s) for s in starts]),
        (
            "widths of the probe",
            ["main", *(kind.removeprefix("probe_") for kind in probes)],
            [
                (part, results.epochs, 1)
                for part in (results, *(tables.with_probe(results, kind) for kind in probes))
            ],
        ),
    ]
    for axis, (label, ticks, cases) in zip(axes, panels, strict=True):
        for number, method in enumerate((*tables.RIDGES, "last_seen")):
            taus = [tables.tau_and_error(part, method, n, start)[0] for part, n, start in cases]
            axis.plot(range(len(ticks)), taus, label=method, linewidth=1.0, **_look(number))
        axis.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
        axis.set(xlabel=label, ylabel="Kendall τ with the end", ylim=(-1.05, 1.05))
    _legend(axes[2])
    return _svg(figure)


def time(results: Results) -> str:
    """Seconds of the first epochs and of all, a pair of bars a model; means over seeds."""
    figure, (axis,) = _axes(1, width=6.0)
    models = results.models()
    pools = results.pools("probe", models)

    def seconds(run: Trajectory, last: int | None) -> float:
        return float(run.series("seconds")[:last].sum())

    for shift, (label, last) in enumerate((("all", None), ("first", results.epochs + 1))):
        means = np.mean([[seconds(run, last) for run in pool] for pool in pools], axis=0)
        axis.barh(np.arange(len(models)) - 0.2 + 0.4 * shift, means, height=0.4, label=label)
    axis.set_yticks(range(len(models)), models)
    axis.set(xlabel=f"seconds: all epochs, and the first {results.epochs}")
    axis.legend(frameon=False)
    return _svg(figure)
