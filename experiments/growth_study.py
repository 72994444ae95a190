"""Does the law of growth do better if it counts steps, or what is left of the training?

    python -m experiments.growth_study

Reads experiments/corpus; takes about half a minute. Pools of ordinary fine-tuning after n epochs,
with the constants of `ncap_jax.predictor.growth` fitted to the sets of other sources, by three
forms of the gain (G1), c times

    epochs    the slope on ln(1 + epochs), the product's
    steps     the slope on ln(1 + steps / 16): an epoch has 4 to 63 steps here
    left      the slope on ln(1 + epochs), times ln((1 + K) / (1 + n)): K epochs are the end, 20 of
              the embedded and 10 of the published pool

Columns, means over sets of means over seeds: the log-likelihood of where the models end under (G2),
per model, and the root mean square of what the gain is off, in logits, by n.

Expected result: experiments/tables/growth_study.md; what follows: docs/results/shortlist.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app
from scipy.stats import t as student

from experiments import corpus_sets
from experiments.shortlist_study import EPOCHS, HEAD, RATES
from experiments.tasks import POOLS, Task, data_of, read_tasks
from ncap_jax.predictor import growth
from ncap_jax.run import facts

BATCH, COMMON_STEPS = 32, 16
# Training images of the sets that do not say how many they keep; of the first ones by the pool.
IMAGES: Mapping[str, int] = {"birds6_embedded": 365, "birds525-1050": 1050, "birds_groups": 236}
FIRST_IMAGES: Mapping[str, int] = {"embedded": 500, "genuine": 256}


class Seen(NamedTuple):
    """A pool after n epochs: its set, mean curve (n + 1,), and what the law sees of it."""

    task: str
    curve: np.ndarray
    leads: growth.Leads

    @property
    def epochs(self) -> int:
        """How many, n."""
        return self.curve.size - 1


def steps_per_epoch(task: str) -> int:
    """Of the set's training images."""
    name, pool = task.rsplit("_", 1)
    known = corpus_sets.SETS[name]
    kept = known.config.max_train if known.large else FIRST_IMAGES[pool]
    images = IMAGES.get(task) or IMAGES.get(name) or kept
    assert images is not None
    return -(-images // BATCH)


def by_epochs(seen: Seen) -> float:
    """Slope b of (G1)."""
    return growth.log_slope(seen.curve)


def by_steps(seen: Seen) -> float:
    """The slope on ln(1 + steps / 16) over the same epochs."""
    epochs = np.arange(seen.epochs // 2, seen.epochs + 1)
    steps = epochs * steps_per_epoch(seen.task)
    return float(np.polyfit(np.log1p(steps / COMMON_STEPS), seen.curve[epochs], 1)[0])


def by_what_is_left(seen: Seen) -> float:
    """Slope b times the e-foldings of training that are left."""
    end = 20 if seen.task.endswith("_embedded") else 10
    return by_epochs(seen) * float(np.log((1 + end) / (1 + seen.epochs)))


FORMS: Mapping[str, Callable[[Seen], float]] = {
    "epochs": by_epochs,
    "steps": by_steps,
    "left": by_what_is_left,
}


def pools(task: Task, epochs: int) -> list[Seen]:
    """The set's seeds after so many epochs."""
    end = growth.clipped_logit(task.truth)
    found = []
    for pool in task.pools:
        seen = np.array([t.series("validation_accuracy")[: epochs + 1] for t in pool])
        noise = growth.image_noise(seen[:, -1], growth.validation_images(pool))
        leads = growth.leads_of(growth.clipped_logit(seen), end, noise)
        found.append(Seen(task.name, growth.clipped_logit(seen).mean(axis=0), leads))
    return found


def likelihood(prior: growth.Prior, leads: growth.Leads) -> float:
    """Mean log density of the ends, (G2)."""
    gain = prior.growth * max(0.0, leads.slope)
    left = np.exp(-prior.shrink * gain)
    apart = growth.without_luck(float(leads.before.var()), leads.noise)
    scale = np.hypot(growth.scatter(prior, gain, leads.rise, apart), left * np.sqrt(leads.noise))
    error = leads.after - left * leads.before
    return float(np.mean(student.logpdf(error / scale, growth.FREEDOM) - np.log(scale)))


def judged(form: Callable[[Seen], float], every: Sequence[Seen]) -> dict[tuple[str, int], list]:
    """(set, n) -> likelihood and error of the gain of every seed, its source left out."""
    known = [seen._replace(leads=seen.leads._replace(slope=form(seen))) for seen in every]
    found: dict[tuple[str, int], list] = {}
    for source in sorted({data_of(seen.task) for seen in known}):
        others = [seen.leads for seen in known if data_of(seen.task) != source]
        prior = growth.fit_head(HEAD, others)
        for seen in (seen for seen in known if data_of(seen.task) == source):
            off = prior.growth * max(0.0, seen.leads.slope) - seen.leads.gained
            row = (likelihood(prior, seen.leads), off**2)
            found.setdefault((seen.task, seen.epochs), []).append(row)
    return found


def table(tasks: Sequence[Task]) -> str:
    """All forms."""
    every = [seen for n in EPOCHS for task in tasks for seen in pools(task, n)]
    heads = [f"{what}, {n}" for what in ("likelihood", "gain off") for n in EPOCHS]
    lines = [f"| form | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, form in FORMS.items():
        found = judged(form, every)
        means = [
            np.mean([np.mean(rows, axis=0) for (_, k), rows in found.items() if k == n], axis=0)
            for n in EPOCHS
        ]
        cells = [f"{mean[0]:.2f}" for mean in means] + [f"{mean[1] ** 0.5:.2f}" for mean in means]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Print the table."""
    del argv
    tasks = [task for pool in POOLS for task in read_tasks(HEAD, pool, RATES[pool], large=True)]
    print(f"{json.dumps(facts.describe(), default=str)}\n\n{table(tasks)}")


if __name__ == "__main__":
    app.run(main)
