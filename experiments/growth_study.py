"""Which law of growth foretells best: what does it count, and how do leads shrink?

    python -m experiments.growth_study

Reads experiments/corpus; takes about ten seconds. Pools of ordinary fine-tuning after n epochs,
with the constants of `ncap_jax.predictor.growth` fitted to the sets of other sources. The first
table has forms of the gain (G1), c times

    steps, losses       the slope on ln(1 + steps / 8), over ρ^0.4: the product's; an epoch has 4 to
                        63 steps here
    ρ^0.3, ρ^0.5        another power
    4, 16 steps         another unit of training time
    epochs, losses      the slope on ln(1 + epochs), over ρ^0.4
    steps               as the product's, but without a look at the losses
    epochs              likewise
    left                the slope on ln(1 + epochs), times ln((1 + K) / (1 + n)): K epochs are the
                        end, 20 of the embedded and 10 of the published pool

and the second three forms of the share of a lead that is left (G2), and two of the share of the
climb that is still ahead: u, of all models alike, and that of each model, whereas the product's u_i
is a model's own if the model is ahead of the pool.

Columns, means over sets of means over seeds: the log-likelihood of where the models end under (G2),
per model, and the root mean square of what the gain is off, in logits, by n.

The other tables are of sets with 313 steps an epoch (experiments/corpus/long_epochs, to which no
constant is fitted). The third has the gain, in logits: what the mean model gains to the end after
20 epochs, and what the product's form foretells, with epochs instead of steps, and without the
losses. The fourth has the accuracies that are then predicted, by constants of other sources: how
many points they are off, mean over models and seeds, and how many models end within their 95 %
intervals.

Expected result: experiments/tables/growth_study.md; what follows: docs/results/shortlist.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple
from unittest import mock

import numpy as np
from absl import app
from scipy.stats import t as student

from experiments import build_long_epochs, corpus_sets, long_epochs_study
from experiments.shortlist_study import (
    EPOCHS,
    HEAD,
    RATES,
    alike,
    by_gain_alone,
    without_losses,
)
from experiments.tasks import POOLS, Task, data_of, growth_priors, read_tasks
from ncap_jax import predictor as predictors
from ncap_jax.predictor import growth, growth_fit
from ncap_jax.predictor.base import truncate
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.types import Trajectory

# That validate in long epochs.
IMAGES = 2000


class Seen(NamedTuple):
    """A pool after n epochs: set, mean curve (n + 1,), steps of an epoch, what the law sees."""

    task: str
    curve: np.ndarray
    epoch_steps: int
    leads: growth_fit.Leads

    @property
    def epochs(self) -> int:
        """How many, n."""
        return self.curve.size - 1


# What c is multiplied by: a slope, which is not negative, and a power of ρ.
Form = Callable[[Seen], tuple[float, float]]


def by_steps(seen: Seen) -> tuple[float, float]:
    """As the product does."""
    return slope(seen, seen.epoch_steps), seen.leads.gap


def by_epochs(seen: Seen) -> tuple[float, float]:
    """The slope on ln(1 + epochs): as if every epoch had the unit's steps."""
    return slope(seen, growth.UNIT_STEPS), seen.leads.gap


def by_what_is_left(seen: Seen) -> tuple[float, float]:
    """The slope on ln(1 + epochs) times the e-foldings of training that are left."""
    end = 20 if seen.task.endswith("_embedded") else 10
    return slope(seen, growth.UNIT_STEPS) * float(np.log((1 + end) / (1 + seen.epochs))), 1.0


def slope(seen: Seen, epoch_steps: float) -> float:
    """Slope b of (G1) if an epoch had so many steps."""
    return growth.log_slope(seen.curve, np.arange(seen.curve.size) * epoch_steps)


def with_unit(steps: int) -> Form:
    """Training time in another unit."""
    scale = growth.UNIT_STEPS / steps
    return lambda seen: (slope(seen, seen.epoch_steps * scale), seen.leads.gap)


def with_power(power: float) -> Form:
    """Another power of ρ: the product raises to 0.4 what it is given."""
    return lambda seen: (by_steps(seen)[0], seen.leads.gap ** (power / growth.BY_GAP))


