"""The corpus as tasks, and the methods that are compared on them: one interface for all."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import pathlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments import corpus_files, corpus_sets
from ncap_jax.options import HEADS, Head
from ncap_jax.predictor import PREDICTORS, baker, growth, growth_fit, joint
from ncap_jax.predictor.base import Predictor
from ncap_jax.selection import metrics
from ncap_jax.types import NETWORK_STRENGTHS, Prediction, Trajectory

EARLY = (1, 2, 3, 5, 10)
POOLS = ("embedded", "genuine")
# At which learning rate the early signals are taken: the higher, the lower (where a pool has
# them), for each run the one of the lower validation loss after its first epoch, or for each model
# the one that ends better on the other sets.
Rate = Literal["high", "low", "better", "known"]
# Head -> its kinds of runs, at the higher and, where there is one, at the lower rate.
RATES: Mapping[Head, Sequence[str]] = {
    "probe": ("probe",),
    "trainable_probe": ("trainable_probe", "trainable_probe_low"),
    "linear": ("linear", "linear_low"),
}


class Task(NamedTuple):
    """One data set under one head: the pools of its seeds, and where each model ends.

    `pools` holds a list of trajectories per seed, by model; `truths` (seeds, models) and
    `costs` (seeds, models), CPU seconds of the full fine-tuning at one learning rate. `scores`
    (seeds, models) each; `probe_ends` (models,), where seed 0's frozen probe ended (NaN: none ran).
    """

    name: str
    head: Head
    pools: list[list[Trajectory]]
    truths: np.ndarray
    costs: np.ndarray
    scores: dict[str, np.ndarray]
    probe_ends: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """(models,): mean over seeds."""
        return self.truths.mean(axis=0)

    @property
    def early(self) -> tuple[int, ...]:
        """Those of `EARLY` that the runs are recorded for."""
        return tuple(n for n in EARLY if n <= self.pools[0][0].epochs)


def read_tasks(
    head: Head, pool: str = "embedded", rate: Rate = "high", *, large: bool = False
) -> list[Task]:
    """The tasks of one head, one a file of the pool; seeds that lack a model are left out.

    Args:
        head: of the early epochs.
        pool: of the models.
        rate: at which the early epochs are taken.
        large: whether the large sets are among them, of which ordinary fine-tuning alone is known.
    """
    return [task(path.stem, head, lines, rate) for path, lines in pool_files(pool, large=large)]


def pool_files(pool: str, *, large: bool = False) -> list[tuple[pathlib.Path, list[dict]]]:
    """The files of a pool with their lines; of the large sets those with a whole seed."""
    names = [path for path in corpus_files.files() if path.stem.endswith(f"_{pool}")]
    found = [(path, corpus_files.read(path)) for path in names]
    if large:
        least = min((len(models_of(lines)) for _, lines in found), default=0)
        more = [path for path in corpus_files.files(large=True) if path.stem.endswith(f"_{pool}")]
        for path in more:
            lines = corpus_files.read(path)
            seeds = collections.Counter(line["seed"] for line in lines)
            if max(seeds.values()) == len(models_of(lines)) >= least:
                found.append((path, lines))
    return found


def models_of(lines: Sequence[dict]) -> set[str]:
    """Names of the models in a file."""
    return {line["model"] for line in lines}


def known_rates(pool: str, without: str | None = None) -> dict[str, int]:
    """Model -> its better rate in ordinary fine-tuning, 0 for the higher; one source left out."""
    ends: dict[str, list[list[float]]] = {}
    for path, lines in pool_files(pool):
        if data_of(path.stem) != without:
            for line in lines:
                runs = [line["runs"][kind]["validation_accuracy"] for kind in RATES["linear"]]
                ends.setdefault(line["model"], []).append([run[-1] for run in runs])
    return {model: int(np.argmax(np.mean(found, axis=0))) for model, found in ends.items()}


def early_run(
    line: dict, head: Head, rate: Rate, known: Mapping[str, int] | None = None
) -> Trajectory:
    """The early epochs of one (model, seed); `known` is needed for the rate of that name."""
    kinds = {"high": RATES[head][:1], "low": RATES[head][1:], "better": RATES[head]}.get(rate)
    if kinds is None:
        assert known is not None
        kinds = (RATES[head][known[line["model"]]],)
    found = []
    for kind in corpus_files.that_ran(line, kinds):
        columns = line["runs"][kind]
        last = min(max(EARLY), corpus_files.last_in_a_row(columns))
        found.append(corpus_files.trajectory(line["model"], kind, columns, last))
    best = min(found, key=lambda run: run.records[1].validation_loss)
    # All of them took the first epoch.
    first = dataclasses.replace(
        best.records[1], seconds=sum(run.records[1].seconds for run in found)
    )
    return dataclasses.replace(best, records=(best.records[0], first, *best.records[2:]))


def task(name: str, head: Head, lines: Sequence[dict], rate: Rate = "high") -> Task:
    """One corpus file under one head."""
    by_key = {(line["model"], line["seed"]): line for line in lines}
    models = sorted({line["model"] for line in lines})
    seeds = sorted({line["seed"] for line in lines})
    seeds = [s for s in seeds if all((m, s) in by_key for m in models)]
    rows = [[by_key[m, s] for m in models] for s in seeds]
    known = None
    if rate == "known":
        known = known_rates(name.rpartition("_")[2], data_of(name))
    return Task(
        name,
        head,
        [[early_run(line, head, rate, known) for line in row] for row in rows],
        np.array([[corpus_files.truth(line) for line in row] for row in rows]),
        np.array([[_full_cost(line) for line in row] for row in rows]),
        {
            score: np.array([[line["scores"][score]["value"] for line in row] for row in rows])
            for score in rows[0][0]["scores"]
        }
        # What needs no look at the data.
        | {"parameters": np.array([[line["parameters"] for line in row] for row in rows])},
        np.array([_probe_end(line) for line in rows[0]]),
    )


def _full_cost(line: dict) -> float:
    (kind, *_) = corpus_files.that_ran(line, corpus_files.TRUTHS)
    return line["runs"][kind]["cpu"][-1]


def _probe_end(line: dict) -> float:
    run = line["runs"].get("probe")
    return math.nan if run is None else run["validation_accuracy"][-1]


def mean_tau(predictor: Predictor, head: Head, epochs: int, pool: str = "embedded") -> float:
    """Kendall's τ of a predictor with the truth: mean over seeds, then over the pool's sets."""
    found = []
    for known in read_tasks(head, pool, rate_of(pool)):
        scores = [np.array([p.mean for p in predictor(runs, epochs)]) for runs in known.pools]
        found.append(np.mean([metrics.kendall_tau(row, known.truth) for row in scores]))
    return float(np.mean(found))


def growth_priors(without: str | None = None) -> growth.Priors:
    """The constants of `ncap_jax.predictor.growth` from the whole corpus.

    Args:
        without: this source is left out.
    """
    pools: list[list[Trajectory]] = []
    finals: list[list[float]] = []
    for head, pool in itertools.product(HEADS, POOLS):
        if pool != "embedded" and len(RATES[head]) < 2:
            continue  # not run as by default, with a trial of rates
        for known in read_tasks(head, pool, rate_of(pool), large=head == "linear"):
            if data_of(known.name) != without:
                pools += known.pools
                finals += [known.truth.tolist()] * len(known.pools)
    return growth_fit.fit(pools, finals)


def priors_without_each(sets: Iterable[str]) -> dict[str, growth.Priors]:
    """Source of some sets -> `growth_priors` without it; of several sets of a source one."""
    return {name: growth_priors(name) for name in sorted({data_of(each) for each in sets})}


def rate_of(pool: str) -> Rate:
    """At which rate early signals are taken, as by default (`ncap_jax.finetune.learning_rates`).

    The frozen probe was run only at the higher one.
    """
    return "high" if pool == "embedded" else "better"


def data_of(name: str) -> str:
    """The source of a corpus file `<set>_<pool>`: parts of one source are left out together."""
    part = name.rsplit("_", 1)[0]
    return corpus_sets.source_of(part) if part in corpus_sets.SETS else part


Predictions = list[list[Prediction]]
Method = Callable[[Task, Sequence[Task], int], tuple[Predictor | None, Predictions]]


def simple(predictor: Predictor) -> Method:
    """A method of the registry, which learns from nothing but the pool."""

    def method(task: Task, others: Sequence[Task], epochs: int):
        del others
        return predictor, [predictor(pool, epochs) for pool in task.pools]

    return method


def baker_svr(task: Task, others: Sequence[Task], epochs: int):
    """Baker et al., from the finished runs of the other models on the same set."""
    del others
    runs = [t for pool in task.pools for t in pool]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = baker.leave_one_out(runs, task.truths.ravel().tolist(), epochs)
    size = len(task.pools[0])
    return None, [found[i : i + size] for i in range(0, len(found), size)]


def equal_weights(*names: str) -> Method:
    """Nothing learned: features of the last record with weights of one."""
    predict = joint.equal_weights(names)
    return simple(Predictor("+".join(names), predict, "equal weights", scores_only=True))


def joint_regression(names: Sequence[str]) -> Method:
    """The regression across models with these features, told neither the set nor the model.

    The pools of the sets are the same models: a regression that had seen how a model, or one of
    its relatives, ended on other sets could know it again by its features.
    """

    def method(task: Task, others: Sequence[Task], epochs: int):
        tables = {
            t.model: {
                n: learn([without(o, family(t.model)) for o in others], n, names)
                for n in task.early
                if n <= epochs
            }
            for t in task.pools[0]
        }

        def predict(pool: Sequence[Trajectory]) -> list[Prediction]:
            return [joint.predictor(tables[t.model]).predict(pool)[i] for i, t in enumerate(pool)]

        predictor = Predictor("joint", predict, "leave one set and family out", scores_only=True)
        return predictor, [predictor(pool, epochs) for pool in task.pools]

    return method


def family(model: str) -> str:
    """What relatives have in common: `tiny_plain` of `tiny_plain_deep`."""
    return "_".join(model.split("_")[:2])


def without(task: Task, relatives: str, family_of: Callable[[str], str] = family) -> Task:
    """The task with one family of models taken out of its pool."""
    kept = [i for i, t in enumerate(task.pools[0]) if family_of(t.model) != relatives]
    return task._replace(
        pools=[[pool[i] for i in kept] for pool in task.pools],
        truths=task.truths[:, kept],
        costs=task.costs[:, kept],
        scores={name: values[:, kept] for name, values in task.scores.items()},
        probe_ends=task.probe_ends[kept],
    )


def learn(tasks: Sequence[Task], epochs: int, names: Sequence[str]) -> dict[str, float]:
    """Weights from every seed's pool of these tasks; the ends are the truths (means)."""
    pools = [pool for t in tasks for pool in t.pools]
    finals = [t.truth.tolist() for t in tasks for _ in t.pools]
    return joint.fit(pools, finals, epochs, names)


def methods(head: Head) -> dict[str, Method]:
    """Every method that can be asked under a head."""
    readable = None if head != "linear" else {None, *NETWORK_STRENGTHS}
    found = {
        name: simple(predictor)
        for name, predictor in PREDICTORS.items()
        if readable is None or predictor.strength in readable
    }
    found["baker_svr"] = baker_svr
    found["last_beta_eff"] = equal_weights("beta_absolute")
    wanted = joint.FEATURES[head]
    found["joint_curve"] = joint_regression([f for f in wanted if f in joint.CURVE])
    found["joint_beta_eff"] = joint_regression([f for f in wanted if f not in joint.CURVE])
    found["joint_curve_beta_eff"] = joint_regression(wanted)
    return found
