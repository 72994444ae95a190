"""The figures as SVG: what is drawn, in whose colours, and which beta_eff."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest

from ncap_jax.options import RankConfig
from ncap_jax.predictor.ridge import fit_line, points
from ncap_jax.report import drawing, figures
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import EpochRecord, Ranking, Trajectory
from tests.support.pool import make_pool, measured_after, with_accuracies


def ranked(models: int = 3, **changes: str) -> Ranking:
    return rank_trajectories(make_pool(models), "digits", RankConfig(**changes))


def with_beta(trajectory: Trajectory, values: Sequence[float]) -> Trajectory:
    """The trajectory with these absolute beta_eff, epoch 0's first."""
    records: list[EpochRecord] = [
        dataclasses.replace(record, beta_eff={"absolute": (float(value),)})
        for record, value in zip(trajectory.records, values, strict=True)
    ]
    return dataclasses.replace(trajectory, records=tuple(records))


def words(svg: str) -> list[str]:
    """The texts of a figure."""
    texts = (node for node in ET.fromstring(svg).iter() if node.tag.endswith("}text"))
    # Powers of ten are laid out digit by digit, with white space between.
    return [re.sub(r"\n\s+", "", "".join(node.itertext()).strip()) for node in texts]


def test_accuracy_curves_show_every_model_and_its_prediction():
    ranking = ranked(3)
    svg = figures.accuracy_curves(ranking)
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith("Validation accuracy of 3 models over 5 epochs")
    assert {"epoch", "validation accuracy (%)", "pred.", "0", "5"} <= set(words(svg))
    # A curve and a bar each, in the model's colour.
    for number in (1, 2, 3):
        assert svg.count(f"stroke: var(--s{number})") >= 2
    assert "var(--s4)" not in svg


def test_a_model_without_a_rank_has_a_curve_and_no_prediction():
    pool = make_pool(2)
    pool[1] = dataclasses.replace(pool[1], status="diverged", message="loss became NaN")
    both = figures.accuracy_curves(rank_trajectories(make_pool(2), "digits"))
    one = figures.accuracy_curves(rank_trajectories(pool, "digits"))
    assert 0 < one.count("var(--s2)") < both.count("var(--s2)")


def test_models_beyond_the_seventh_share_a_grey_line():
    ranking = ranked(9)
    svg = figures.accuracy_curves(ranking)
    assert "var(--s7)" in svg
    assert "var(--other)" in svg
    assert "var(--other)" not in figures.accuracy_curves(ranked(7))


def test_colours_are_the_pages_and_ids_belong_to_one_figure():
    ranking = ranked(2)
    one, other = figures.accuracy_curves(ranking), figures.beta_curves(ranking, "absolute")
    for svg in (one, other):
        assert "#c0ff" not in svg
        assert not re.search(r"(?:fill|stroke): #[0-9a-f]{3,6}", svg)
        assert not re.match(r"<svg[^>]* (?:width|height)=", svg)  # as wide as the page
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
    assert all(ids)
    assert not ids[0] & ids[1]
    for svg, known in zip((one, other), ids):
        assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg)) <= known


def test_the_same_ranking_draws_the_same_figure():
    assert figures.accuracy_curves(ranked(2)) == figures.accuracy_curves(ranked(2))


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([1.0, 0.5, 0.05], True), ([1.0, 0.5, 0.2], False), ([1.0, 0.5, -0.01], False)],
)
def test_beta_eff_over_more_than_a_decade_is_logarithmic(values: list[float], logarithmic: bool):
    (trajectory,) = make_pool(1, epochs=2)
    ranking = rank_trajectories([with_beta(trajectory, values)], "digits")
    svg = figures.beta_curves(ranking, "absolute")
    assert "β_eff (absolute)" in words(svg)
    assert ("10−1" in words(svg)) == logarithmic


def test_the_fit_states_its_value_at_zero():
    (row,), (trajectory,) = ranked(1).models, make_pool(1)
    beta, accuracy, _ = points(trajectory, "absolute")
    at_zero = 100 * fit_line(beta, accuracy, scaled=True).intercept
    svg = figures.accuracy_against_beta(row, trajectory, "absolute", position=0)
    label = ET.fromstring(svg).get("aria-label")
    assert label == (
        f"model_0: accuracy against absolute beta_eff, 5 epochs, line: {at_zero:.1f} % at 0"
    )
    short = dataclasses.replace(trajectory, records=trajectory.records[:2])
    svg = figures.accuracy_against_beta(row, short, "absolute", position=0)
    assert ET.fromstring(svg).get("aria-label", "").endswith("1 epochs, line: no fit")


@pytest.mark.parametrize("accuracies", [(0.3, 0.6, 0.9), (0.9, 0.5, 0.1)])
def test_no_line_leaves_the_range_of_accuracies(monkeypatch, accuracies):
    """A line to beta_eff = 0 that would reach 120 % or -30 % ends at 100 % or 0 %."""
    (trajectory,) = make_pool(1, epochs=2)
    falling = with_beta(with_accuracies(trajectory, accuracies), [3.0, 2.0, 1.0])
    (row,) = rank_trajectories([falling], "digits").models
    drawn = []
    monkeypatch.setattr(drawing, "to_svg", lambda figure, *_: drawn.append(figure) or "")
    figures.accuracy_against_beta(row, falling, "absolute", position=0)
    beta, accuracy, _ = points(falling, "absolute")
    at_zero = fit_line(beta, accuracy, scaled=True).intercept
    assert at_zero > 1 or at_zero < 0
    (axes,) = drawn[0].axes
    heights = [*axes.lines[0].get_ydata(), *axes.collections[1].get_paths()[0].vertices[:, 1]]
    assert np.nanmin(heights) >= 0
    assert np.nanmax(heights) <= 100
    low, high = axes.get_ylim()
    assert -5 < low < high < 105


def test_values_that_are_not_finite_are_not_drawn():
    (trajectory,) = make_pool(1, epochs=2)
    ranking = rank_trajectories([with_beta(trajectory, [1.0, np.nan, np.inf])], "digits")
    assert "nan" not in figures.beta_curves(ranking, "absolute").lower()


def test_a_line_leads_over_epochs_that_were_not_measured(monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "to_svg", lambda figure, *_: drawn.append(figure) or "")
    pool = [measured_after(t, {0, 5}) for t in make_pool(2)]
    figures.beta_curves(rank_trajectories(pool, "digits"), "absolute")
    (axes,) = drawn[0].axes
    for line in axes.lines:
        assert line.get_xdata().tolist() == [0, 5]
        assert np.isfinite(line.get_ydata()).all()


def test_rows_without_records_are_left_out_of_the_figures():
    pool = [*make_pool(2), Trajectory("failed", "probe", (), "failed", "broken")]
    pairs = figures.in_rank_order(rank_trajectories(pool, "digits"))
    assert [row.rank for row, _ in pairs] == [1, 2]
    assert all(row.name == trajectory.model for row, trajectory in pairs)


def test_the_strength_follows_predictor_and_record():
    choose = figures.figure_strength
    assert choose(ranked(2)) == "absolute"
    assert choose(ranked(2, predictor="last_seen")) == "absolute"
    assert choose(ranked(2, predictor="published_ridge")) == "signed"
    assert choose(dataclasses.replace(ranked(2), trajectories=())) is None
    only_signed = [
        dataclasses.replace(
            t,
            records=tuple(
                dataclasses.replace(r, beta_eff={"signed": r.beta_eff["signed"]}) for r in t.records
            ),
        )
        for t in make_pool(2)
    ]
    assert choose(rank_trajectories(only_signed, "digits")) == "signed"
