"""Which law of growth foretells best: what does it count, and how do leads shrink?

    python -m experiments.growth_study

Reads experiments/corpus; takes about ten seconds. Pools of ordinary fine-tuning after n epochs,
with the constants of `ncap_jax.predictor.growth` fitted to the sets of other sources. The first
table has three forms of the gain (G1), c times

    steps     the slope on ln(1 + steps / 16), the product's: an epoch has 4 to 63 steps here
    epochs    the slope on ln(1 + epochs)
    left      the slope on ln(1 + epochs), times ln((1 + K) / (1 + n)): K epochs are the end, 20 of
              the embedded and 10 of the published pool

and the second three forms of the share of a lead that is left (G2), and two of the share of the
climb that is still ahead: u, of all models alike, and that of each model, whereas the product's u_i
is a model's own if the model is ahead of the pool.

Columns, means over sets of means over seeds: the log-likelihood of where the models end under (G2),
per model, and the root mean square of what the gain is off, in logits, by n.

The other tables are of sets with 313 steps an epoch (experiments/corpus/long_epochs, to which no
constant is fitted). The third has the gain, in logits: what the mean model gains to the end after
20 epochs, and what steps and epochs foretell. The fourth has the accuracies that the product then
predicts, by constants of other sources: how many points they are off, mean over models and seeds,
and how many models end within their 95 % intervals.

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
from experiments.shortlist_study import EPOCHS, HEAD, RATES, alike
from experiments.tasks import POOLS, Task, data_of, growth_priors, read_tasks
from ncap_jax import predictor as predictors
from ncap_jax.predictor import growth
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
    leads: growth.Leads

    @property
    def epochs(self) -> int:
        """How many, n."""
        return self.curve.size - 1


def by_steps(seen: Seen) -> float:
    """Slope b of (G1)."""
    return growth.log_slope(seen.curve, np.arange(seen.curve.size) * seen.epoch_steps)


def by_epochs(seen: Seen) -> float:
    """The slope on ln(1 + epochs): as if every epoch had the unit's steps."""
    return growth.log_slope(seen.curve, np.arange(seen.curve.size) * growth.UNIT_STEPS)


def by_what_is_left(seen: Seen) -> float:
    """The slope on ln(1 + epochs) times the e-foldings of training that are left."""
    end = 20 if seen.task.endswith("_embedded") else 10
    return by_epochs(seen) * float(np.log((1 + end) / (1 + seen.epochs)))


Form = Callable[[Seen], float]
FORMS: Mapping[str, Form] = {"steps": by_steps, "epochs": by_epochs, "left": by_what_is_left}


# What is replaced of the law, by name.
LAWS: Mapping[str, Callable[[], AbstractContextManager]] = {
    "exp(-k √(gain u)), u_i": nullcontext,
    "exp(-k √gain), u_i": lambda: mock.patch.object(
        growth, "drawing_in", lambda gain, rise: np.sqrt(gain)
    ),
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
    for pool in task.pools:
        seen = np.array([t.series("validation_accuracy")[: epochs + 1] for t in pool])
        noise = growth.image_noise(seen[:, -1], growth.validation_images(pool))
        curves = growth.clipped_logit(seen)
        leads = growth.leads_of(curves, np.arange(epochs + 1) * steps, end, noise)
        found.append(Seen(task.name, curves.mean(axis=0), steps, leads))
    return found


def likelihood(prior: growth.Prior, leads: growth.Leads) -> float:
    """Mean log density of the ends, (G2)."""
    gain = prior.growth * max(0.0, leads.slope)
    left = growth.lead_left(prior, gain, leads.rise)
    apart = growth.without_luck(float(leads.before.var()), leads.noise)
    scale = np.hypot(growth.scatter(prior, gain, leads.rises, apart), left * np.sqrt(leads.noise))
    error = leads.after - left * leads.before
    return float(np.mean(student.logpdf(error / scale, growth.FREEDOM) - np.log(scale)))


def judged(form: Form, every: Sequence[Seen]) -> dict[tuple[str, int], list]:
    """(set, n) -> likelihood and error of the gain of every seed, its source left out."""
    known = [seen._replace(leads=seen.leads._replace(slope=form(seen))) for seen in every]
    found: dict[tuple[str, int], list] = {}
    for source in sorted({data_of(seen.task) for seen in known}):
        prior = fitted(known, source)
        for seen in (seen for seen in known if data_of(seen.task) == source):
            off = prior.growth * max(0.0, seen.leads.slope) - seen.leads.gained
            row = (likelihood(prior, seen.leads), off**2)
            found.setdefault((seen.task, seen.epochs), []).append(row)
    return found


def fitted(every: Sequence[Seen], without: str) -> growth.Prior:
    """The constants from all pools but those of one source."""
    return growth.fit_head(HEAD, [s.leads for s in every if data_of(s.task) != without])


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


def by_whole_epochs() -> AbstractContextManager:
    """A law that counts epochs, as if each had the unit's steps."""
    return mock.patch.object(
        growth, "training_steps", lambda t: growth.UNIT_STEPS * t.series("epoch")
    )


def long_accuracies() -> str:
    """Accuracies that are predicted in long epochs, by constants of other sources."""
    heads = [f"{what}, {n}" for what in ("points off", "within 95 %") for n in EPOCHS]
    lines = [f"| set, law | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    method = predictors.get("default", HEAD)
    for name in build_long_epochs.SETS:
        ends = long_epochs_study.ends(build_long_epochs.read(name), HEAD)
        truth = [end for _, end in sorted(ends.items())]
        for said, law in {"by steps": nullcontext, "by epochs": by_whole_epochs}.items():
            with law():
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
            lines.append(f"| {name}, {said} | {' | '.join(off + inside)} |")
    return "\n".join(lines)


def long_epochs(every: Sequence[Seen]) -> str:
    """What is gained in long epochs, and foretold by constants of other sources."""
    lines = [f"| set, gain | {' | '.join(map(str, EPOCHS))} |", "|---" * (1 + len(EPOCHS)) + "|"]
    forms: Mapping[str, Form] = {"by steps": by_steps, "by epochs": by_epochs}
    for name in build_long_epochs.SETS:
        growths = {}
        for said, form in forms.items():
            known = [s._replace(leads=s.leads._replace(slope=form(s))) for s in every]
            growths[said] = fitted(known, name).growth
        for seed, pool in enumerate(long_pools(name)):
            middle, _ = growth.mean_curve(pool)
            gains = {"true": [float(middle[-1] - middle[n]) for n in EPOCHS]}
            for said, form in forms.items():
                gains[said] = [
                    growths[said] * max(0.0, form(_long(name, middle[: n + 1]))) for n in EPOCHS
                ]
            for said, values in gains.items():
                cells = " | ".join(f"{value:.2f}" for value in values)
                lines.append(f"| {name}, seed {seed}, {said} | {cells} |")
    return "\n".join(lines)


def _long(name: str, curve: np.ndarray) -> Seen:
    nothing = growth.Leads(0.0, 0.0, 0.0, np.zeros(0), np.zeros(0), 0.0)
    return Seen(name, curve, long_epochs_study.EPOCH, nothing)


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
