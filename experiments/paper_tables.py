"""The tables of `experiments.reproduce_paper`, from the trajectories of one data set."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from ncap_jax import errors
from ncap_jax.options import Head
from ncap_jax.predictor import PREDICTORS, baker
from ncap_jax.selection import metrics
from ncap_jax.types import STRENGTHS, Prediction, Trajectory

RIDGES = ("published_ridge", "scaled_ridge")
TOP = (1, 3, 5)
# Bootstrap samples of every interval.
DRAWS = 200
TOO_FEW = "too few finished runs to learn from"


@dataclasses.dataclass(frozen=True)
class Results:
    """What is there of one data set.

    Attributes:
        name: of the set.
        epochs: n, how many first epochs predict.
        runs: (kind, seed) -> model -> trajectory; a kind is `probe` or `linear` for the long
            runs, or `probe_<widths>` for the early epochs below another probe.
        logme: seed -> model -> score of the untouched model's features.
    """

    name: str
    epochs: int
    runs: Mapping[tuple[str, int], Mapping[str, Trajectory]]
    logme: Mapping[int, Mapping[str, float]]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the frozen-probe runs."""
        return sorted(seed for kind, seed in self.runs if kind == "probe")

    def models(self, *kinds: str) -> list[str]:
        """Models that ran to the end in every seed of the probe, and of these kinds."""
        pools = [self.runs.get((k, s), {}) for k in ("probe", *kinds) for s in self.seeds]
        common = set.intersection(*map(set, pools)) if pools else set()
        return [m for m in (pools[0] if pools else ()) if m in common]

    def pools(self, kind: str, models: Sequence[str]) -> list[list[Trajectory]]:
        """Per seed, the trajectories of these models."""
        return [[self.runs[kind, seed][model] for model in models] for seed in self.seeds]

    def ends(self, head: Head, models: Sequence[str]) -> np.ndarray:
        """(seeds, models) validation accuracy after the last epoch."""
        pools = self.pools(head, models)
        return np.array([[t.series("validation_accuracy")[-1] for t in pool] for pool in pools])

    @property
    def truths(self) -> list[Head]:
        """Heads whose ends are there for two models at least."""
        heads: tuple[Head, ...] = ("probe", "linear")
        return [head for head in heads if len(self.models(head)) > 1]

    @property
    def probes(self) -> list[str]:
        """The kinds of the other probes."""
        return sorted({kind for kind, _ in self.runs if kind.startswith("probe_")})


def window(trajectory: Trajectory, start: int, epochs: int) -> Trajectory:
    """Epoch 0 and the epochs start, ..., start + epochs - 1."""
    records = trajectory.records
    return dataclasses.replace(trajectory, records=(records[0], *records[start : start + epochs]))


def predictions(
    results: Results, method: str, models: Sequence[str], epochs: int, start: int = 1
) -> list[list[Prediction]]:
    """Per seed and model; `baker_svr` learns from the other models' frozen-probe ends.

    Raises:
        ConfigError: too few finished runs for `baker_svr`.
    """
    pools = results.pools("probe", models)
    if method == "logme":
        return [
            [Prediction(results.logme.get(seed, {}).get(model, float("nan"))) for model in models]
            for seed in results.seeds
        ]
    if method == "baker_svr":
        runs = [t for pool in pools for t in pool]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the search tries settings that do not converge
            found = baker.leave_one_out(
                runs, results.ends("probe", models).ravel().tolist(), epochs
            )
        return [found[i : i + len(models)] for i in range(0, len(found), len(models))]
    return [PREDICTORS[method]([window(t, start, epochs) for t in pool]) for pool in pools]


def values(found: Sequence[Sequence[Prediction]]) -> np.ndarray:
    """(seeds, models) predicted means."""
    return np.array([[p.mean for p in row] for row in found], dtype=np.float64)


def accuracies(results: Results) -> str:
    """Predicted against final accuracy, in percent, means over seeds."""
    models = results.models()
    truths = [head for head in results.truths if set(models) <= set(results.models(head))]
    columns = {f"end, head={head}": 100 * results.ends(head, models).mean(0) for head in truths}
    rows = [f"{model} |" for model in models]
    for method in (*RIDGES, "last_seen"):
        found = predictions(results, method, models, results.epochs)
        stds = np.array([[p.std for p in row] for row in found])
        for i, (mean, std) in enumerate(zip(100 * values(found).mean(0), 100 * stds.mean(0))):
            rows[i] += f" {mean:.1f}" + (f" ± {std:.1f} |" if np.isfinite(std) else " |")
    for i in range(len(models)):
        rows[i] += "".join(f" {column[i]:.1f} |" for column in columns.values())
    return table(["model", *RIDGES, "last_seen", *columns], rows)


def rivals(results: Results, head: Head) -> str:
    """Kendall τ with its interval, and relative accuracy of the top k, after n epochs."""
    models = results.models(head)
    truth = results.ends(head, models).mean(axis=0)
    tops = [k for k in TOP if k < len(models)]
    rows = []
    for method in (*PREDICTORS, "baker_svr", "logme"):
        try:
            found = values(predictions(results, method, models, results.epochs))
        except errors.ConfigError:
            rows.append(f"{method} | {TOO_FEW} |" + " |" * len(tops))
            continue
        tau = metrics.over_models_and_seeds(metrics.kendall_tau, found, truth, draws=DRAWS)
        cells = "".join(f" {relative(found, truth, k):.3f} |" for k in tops)
        rows.append(f"{method} | {tau.value:.2f} [{tau.low:.2f}, {tau.high:.2f}] |{cells}")
    return table(["method", f"τ with head={head}", *(f"top {k}" for k in tops)], rows)


