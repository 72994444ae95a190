"""The table in the terminal: every width, no colour codes in files."""

from __future__ import annotations

import dataclasses
import io
import sys

import pytest
from rich.cells import cell_len

from ncap_jax.options import RankConfig
from ncap_jax.report import console, format_ranking
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import LeftOut, Trajectory
from ncap_jax.zoo import MODELS
from tests.support import hidden
from tests.support.costs import priced
from tests.support.pool import make_pool, measured_after, with_last


def test_shows_every_model_in_order_and_the_answer():
    ranking = rank_trajectories(make_pool(), "digits")
    lines = format_ranking(ranking, width=120).splitlines()
    positions = [
        next(i for i, line in enumerate(lines) if row.name in line.split())
        for row in ranking.models
    ]
    assert positions == sorted(positions)
    text = "\n".join(lines)
    assert "digits" in lines[0]
    assert f"Fine-tune {ranking.best.name}: predicted" in text
    best = ranking.best
    assert f"{100 * best.predicted_accuracy:.1f} ± {100 * best.std:.1f} %" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_never_wider_than_asked_and_numbers_stay_whole(width):
    ranking = rank_trajectories(make_pool(), "digits")
    text = format_ranking(ranking, width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for row in ranking.models:
        assert f"{100 * row.predicted_accuracy:.1f} ± {100 * row.std:.1f} %" in text


def test_without_beta_eff_there_is_no_column_for_it():
    pool = make_pool(3)
    for measured, shown in ((range(6), True), ((0, 5), True), ((), False)):
        ranking = rank_trajectories([measured_after(t, measured) for t in pool], "digits")
        header = format_ranking(ranking, width=160).splitlines()[2]
        assert ("β_eff" in header) == shown
        assert "best seen" in header


def test_costs_have_columns_where_they_are_known():
    plain = rank_trajectories(make_pool(3), "digits")
    for ranking, shown in (
        (plain, set()),
        (priced(plain), {"params", "FLOPs"}),
        (priced(plain, measured=True), {"params", "FLOPs", "latency"}),
    ):
        text = format_ranking(ranking, width=180)
        header = text.splitlines()[2].split()
        assert {"params", "FLOPs", "latency"} & set(header) == shown
        assert ("smallest within one point" in text) == bool(shown)
        for width in (40, 60, 80, 100, 120):
            narrow = format_ranking(ranking, width=width)
            assert max(cell_len(line) for line in narrow.splitlines()) <= width
            assert ("params" in narrow.splitlines()[2]) == (bool(shown) and width >= 100)


def test_models_that_were_left_out_are_said():
    ranking = rank_trajectories(make_pool(2), "digits")
    left_out = (LeftOut("big", "9 parameters, more than max_parameters=8"),)
    text = format_ranking(dataclasses.replace(ranking, left_out=left_out), width=120)
    assert "Left out before training: big, 9 parameters, more than max_parameters=8." in text


def test_color_only_where_asked():
    ranking = rank_trajectories(make_pool(), "digits")
    assert "\x1b[" not in format_ranking(ranking)
    assert "\x1b[" not in str(ranking)
    assert "\x1b[" in format_ranking(ranking, color=True)


def test_a_table_for_a_terminal_without_unicode(monkeypatch):
    """The columns stand in line, though some words are longer."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    shown = format_ranking(rank_trajectories(make_pool(3), "digits"), width=120).splitlines()
    models = console.format_models(list(MODELS.values()), dict.fromkeys(MODELS, "cache"), width=100)
    assert "\n".join(shown).isascii()
    assert models.isascii()
    assert shown[2].split()[:3] == ["#", "model", "predicted"]
    assert "beta_eff" in shown[2]
    assert set(shown[3].strip()) == {"-"}
    ends = {line.index("ok") for line in shown[4:7]}
    assert ends == {shown[2].index("status")}
    assert "+-" in shown[4]


def test_markup_in_names_is_text():
    pool = [dataclasses.replace(t, model=f"[red]{t.model}[/]") for t in make_pool(2)]
    assert "[red]model_0[/]" in format_ranking(rank_trajectories(pool, "[b]x[/b]"), width=120)


def test_failures_flags_and_ties_are_said():
    pool = make_pool()
    pool[2] = dataclasses.replace(pool[2], status="diverged", message="loss became NaN")
    pool[3] = with_last(pool[3], validation_loss=float("nan"))
    pool.append(dataclasses.replace(pool[0], model="twin"))
    text = format_ranking(rank_trajectories(pool, "digits"), width=140)
    assert "! model_2: diverged – loss became NaN" in text
    assert "! model_3: a loss or beta_eff of the last epoch is missing or not finite" in text
    assert "With 90 % certainty, one of " in text
    assert "ok, shortlist" in text
    assert "within 1 pt" in text


def test_nothing_to_rank():
    ranking = rank_trajectories([Trajectory("a", "probe", (), "failed", "broken")], "digits")
    text = format_ranking(ranking)
    assert "No model could be ranked" in text
    assert "a: failed – broken" in text


def test_predictor_without_uncertainty():
    ranking = rank_trajectories(make_pool(2), "digits", RankConfig(predictor="last_seen"))
    assert "nan" not in format_ranking(ranking).lower()


def test_control_characters_are_written_out():
    ranking = hidden.ranking()
    shown = format_ranking(ranking, width=200)
    assert hidden.found(shown) == []
    for name in hidden.WRITTEN:
        assert name in shown


def test_the_registry_is_readable_at_any_width():
    """Long licence texts wrap; names and numbers stay whole."""
    specs = list(MODELS.values())
    for width in (80, 100, 140):
        text = console.format_models(specs, dict.fromkeys(MODELS, "download"), width=width)
        assert max(map(len, text.splitlines())) <= width
        for spec in specs:
            assert f"{spec.name} " in text
            assert f" {spec.parameters:,} " in text
        assert text.count(" download ") == len(specs)
        assert ("description" in text) == (width > 80)
