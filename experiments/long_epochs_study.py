"""What ranks models within and after the first long epochs: beta_eff, accuracy or a loss?

    python -m experiments.long_epochs_study

Reads experiments/corpus/long_epochs, the runs of `experiments.build_long_epochs`: epochs of 313
steps, as long as the paper's, looked at before training, five times in each of the first two
epochs, and after every later one. Takes seconds.

Signals, after so many steps:

- absolute, signed: minus beta_eff of that strength, mean over the probes; of one probe; and of its
  value before training (relative);
- published line: accuracy at beta_eff = 0 by the paper's Bayesian ridge, from the second epoch on;
- accuracy, validation loss; training loss, of the measurement subset; running loss, of the batches
  since the last look.

Kendall's tau with where models end: in ordinary fine-tuning (head `linear`), or in the run's own
kind; mean over seeds, which are the truth together. `few images`: with the accuracy of m images, by
binomial noise, mean of DRAWS draws. `within a run`: correlation of minus beta_eff with accuracy
over the looks of one run.

Only kinds of runs whose seeds lack no model are in the tables. It draws docs/long_epochs.svg, too.

Expected result: experiments/tables/long_epochs_study.md; what follows: docs/results/long-epochs.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app

from experiments import build_long_epochs, comparison_figures
from ncap_jax.options import HEADS, Head
from ncap_jax.predictor import PREDICTORS
from ncap_jax.run import facts
from ncap_jax.selection.metrics import kendall_tau
from ncap_jax.types import EpochRecord, Trajectory

Run = Mapping[str, Any]
# A run and the place of a look in it -> a score, higher is better; NaN: none.
Signal = Callable[[Run, int], float]

# Of one epoch: 10,000 images in batches of 32, the last of them smaller.
EPOCH = 313
STEPS = (*build_long_epochs.MARKS, *(EPOCH * epochs for epochs in (1, 2, 3, 5, 10)))
FEW_IMAGES = (44, 100, 300, 1000)
DRAWS = 200


def number(value: float | None) -> float:
    """NaN where nothing finite was recorded."""
    return math.nan if value is None else float(value)


def column(name: str, sign: float = 1.0) -> Signal:
    """What was recorded, or minus that."""
    return lambda run, i: sign * number(run[name][i])


def beta_eff(strength: str, *, relative: bool = False, probes: int | None = None) -> Signal:
    """Minus beta_eff, mean over the probes; `relative`: as a share of that before training."""

    def signal(run: Run, i: int) -> float:
        looks = run.get(f"beta_eff_{strength}")
        if looks is None:
            return math.nan
        values = np.array([number(v) for v in looks[i][:probes]])
        if relative:
            values = values / np.array([number(v) for v in looks[0][:probes]])
        return -float(np.mean(values)) if values.size else math.nan

    return signal


def published_line(run: Run, i: int) -> float:
    """The paper's extrapolation from the ends of the epochs so far."""
    if run["step"][i] % EPOCH or run["step"][i] < 2 * EPOCH or "beta_eff_signed" not in run:
        return math.nan
    (found,) = PREDICTORS["published_ridge"]([trajectory(run)], run["step"][i] // EPOCH)
    return found.mean


def trajectory(run: Run) -> Trajectory:
    """A run as the predictors see it, with the looks before training and at the ends of epochs."""
    ends = [i for i, step in enumerate(run["step"]) if step % EPOCH == 0]
    records = tuple(record(run, i, epoch) for epoch, i in enumerate(ends))
    return Trajectory(run["model"], run["head"], records)


def record(run: Run, i: int, epoch: int) -> EpochRecord:
    """One look as the predictors see it; one network is too short for a beta_eff of the whole."""
    betas = run.get("beta_eff_signed", ())[i:]
    signed = tuple(map(number, betas[0])) if betas else ()
    return EpochRecord(
        epoch,
        train_loss=number(run["train_loss"][i]),
        train_accuracy=number(run["train_accuracy"][i]),
        validation_loss=number(run["validation_loss"][i]),
        validation_accuracy=number(run["validation_accuracy"][i]),
        beta_eff={"signed": signed} if signed else {},
        beta_eff_status={"signed": ("ok",) * len(signed)} if signed else {},
        steps=run["step"][i],
    )


SIGNALS: Mapping[str, Signal] = {
    "absolute β_eff": beta_eff("absolute"),
    "absolute β_eff, one probe": beta_eff("absolute", probes=1),
    "absolute β_eff, relative": beta_eff("absolute", relative=True),
    "signed β_eff": beta_eff("signed"),
    "published line": published_line,
    "accuracy": column("validation_accuracy"),
    "validation loss": column("validation_loss", -1),
    "training loss": column("train_loss", -1),
    "running loss": column("running_loss", -1),
}
NO_IMAGES = ("absolute β_eff", "training loss")


def ends(runs: Sequence[Run], head: Head) -> dict[str, float]:
    """Model -> validation accuracy at the end of a kind of runs, mean over seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run["head"] == head:
            found.setdefault(run["model"], []).append(number(run["validation_accuracy"][-1]))
    return {model: float(np.mean(values)) for model, values in found.items()}


def pools(runs: Sequence[Run], head: Head) -> list[list[Run]]:
    """The runs of one kind, a list for each seed that lacks no model."""
    models = {run["model"] for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    found = [
        sorted(
            (run for run in runs if (run["head"], run["seed"]) == (head, seed)),
            key=lambda run: run["model"],
        )
        for seed in seeds
    ]
    return [pool for pool in found if len(pool) == len(models)]


def tau(pool: Sequence[Run], signal: Signal, step: int, truth: Mapping[str, float]) -> float:
    """Of one seed; NaN where a run lacks the look, or more than one lacks the signal.

    One network is too short for a beta_eff of the whole, and is left out of that signal.
    """
    if any(step not in run["step"] for run in pool):
        return math.nan
    scores = np.array([signal(run, run["step"].index(step)) for run in pool])
    goal = np.array([truth[run["model"]] for run in pool])
    known = np.isfinite(scores)
    return kendall_tau(scores[known], goal[known]) if sum(~known) <= 1 else math.nan


def mean_tau(
    found: Sequence[Sequence[Run]], signal: Signal, step: int, truth: Mapping[str, float]
) -> float:
    """Mean over seeds."""
    return float(np.mean([tau(pool, signal, step, truth) for pool in found]))


def cell(value: float) -> str:
    """Two digits, or nothing."""
    return f"{value:.2f}" if math.isfinite(value) else ""


def table(found: Sequence[Sequence[Run]], truth: Mapping[str, float]) -> str:
    """All signals by steps."""
    lines = [f"| signal | {' | '.join(map(str, STEPS))} |", "|---" * (len(STEPS) + 1) + "|"]
    for name, signal in SIGNALS.items():
        taus = [mean_tau(found, signal, step, truth) for step in STEPS]
        if np.any(np.isfinite(taus)):
            lines.append(f"| {name} | {' | '.join(map(cell, taus))} |")
    return "\n".join(lines)


def few_images(accuracy: Signal, images: int) -> Signal:
    """The accuracy of so many images, drawn anew at each call."""
    rng = np.random.default_rng(0)

    def signal(run: Run, i: int) -> float:
        return rng.binomial(images, accuracy(run, i)) / images

    return signal


def few_images_table(found: Sequence[Sequence[Run]], truth: Mapping[str, float]) -> str:
    """What needs no validation images beside the accuracy of few."""
    lines = [f"| signal | {' | '.join(map(str, STEPS))} |", "|---" * (len(STEPS) + 1) + "|"]
    for name in NO_IMAGES:
        taus = [mean_tau(found, SIGNALS[name], step, truth) for step in STEPS]
        lines.append(f"| {name} | {' | '.join(map(cell, taus))} |")
    for images in FEW_IMAGES:
        signal = few_images(SIGNALS["accuracy"], images)
        taus = [
            float(np.mean([mean_tau(found, signal, step, truth) for _ in range(DRAWS)]))
            for step in STEPS
        ]
        lines.append(f"| accuracy of {images} images | {' | '.join(map(cell, taus))} |")
    return "\n".join(lines)


def within_runs(found: Sequence[Sequence[Run]]) -> np.ndarray:
    """Correlations of minus the absolute beta_eff with the accuracy, a number for each run."""
    signal, accuracy = SIGNALS["absolute β_eff"], SIGNALS["accuracy"]
    values = []
    for run in (run for pool in found for run in pool):
        looks = range(1, len(run["step"]))
        pair = [[one(run, i) for i in looks] for one in (signal, accuracy)]
        if np.all(np.isfinite(pair)) and min(map(np.ptp, pair)) > 0:
            values.append(float(np.asarray(np.corrcoef(pair))[0, 1]))
    return np.array(values)


def spread_of_ends(found: Sequence[Sequence[Run]]) -> str:
    """How close models end, the lowest one apart, and how much an epoch changes at the end."""
    runs = [run["validation_accuracy"] for pool in found for run in pool]
    last = sorted(100 * run[-1] for run in runs)
    steps = np.abs(np.diff([[100 * a for a in run[-5:]] for run in runs]))
    return (
        f"All but the lowest end between {last[1]:.1f} and {last[-1]:.1f} %; from one of the last "
        f"epochs to the next accuracy changes by {np.median(steps):.1f} points in the median, by "
        f"{steps.max():.1f} at most."
    )


def sections(name: str, runs: Sequence[Run]) -> Iterator[str]:
    """What is printed of a set."""
    full = ends(runs, "linear")
    for head in HEADS:
        found = pools(runs, head)
        if not found:
            continue
        models = f"{len(found[0])} models, {len(found)} seed{'s' if len(found) > 1 else ''}"
        yield f"### {name}, head {head}: {models}"
        if len(full) == len(found[0]):
            yield f"Against ordinary fine-tuning:\n\n{table(found, full)}"
        if head != "linear":
            yield f"Against the end of the same kind of run:\n\n{table(found, ends(runs, head))}"
        if len(full) == len(found[0]):
            yield f"Few validation images:\n\n{few_images_table(found, full)}"
        yield spread_of_ends(found)
        values = within_runs(found)
        if values.size:
            low, middle, high = np.quantile(values, (0, 0.5, 1))
            yield f"Within a run: median {middle:.2f}, {low:.2f} to {high:.2f}."


def panels_of(name: str, runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """What is drawn of a set: by kind of run and truth, some signals after each number of steps."""
    panels = {}
    full = ends(runs, "linear")
    for head in HEADS:
        found = pools(runs, head)
        truths = {"fine-tuning's end": full}
        if head != "linear":
            truths = {"its own end": ends(runs, head), **truths}
        for words, truth in truths.items():
            if found and len(truth) == len(found[0]):
                panels[f"{name}, {head}: {words}"] = {
                    signal: [mean_tau(found, SIGNALS[signal], step, truth) for step in STEPS]
                    for signal in ("absolute β_eff", "accuracy", "training loss")
                }
    return panels


def main(argv: list[str]) -> None:
    """Print the tables and draw the figure."""
    del argv
    print(json.dumps(facts.describe(), default=str))
    sets = {name: build_long_epochs.read(name) for name in build_long_epochs.SETS}
    panels: dict[str, dict[str, list[float]]] = {}
    for name, runs in sets.items():
        for section in sections(name, runs):
            print(f"\n{section}")
        panels.update(panels_of(name, runs))
    if panels:
        comparison_figures.tau_after_steps(panels, STEPS)


if __name__ == "__main__":
    app.run(main)
