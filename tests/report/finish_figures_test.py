"""The figures of a finished run: what is drawn, and what is too much to draw."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np

from ncap_jax.report import drawing, finish_figures
from ncap_jax.winner.metrics import classification_metrics
from tests.support.finished import finished_run, made_up_metrics


def axes_of(monkeypatch, draw):
    """The axes of what a function draws."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "to_svg", lambda figure, *_: found.append(figure) or "")
        draw()
    return found[0].axes[0]


def test_ranking_finish_and_the_epoch_kept_are_told_apart(monkeypatch):
    models = finished_run().models[:1]
    axes = axes_of(monkeypatch, lambda: finish_figures.accuracy_to_the_end(models))
    curve, ranked, kept, end = axes.lines
    accuracy = [100 * record.validation_accuracy for record in models[0].records]
    np.testing.assert_allclose(curve.get_ydata(), accuracy)
    assert ranked.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert ranked.get_markerfacecolor() == "none"
    assert kept.get_xdata().tolist() == [11]
    assert end.get_xdata() == [5, 5]
    loss = axes_of(monkeypatch, lambda: finish_figures.loss_to_the_end(models)).lines[0]
    np.testing.assert_allclose(loss.get_ydata(), [r.validation_loss for r in models[0].records])


def test_a_loss_that_is_not_finite_is_a_gap(monkeypatch):
    (model, _) = finished_run().models
    last = dataclasses.replace(model.records[-1], validation_loss=float("inf"))
    broken = dataclasses.replace(model, records=(*model.records[:-1], last))
    axes = axes_of(monkeypatch, lambda: finish_figures.loss_to_the_end([broken]))
    assert np.isnan(axes.lines[0].get_ydata()[-1])
    assert axes.get_ylim()[1] < 100


def test_the_matrix_has_the_counts_and_the_names_as_they_are():
    """Names are neither mathematics nor markup, nor as long as they like."""
    names = ("$a_b$", "<b>&", "猫", "x" * 300)
    figures = made_up_metrics(names)
    root = ET.fromstring(finish_figures.confusion(figures))
    found = ["".join(n.itertext()) for n in root.iter() if n.tag.endswith("}text")]
    for name in (*names[:3], "x" * 13 + "…"):
        assert found.count(name) == 2
    counts = [str(count) for row in figures.confusion for count in row if count]
    assert sorted(text for text in found if text.isdigit()) == sorted(counts)
    right = sum(row[place] for place, row in enumerate(figures.confusion))
    assert root.get("aria-label", "").startswith(
        f"Confusion matrix of 4 classes: {right} of 200 images on the diagonal"
    )


def test_a_class_without_images_has_an_empty_row():
    figures = classification_metrics([[0.2, 0.8]], [1], ("a", "b"))
    svg = finish_figures.confusion(figures)
    assert "1 of 1 images" in svg


def test_a_matrix_too_large_to_read_is_not_drawn():
    for count, drawn in ((finish_figures.MOST_CELLS, True), (finish_figures.MOST_CELLS + 1, False)):
        names = tuple(map(str, range(count)))
        assert bool(finish_figures.confusion(made_up_metrics(names))) == drawn
