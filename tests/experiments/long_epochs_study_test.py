"""Long epochs: what is read off the packed runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments import long_epochs_study as study
from tests.support.tables import committed, rows

STEPS = [0, 52, 313, 626]


def run(model: str, ends: float, seed: int = 0, head: str = "probe", **changes) -> dict:
    """A run whose accuracy rises in a line to `ends`, and whose beta_eff falls as it rises."""
    accuracy = np.linspace(0.1, ends, len(STEPS))
    betas = [[2 - value, 1 - value] for value in accuracy]
    return {
        "model": model,
        "head": head,
        "seed": seed,
        "step": STEPS,
        "validation_accuracy": accuracy.tolist(),
        "train_accuracy": accuracy.tolist(),
        "validation_loss": (1 - accuracy).tolist(),
        "train_loss": (1 - accuracy).tolist(),
        "running_loss": [None, *(1 - accuracy[1:])],
        "beta_eff_absolute": betas,
        "beta_eff_signed": betas,
        **changes,
    }


THREE = [run("a", 0.9), run("b", 0.7), run("c", 0.5)]
TRUTH = {"a": 0.9, "b": 0.7, "c": 0.5}


def test_signals_read_their_columns():
    one = run("a", 0.9)
    assert study.SIGNALS["accuracy"](one, 3) == 0.9
    assert study.SIGNALS["training loss"](one, 3) == pytest.approx(-0.1)
    assert study.SIGNALS["absolute β_eff"](one, 3) == pytest.approx(-0.6)  # of 1.1 and 0.1
    assert study.SIGNALS["absolute β_eff, one probe"](one, 3) == pytest.approx(-1.1)
    assert study.SIGNALS["absolute β_eff, relative"](one, 3) == pytest.approx(
        -(1.1 / 1.9 + 0.1 / 0.9) / 2
    )
    assert math.isnan(study.SIGNALS["running loss"](one, 0))
    assert math.isnan(study.SIGNALS["absolute β_eff"]({"step": STEPS}, 0))


def test_the_published_line_starts_with_the_second_epoch():
    """Accuracy is 2 - beta_eff of the first probe, and 1.5 - beta_eff of their mean."""
    line = study.SIGNALS["published line"]
    assert math.isnan(line(THREE[0], 1))  # within an epoch
    assert math.isnan(line(THREE[0], 2))  # after the first
    assert line(THREE[0], 3) == pytest.approx(1.5, abs=0.05)


def test_tau_is_that_of_a_step():
    tau = study.tau(THREE, study.SIGNALS["accuracy"], 52, TRUTH)
    assert tau == pytest.approx(1.0)
    assert study.tau(THREE, study.SIGNALS["absolute β_eff"], 52, TRUTH) == pytest.approx(1.0)
    assert study.tau(THREE, study.SIGNALS["accuracy"], 52, {"a": 0.5, "b": 0.7, "c": 0.9}) == -1
    assert math.isnan(study.tau(THREE, study.SIGNALS["accuracy"], 104, TRUTH))
    without = [{**THREE[0], "beta_eff_absolute": [[]] * len(STEPS)}, *THREE[1:]]
    assert study.tau(without, study.SIGNALS["absolute β_eff"], 313, TRUTH) == pytest.approx(1.0)
    none = [{**each, "beta_eff_absolute": [[]] * len(STEPS)} for each in THREE]
    assert math.isnan(study.tau(none, study.SIGNALS["absolute β_eff"], 313, TRUTH))


def test_a_seed_that_lacks_a_model_does_not_count():
    runs = [*THREE, run("a", 0.9, seed=1), run("b", 0.7, seed=1)]
    assert [len(pool) for pool in study.pools(runs, "probe")] == [3]
    assert study.ends(runs, "probe") == pytest.approx(TRUTH)


def test_few_images_blur_the_order():
    few = study.few_images(study.SIGNALS["accuracy"], 10)
    values = [few(THREE[0], 3) for _ in range(50)]
    assert set(np.round(np.array(values) * 10, 6) % 1) == {0}
    assert np.mean(values) == pytest.approx(0.9, abs=0.1)
    assert np.std(values) > 0.03


def test_within_a_run_beta_eff_follows_the_accuracy():
    assert study.within_runs([THREE]) == pytest.approx([1.0, 1.0, 1.0])


def test_what_is_printed_of_a_set():
    runs = [*THREE, *(run(m, end, head="linear") for m, end in TRUTH.items())]
    text = "\n".join(study.sections("some", runs))
    assert "### some, head probe: 3 models, 1 seed" in text
    assert "| accuracy | 1.00 |  |  |  | 1.00 | 1.00 |  |  |  |" in text
    assert "Within a run: median 1.00, 1.00 to 1.00." in text


@pytest.mark.parametrize("draws", [0, pytest.param(200, marks=pytest.mark.slow)])
def test_the_tables_are_those_that_are_committed(draws, capsys, monkeypatch):
    """The accuracy of few images, whose draws take most of the time, is in the slow test alone."""
    drawn = []
    monkeypatch.setattr(
        study.comparison_figures, "tau_after_steps", lambda panels, steps: drawn.append(panels)
    )
    if not draws:
        monkeypatch.setattr(study, "FEW_IMAGES", ())
    study.main([])
    printed, left = rows(capsys.readouterr().out), committed("long_epochs_study")
    assert len(printed) > 10
    if draws:
        assert printed == left
    else:
        assert [line for line in printed if line not in left] == []
    assert drawn


@pytest.mark.parametrize(("count", "rows"), [(3, 1), (4, 1), (5, 2), (8, 2)])
def test_many_panels_are_drawn_in_rows(count, rows):
    figure, axes = study.comparison_figures._panels(count, "white")
    grids = [axis.get_subplotspec().get_gridspec() for axis in axes]
    assert len(axes) == count
    assert {grid.nrows for grid in grids} == {rows}
    assert sum(axis.axison for axis in figure.axes) == count