def ignoring_losses(form: Form) -> Form:
    """ρ of 1."""
    return lambda seen: (form(seen)[0], 1.0)


PRODUCT = "steps, losses"
FORMS: Mapping[str, Form] = {
    PRODUCT: by_steps,
    "ρ^0.3": with_power(0.3),
    "ρ^0.5": with_power(0.5),
    "4 steps": with_unit(4),
    "16 steps": with_unit(16),
    "epochs, losses": by_epochs,
    "steps": ignoring_losses(by_steps),
    "epochs": ignoring_losses(by_epochs),
    "left": by_what_is_left,
}
# Of these the forecasts in long epochs are shown.
LONG = (PRODUCT, "epochs, losses", "steps")


# What is replaced of the law, by name.
LAWS: Mapping[str, Callable[[], AbstractContextManager]] = {
    "exp(-k √(gain u)), u_i": nullcontext,
    "exp(-k √gain), u_i": lambda: mock.patch.object(growth, "drawing_in", by_gain_alone),
    "exp(-k gain), u_i": lambda: mock.patch.object(growth, "drawing_in", lambda gain, rise: gain),
    "exp(-k √(gain u)), u": lambda: mock.patch.object(growth, "own_rises", alike),
    "exp(-k √(gain u)), u of each": lambda: mock.patch.object(
        growth, "own_rises", lambda rise, leads: rise + leads
    ),
}


def pools(task: Task, epochs: int) -> list[Seen]:
    """The set's seeds after so many epochs."""
    end, steps = growth.clipped_logit(task.truth), corpus_sets.epoch_steps(task.name)
    assert steps is not None
    found = []
    for whole in task.pools:
        pool = [truncate(t, epochs) for t in whole]
        leads = growth_fit.leads_of(pool, end, growth.validation_images(pool))
        found.append(Seen(task.name, growth.mean_curve(pool)[0], steps, leads))
    return found


def likelihood(prior: growth.Prior, leads: growth_fit.Leads) -> float:
    """Mean log density of the ends, (G2)."""
    gain = prior.growth * leads.pace
    left = growth.lead_left(prior, gain, leads.rise)
    apart = growth.without_luck(float(leads.before.var()), leads.noise)
    scale = np.hypot(growth.scatter(prior, gain, leads.rises, apart), left * np.sqrt(leads.noise))
    error = leads.after - left * leads.before
    return float(np.mean(student.logpdf(error / scale, growth.FREEDOM) - np.log(scale)))


def in_form(form: Form, every: Sequence[Seen]) -> list[Seen]:
    """What is seen, with the slope and the ρ of a form."""
    found = []
    for seen in every:
        steepness, gap = form(seen)
        found.append(seen._replace(leads=seen.leads._replace(slope=steepness, gap=gap)))
    return found


def judged(form: Form, every: Sequence[Seen]) -> dict[tuple[str, int], list]:
    """(set, n) -> likelihood and error of the gain of every seed, its source left out."""
    known = in_form(form, every)
    found: dict[tuple[str, int], list] = {}
    for source in sorted({data_of(seen.task) for seen in known}):
        prior = fitted(known, source)
        for seen in (seen for seen in known if data_of(seen.task) == source):
            off = prior.growth * seen.leads.pace - seen.leads.gained
            row = (likelihood(prior, seen.leads), off**2)
            found.setdefault((seen.task, seen.epochs), []).append(row)
    return found


def fitted(every: Sequence[Seen], without: str) -> growth.Prior:
    """The constants from all pools but those of one source."""
    return growth_fit.fit_head(HEAD, [s.leads for s in every if data_of(s.task) != without])


def row(name: str, form: Form, every: Sequence[Seen]) -> str:
    """One line of the first two tables."""
    found = judged(form, every)
    means = [
        np.mean([np.mean(rows, axis=0) for (_, k), rows in found.items() if k == n], axis=0)
        for n in EPOCHS
    ]
    cells = [f"{mean[0]:.2f}" for mean in means] + [f"{mean[1] ** 0.5:.2f}" for mean in means]
    return f"| {name} | {' | '.join(cells)} |"


