"""What `winner.html` prints of a finished run: its words, rows and figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ncap_jax.report import drawing, finish_figures, finished, text
from ncap_jax.report.finished import FinishedModel, FinishedRun, WrongImage

if TYPE_CHECKING:
    from ncap_jax.winner.metrics import ClassificationMetrics

# Characters of a class and of a path; who gives longer ones does not stretch the page.
CLASS, PATH = 60, 70


def parts(run: FinishedRun) -> dict[str, Any]:
    """The names that the template uses; texts are plain, the figures are markup."""
    facts, metrics = run.facts, run.metrics
    return {
        "name": facts.name,
        "answer": finished.answer(facts),
        "uses": finished.uses(run.folder) if run.folder else None,
        "summary_header": finished.SUMMARY,
        "summary": [_row(cells) for cells in finished.summary_rows(facts)],
        "caution": finished.caution(facts),
        "scaling": finished.scaling(facts),
        "metric": text.metric_name(run.metric),
        "models_header": finished.finished_header(run.metric),
        "models": [
            _row(cells, best=cells[0] == facts.name) for cells in finished.finished_rows(run.models)
        ],
        "seconds": sum(each.seconds for each in run.models),
        "legend": _legend(run.models),
        "accuracy_svg": finish_figures.accuracy_to_the_end(run.models, run.metric),
        "loss_svg": finish_figures.loss_to_the_end(run.models),
        "part": run.part,
        "num_classes": len(metrics.classes),
        "classes": _classes(metrics),
        "confusion_svg": finish_figures.confusion(metrics),
        "confused": _confused(metrics),
        "wrong": [_wrong(each) for each in run.wrong],
    }


def _row(cells: Sequence[str], *, best: bool = False) -> dict[str, Any]:
    name, *others = cells
    return {"name": name, "cells": others, "best": best}


def _legend(models: Sequence[FinishedModel]) -> list[dict[str, str]]:
    """Line styles and the models that have them, in the order of the ranking."""
    known = len(drawing.SERIES)
    return [
        {
            "name": model.name,
            "color": f"var(--s{place + 1})" if place < known else "var(--other)",
            "dash": drawing.DASHES[place] if place < known else "",
        }
        for place, model in enumerate(models)
    ]


def _classes(metrics: ClassificationMetrics) -> list[dict[str, Any]]:
    return [
        _row(
            [
                text.shortened(each.name, CLASS),
                f"{each.support:,}",
                *(
                    "–" if share is None else text.percent(share)
                    for share in (each.precision, each.recall, each.f1)
                ),
            ]
        )
        for each in finished.weakest_classes(metrics)
    ]


def _confused(metrics: ClassificationMetrics) -> list[dict[str, Any]]:
    return [
        _row(
            [
                text.shortened(pair.true, CLASS),
                text.shortened(pair.predicted, CLASS),
                f"{pair.images:,}",
                text.percent(pair.share, 0),
            ]
        )
        for pair in finished.most_confused(metrics)
    ]


def _wrong(image: WrongImage) -> dict[str, Any]:
    mistake = image.mistake
    return {
        "number": f"image {mistake.index}",
        "name": text.ending(image.name, PATH),
        "true": text.shortened(mistake.true, CLASS),
        "predicted": text.shortened(mistake.predicted, CLASS),
        "probability": mistake.probability,
        "png": base64.b64encode(image.png).decode("ascii"),
    }