def relative(found: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Best true accuracy among the k predicted best over the best of all, mean over seeds."""

    def metric(predicted: np.ndarray, true: np.ndarray) -> float:
        return metrics.relative_accuracy(predicted, true, k)

    return metrics.over_models_and_seeds(metric, found, truth, draws=0).value


def tau_and_error(
    results: Results, method: str, epochs: int, start: int = 1
) -> tuple[float, float]:
    """Kendall τ with the end of the frozen-probe run, and mean absolute error, over seeds."""
    models = results.models()
    truth = results.ends("probe", models).mean(axis=0)
    found = values(predictions(results, method, models, epochs, start))
    tau = metrics.over_models_and_seeds(metrics.kendall_tau, found, truth, draws=0).value
    return tau, float(np.mean(np.abs(found - truth)))


def numbers(results: Results) -> list[int]:
    """Numbers of first epochs to compare: a ridge needs two."""
    return list(range(2, results.epochs + 1))


def starts(results: Results) -> tuple[int, list[int]]:
    """Length of the window, and the first epochs at which it can start."""
    length = max(2, results.epochs // 2)
    return length, list(range(1, results.epochs - length + 2))


def effects(results: Results) -> str:
    """Number of epochs, starting epoch and probe: τ and error of the ridges and the last value."""
    methods = (*RIDGES, "last_seen")
    rows = []
    for n in numbers(results):
        rows.append(row(f"first {n} epochs", [tau_and_error(results, m, n) for m in methods]))
    length, first = starts(results)
    for start in first[1:]:
        cells = [tau_and_error(results, m, length, start) for m in methods]
        rows.append(row(f"epochs {start} to {start + length - 1}", cells))
    for kind in results.probes:
        other = with_probe(results, kind)
        cells = [tau_and_error(other, m, results.epochs) for m in methods]
        rows.append(row(f"probe {kind.removeprefix('probe_')}, first {results.epochs}", cells))
    return table(["what the method sees", *(f"{m}: τ; error" for m in methods)], rows)


def with_probe(results: Results, kind: str) -> Results:
    """Early epochs below another probe, judged by the ends below the main one."""
    models = results.models(kind)
    runs = {
        ("probe", seed): {m: spliced(results, kind, seed, m) for m in models}
        for seed in results.seeds
    }
    return dataclasses.replace(results, runs=runs)


def spliced(results: Results, kind: str, seed: int, model: str) -> Trajectory:
    """The early epochs of `kind`, then the last one of the main run, which is the end."""
    early, main = results.runs[kind, seed][model], results.runs["probe", seed][model]
    records = (*early.records[: results.epochs + 1], main.records[-1])
    return dataclasses.replace(main, records=records)


def row(name: str, cells: Sequence[tuple[float, float]]) -> str:
    """A line of the effects: τ, and the error in points of accuracy."""
    return f"{name} |" + "".join(f" {tau:.2f}; {100 * error:.1f} |" for tau, error in cells)


def correlations(results: Results) -> str:
    """β_eff against validation accuracy by epoch: Pearson's r within each run, mean over seeds."""
    rows = []
    for model, *trajectories in zip(results.models(), *results.pools("probe", results.models())):
        cells = []
        for strength in STRENGTHS:
            pairs = [
                (t.beta_eff(strength)[1:], t.series("validation_accuracy")[1:])
                for t in trajectories
            ]
            found = [np.corrcoef(b, a)[0, 1] for b, a in pairs if np.ptp(b) > 0 and np.ptp(a) > 0]
            cells.append(f" {np.mean(found):.2f} |" if found else " |")
        rows.append(f"{model} |" + "".join(cells))
    return table(["model", *STRENGTHS], rows)


def times(results: Results) -> str:
    """Seconds, means over seeds; the first epochs hold the compilation."""
    rows = []
    for model, *runs in zip(results.models(), *results.pools("probe", results.models())):
        early = np.mean([t.series("seconds")[: results.epochs + 1].sum() for t in runs])
        full = np.mean([t.series("seconds").sum() for t in runs])
        epoch = np.median([t.series("seconds")[2:] for t in runs])
        measured = np.median([t.series("measure_seconds")[2:] for t in runs])
        rows.append(
            f"{model} | {early:.1f} | {full:.1f} | {100 * early / full:.0f} % | {epoch:.2f} | "
            f"{100 * measured / epoch:.1f} % |"
        )
    head = f"first {results.epochs} epochs (s)"
    return table(["model", head, "all epochs (s)", "share", "an epoch (s)", "of it β_eff"], rows)


def table(names: Sequence[str], rows: Sequence[str]) -> str:
    """A Markdown table; rows end with a bar and begin without one."""
    return "\n".join(
        ["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *(f"| {r}" for r in rows)]
    )