def tables(every: Sequence[Seen]) -> Iterator[str]:
    """The forms of the gain, and those of what is left of a lead."""
    heads = [f"{what}, {n}" for what in ("likelihood", "gain off") for n in EPOCHS]
    for title, names in (("form", FORMS), ("lead left", LAWS)):
        lines = [f"| {title} | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for name in names:
            with LAWS.get(name, nullcontext)():
                lines.append(row(name, FORMS.get(name, by_steps), every))
        yield "\n".join(lines)


def long_pools(name: str) -> list[list[Trajectory]]:
    """Ordinary fine-tuning in long epochs, as the predictors see it: every whole seed."""
    pools = long_epochs_study.pools(build_long_epochs.read(name), HEAD)
    return [list(map(long_epochs_study.trajectory, pool)) for pool in pools]


# How the law is made to take the forms of `LONG`.
PATCHES: Mapping[str, Callable[[], AbstractContextManager]] = {
    PRODUCT: nullcontext,
    "epochs, losses": lambda: mock.patch.object(
        growth, "training_steps", lambda t: growth.UNIT_STEPS * t.series("epoch")
    ),
    "steps": without_losses,
}


def long_accuracies() -> str:
    """Accuracies that are predicted in long epochs, by constants of other sources."""
    heads = [f"{what}, {n}" for what in ("points off", "within 95 %") for n in EPOCHS]
    lines = [f"| set, law | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    method = predictors.get("default", HEAD)
    for name in build_long_epochs.SETS:
        ends = long_epochs_study.ends(build_long_epochs.read(name), HEAD)
        truth = [end for _, end in sorted(ends.items())]
        for said in LONG:
            with PATCHES[said]():
                priors, off, inside = growth_priors(name), [], []
                for n in EPOCHS:
                    found = [
                        predictors.accuracies(method, pool, n, priors=priors, images=IMAGES)
                        for pool in long_pools(name)
                    ]
                    means = np.array([[answer.mean for answer in answers] for answers in found])
                    off.append(f"{100 * np.mean(np.abs(means - truth)):.1f}")
                    shares = [metrics.coverage(answers, truth) for answers in found]
                    inside.append(f"{100 * np.mean(shares):.0f} %")
            lines.append(f"| {name}: {said} | {' | '.join(off + inside)} |")
    return "\n".join(lines)


def long_epochs(every: Sequence[Seen]) -> str:
    """What is gained in long epochs, and foretold by constants of other sources."""
    lines = [f"| set, gain | {' | '.join(map(str, EPOCHS))} |", "|---" * (1 + len(EPOCHS)) + "|"]
    for name in build_long_epochs.SETS:
        growths = {s: fitted(in_form(FORMS[s], every), name).growth for s in LONG}
        for seed, pool in enumerate(long_pools(name)):
            middle, _ = growth.mean_curve(pool)
            gains = {"true": [float(middle[-1] - middle[n]) for n in EPOCHS]}
            seen = [_long(name, [truncate(t, n) for t in pool]) for n in EPOCHS]
            for said in LONG:
                paces = [s.leads.pace for s in in_form(FORMS[said], seen)]
                gains[said] = [growths[said] * pace for pace in paces]
            for said, values in gains.items():
                cells = " | ".join(f"{value:.2f}" for value in values)
                lines.append(f"| {name}, seed {seed}: {said} | {cells} |")
    return "\n".join(lines)


def _long(name: str, pool: Sequence[Trajectory]) -> Seen:
    nowhere = np.full(len(pool), np.nan)  # where they end is not asked
    leads = growth_fit.leads_of(pool, nowhere, IMAGES)
    return Seen(name, growth.mean_curve(pool)[0], long_epochs_study.EPOCH, leads)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    tasks = [task for pool in POOLS for task in read_tasks(HEAD, pool, RATES[pool], large=True)]
    every = [seen for n in EPOCHS for task in tasks for seen in pools(task, n)]
    print(json.dumps(facts.describe(), default=str))
    for found in (*tables(every), long_epochs(every), long_accuracies()):
        print(f"\n{found}")


if __name__ == "__main__":
    app.run(main)
