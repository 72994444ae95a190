"""Below how many validation images does the training loss judge better than the accuracy?

    python -m experiments.few_images_study

Reads experiments/corpus; takes about two minutes. Ordinary fine-tuning at the rate that the
product would take, after n epochs. The accuracy is blurred to that of m images, by binomial noise,
DRAWS times; the training loss (of the measurement subset, in inference mode) needs no validation
image. *Both*: standardised over the pool and added.

Columns: Kendall's τ with the accuracy at the end of full fine-tuning, mean over seeds, and points
lost by the model ranked first; means over sets of means over seeds. The third table has what both
gain over the accuracy of as few images, in τ and in points, over all sets, with 95 % bootstraps
over sets and seeds.

The last table has what the product states of so many images, in the columns of
`experiments.shortlist_study`: the accuracies after all epochs are blurred, RUNS times, the default
predicts, and the constants of growth come from the sets of other sources. So the luck with the
images is not that of the ends, as it is where the same images validate early and late.

Expected result: experiments/tables/few_images_study.md; what follows: docs/results/few-images.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from absl import app

from experiments.finish_study import interval
from experiments.shortlist_study import (
    EPOCHS,
    HEAD,
    HEADER,
    RATES,
    Outcome,
    Priors,
    outcomes,
    row,
)
from experiments.tasks import POOLS, Task, data_of, priors_without_each, read_tasks
from ncap_jax.predictor.accuracy_and_loss import standardised
from ncap_jax.run import facts
from ncap_jax.selection import metrics
from ncap_jax.types import ClassCounts, EpochRecord, Trajectory

IMAGES = (20, 44, 100, 200, 500)
DRAWS = 30
# For the last table, so often: few, of which a run warns, and as many as most runs have.
STATED_OF, RUNS = (20, 44, 500), 4
LOSS, BOTH, ALL = "training loss", "both", "accuracy of all images"


def judged(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """τ, and points that the first model loses; scores and truth (models,)."""
    return (
        metrics.kendall_tau(scores, truth),
        100 * metrics.regret(scores, truth),
    )


def series(task: Task, name: str, epochs: int) -> np.ndarray:
    """(seeds, models) of one field after so many epochs."""
    return np.array([[getattr(r.records[epochs], name) for r in pool] for pool in task.pools])


def blurred(accuracies: np.ndarray, images: int, rng: np.random.Generator) -> np.ndarray:
    """The accuracies of so many images; equal ones are told apart by a coin."""
    drawn = rng.binomial(images, accuracies) / images
    return drawn + rng.uniform(0, 1e-6, drawn.shape)


def signals(task: Task, epochs: int) -> dict[str, list[np.ndarray]]:
    """Name -> draws of (seeds, models), higher is better."""
    rng = np.random.default_rng(0)
    accuracy = series(task, "validation_accuracy", epochs)
    loss = -series(task, "train_loss", epochs)
    found = {LOSS: [loss], ALL: [accuracy]}
    for images in IMAGES:
        few = [blurred(accuracy, images, rng) for _ in range(DRAWS)]
        found[f"accuracy of {images}"] = few
        found[f"{BOTH}, {images}"] = [standardised(each) + standardised(loss) for each in few]
    return found


def by_seed(task: Task, epochs: int) -> dict[str, np.ndarray]:
    """Name -> (seeds, 2), τ and points lost on one set, means over draws."""
    return {
        name: np.mean([[judged(row, task.truth) for row in rows] for rows in draws], axis=0)
        for name, draws in signals(task, epochs).items()
    }


Found = dict[int, list[dict[str, np.ndarray]]]


def judge_all(tasks: Sequence[Task]) -> Found:
    """Number of epochs -> `by_seed` of every set."""
    return {n: [by_seed(task, n) for task in tasks] for n in EPOCHS}


def table(found: Found) -> str:
    """All signals after all numbers of epochs."""
    heads = [f"{what}, {n}" for what in ("τ", "lost") for n in EPOCHS]
    lines = [f"| signal | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in found[EPOCHS[0]][0]:
        every = {n: np.mean([each[name].mean(axis=0) for each in found[n]], axis=0) for n in EPOCHS}
        cells = [f"{every[n][i]:.2f}" for i in (0, 1) for n in EPOCHS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gained(found: Found) -> str:
    """What both gain over the accuracy alone: τ, and points that the first loses less."""
    heads = [f"{what}, {n}" for what in ("τ gained", "lost less") for n in EPOCHS]
    lines = [f"| images | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for images in IMAGES:
        cells = []
        for column, sign in ((0, 1), (1, -1)):
            for n in EPOCHS:
                pairs = [
                    (each[f"{BOTH}, {images}"], each[f"accuracy of {images}"]) for each in found[n]
                ]
                cells.append(interval([sign * (a - b)[:, column] for a, b in pairs]))
        lines.append(f"| {images} | {' | '.join(cells)} |")
    return "\n".join(lines)


def record_of(seen: EpochRecord, images: int, rng: np.random.Generator) -> EpochRecord:
    """What so few images would have shown: all of one class, of which some are answered right."""
    right = int(rng.binomial(images, seen.validation_accuracy))
    counts = ClassCounts((images,), ((right,),), ((images,),))
    return dataclasses.replace(seen, validation_accuracy=right / images, validation_counts=counts)


def blurred_pool(
    pool: Sequence[Trajectory], images: int, rng: np.random.Generator
) -> list[Trajectory]:
    """The runs of a pool, whatever their epochs, as so few images would have shown them."""
    return [
        dataclasses.replace(t, records=tuple(record_of(r, images, rng) for r in t.records))
        for t in pool
    ]


def stated(task: Task, images: int, epochs: int, priors: Priors) -> list[Outcome]:
    """What the product says of so many images, and what comes true: every seed, `RUNS` times."""
    rng = np.random.default_rng(0)
    pools = [blurred_pool(pool, images, rng) for pool in task.pools for _ in range(RUNS)]
    return list(outcomes(task._replace(pools=pools), epochs, priors[data_of(task.name)]))


def stated_table(tasks: Sequence[Task]) -> str:
    """All sets together, by the number of images and of epochs."""
    lines, priors = HEADER[:], priors_without_each(task.name for task in tasks)
    for images in STATED_OF:
        for n in EPOCHS:
            found = [stated(task, images, n, priors) for task in tasks]
            lines.append(row([rows for rows in found if rows], f"{images} images, {n}"))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Print the tables."""
    del argv
    print(json.dumps(facts.describe(), default=str))
    tasks = [read_tasks(HEAD, pool, RATES[pool], large=True) for pool in POOLS]
    pools = [judge_all(each) for each in tasks]
    every = {n: [each for found in pools for each in found[n]] for n in EPOCHS}
    for found, title in zip(pools, ("Embedded", "Published"), strict=True):
        print(f"\n### {title}: {len(found[1])} sets\n\n{table(found)}")
    print(f"\n### Both against the accuracy: {len(every[1])} sets\n\n{gained(every)}")
    print(f"\n### What is stated\n\n{stated_table([task for each in tasks for task in each])}")


if __name__ == "__main__":
    app.run(main)
