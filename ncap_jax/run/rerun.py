"""Repeat a run from its `run.json` and compare the results.

On the same machine with the same versions every recorded number but the times must be identical.
Elsewhere arithmetic rounds differently, and training amplifies that much as another seed would:
there a rerun counts as equal when the models end with the same status after as many epochs, each
validation accuracy differs by at most three standard errors of it, and the first model is the
first, or tied with it, again.

A `run.json` may come from somebody else: what is trained is taken from it, where that executes, and
which host is contacted for it, is not. Only a mesh is, because the numbers depend on it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ncap_jax import errors, files, options
from ncap_jax.finetune import trajectory_files
from ncap_jax.options import FREE_FIELDS, DataConfig, Execution, RankConfig
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.run.fingerprint import FINGERPRINT, RUN_FILE, differences, fixed
from ncap_jax.selection import recall
from ncap_jax.types import RankedModel, Ranking, Trajectory

# What may explain another rounding.
ENVIRONMENT = ("versions", "platform", "device", "cores", "threads")
# Where a run executes. Not the mesh: it is part of what is repeated.
WHERE = tuple(f.name for f in dataclasses.fields(Execution) if f.name in FREE_FIELDS)
# What holds wall times.
TIMES = ("seconds", "measure_seconds")
STANDARD_ERRORS = 3.0


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """What `run.json` says of a run, enough to make it again."""

    folder: pathlib.Path
    facts: Mapping[str, Any]
    models: tuple[str, ...]
    dataset: str | None
    config: RankConfig
    data_config: DataConfig


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a rerun relates to its original.

    Attributes:
        equal: identical, or on another machine within the tolerance of this module.
        changed: facts of `run.json` that differ, with both values.
        deviations: field of trajectories or ranking -> largest absolute difference, infinity
            where the values are not numbers or one is missing; only those that differ.
    """

    equal: bool
    changed: tuple[str, ...]
    deviations: Mapping[str, float]

    @property
    def identical(self) -> bool:
        """Whether every recorded number but the times is the same."""
        return not self.deviations

    def __str__(self) -> str:
        if self.identical:
            head = "identical: trajectories and ranking agree in every number but the times"
        else:
            head = f"{'equal within tolerance' if self.equal else 'different'}; largest differences"
        lines = [f"  {name}: {value:.3g}" for name, value in sorted(self.deviations.items())]
        return "\n".join([head, *lines, *(f"  changed: {text}" for text in self.changed)])


def read_saved_run(path: str | os.PathLike[str]) -> SavedRun:
    """What a run was made of, where a file can hold that.

    Args:
        path: a `run.json`, or the folder that holds it.

    Raises:
        OutputError: it cannot be read, or another version wrote it.
        ConfigError: arrays, or models made in Python, which no file can bring back.
    """
    saved = read_run(path)
    if saved.dataset is None:
        raise errors.ConfigError(
            f"{saved.folder / RUN_FILE} describes a run on arrays, or of models made in Python, "
            "which it cannot hold",
            "Repeat it from Python: rank_models with the same arguments and another output_dir",
        )
    return saved


def read_run(path: str | os.PathLike[str]) -> SavedRun:
    """What a run was made of; without a data set where a file cannot hold that.

    Args:
        path: a `run.json`, or the folder that holds it.

    Raises:
        OutputError: it cannot be read, or another version wrote it.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / RUN_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        command = facts["command"]
        models = tuple(about.get("reference", name) for name, about in facts["models"].items())
        fields = facts["config"]
        config = RankConfig.from_json(fields)
        data_config = DataConfig(**facts["data"]["config"])
        # A flag of the command is --name=value; its last word is never looked at for another.
        words = shlex.split(command) if command is not None else []
        dataset = next((w.split("=", 1)[1] for w in words if w.startswith("--dataset=")), None)
    except (OSError, *files.DAMAGE) as error:
        raise errors.OutputError(
            f"{file} does not describe a run: {error}",
            "Give the run.json of a run that this version made",
        ) from error
    return SavedRun(file.parent, facts, models, dataset, config, data_config)


def rerun(
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    execution: Execution | None = None,
    show_progress: bool = True,
) -> Comparison:
    """Make a run again in a new folder and compare it with the original.

    A rerun that is refused leaves nothing behind.

    Args:
        path: the original's folder or its `run.json`; its results lie beside that.
        output_dir: of the rerun; must be new or hold an interrupted rerun.
        execution: where it executes, whatever the original did; its mesh does not count, the
            original's does. None: in this process.
        show_progress: see `rank_models`.

    Raises:
        NcapError: the original cannot be read or repeated; see `rank_models`.
    """
    saved = read_saved_run(path)
    assert saved.dataset is not None
    original = read_ranking(saved.folder)
    before = trajectory_files.load_trajectories(saved.folder)
    if pathlib.Path(output_dir).resolve() == saved.folder.resolve():
        raise errors.OutputError(
            f"{output_dir} is the folder of the original run", "Choose another output folder"
        )
    # Who was too slow there, or not recalled, is not among the models; who is slow here belongs to
    # the run, and so do all that are left of a long list.
    config = dataclasses.replace(saved.config, max_latency_ms=None)
    if recall.kept(config, len(saved.models)):
        config = dataclasses.replace(config, recall=0)
    config = executed(config, execution or Execution())
    for record in (config, saved.data_config):
        options.check(record)
    # Imported here: what cannot be repeated is refused without waiting for JAX.
    from ncap_jax.run import growth, pipeline

    again = pipeline.rank(
        pipeline.Request(
            saved.models,
            saved.dataset,
            config,
            saved.data_config,
            output_dir,
            show_progress,
        )
    )
    facts = json.loads((pathlib.Path(output_dir) / RUN_FILE).read_text(encoding="utf-8"))
    after = trajectory_files.load_trajectories(output_dir)
    ranked = partial(growth.as_ranked, recipe=config, num_train=facts["data"]["num_train"])
    first, second = ranked(before, original), ranked(after, again)
    return compare(saved.facts, facts, (first, original), (second, again))


def executed(config: RankConfig, execution: Execution) -> RankConfig:
    """A configuration that executes where it is asked to."""
    return dataclasses.replace(config, **{name: getattr(execution, name) for name in WHERE})


Results = tuple[tuple[Trajectory, ...], Ranking]


def compare(
    facts: Mapping[str, Any], facts_again: Mapping[str, Any], first: Results, second: Results
) -> Comparison:
    """Compare two runs: their `run.json`, and (trajectories, ranking) of each."""
    changed = {
        part: differences(fixed(facts.get(part), part), fixed(facts_again.get(part), part), part)
        for part in (*FINGERPRINT, *ENVIRONMENT)
    }
    there, here = ({name: f["config"].get(name) for name in WHERE} for f in (facts, facts_again))
    changed["execution"] = differences(there, here, "config")
    deviations: dict[str, float] = {}
    found = (*trajectory_deviations(first[0], second[0]), *ranking_deviations(first, second))
    for name, difference in found:
        if difference:
            deviations[name] = max(difference, deviations.get(name, 0.0))
    same_run = not any(changed[part] for part in FINGERPRINT)
    elsewhere = any(changed[part] for part in (*ENVIRONMENT, "execution"))
    equal = same_run and (
        not deviations
        or (elsewhere and within_tolerance(first[1], second[1], facts["data"]["num_validation"]))
    )
    return Comparison(equal, tuple(text for part in changed.values() for text in part), deviations)


def trajectory_deviations(
    first: tuple[Trajectory, ...], second: tuple[Trajectory, ...]
) -> Iterator[tuple[str, float]]:
    """Name and difference of every recorded value, epoch by epoch."""
    there = {t.model: t.records for t in second}
    for trajectory in first:
        records_again = there.get(trajectory.model, ())
        yield "epochs", abs(len(trajectory.records) - len(records_again))
        for one, two in zip(trajectory.records, records_again):
            fields = trajectory_files.to_json(one), trajectory_files.to_json(two)
            yield from value_deviations(*fields)


def ranking_deviations(first: Results, second: Results) -> Iterator[tuple[str, float]]:
    """Name and difference of every value in the rows, and of the order."""
    rows = {row.name: row for row in second[1].models}
    for row in first[1].models:
        if row.name not in rows:
            yield "models", math.inf
            continue
        for name, difference in value_deviations(_figures(row), _figures(rows[row.name])):
            yield f"ranking.{name}", difference


def _figures(row: RankedModel) -> dict[str, Any]:
    """The fields of a row, but for what using its model costs: that is not the run's doing."""
    return {name: value for name, value in vars(row).items() if name != "cost"}


def value_deviations(one: Any, two: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Differences of all numbers in two nested values, named by their fields; times left out."""
    if dataclasses.is_dataclass(one) and dataclasses.is_dataclass(two):
        one, two = vars(one), vars(two)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in sorted({*one, *two} - set(TIMES)):
            path = f"{name}.{key}" if name else key
            yield from value_deviations(one.get(key), two.get(key), path)
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        for a, b in zip(one, two):
            yield from value_deviations(a, b, name)
    elif isinstance(one, int | float) and isinstance(two, int | float):
        same = one == two or (math.isnan(one) and math.isnan(two))
        difference = 0.0 if same else abs(one - two)
        yield name, math.inf if math.isnan(difference) else difference
    else:
        yield name, 0.0 if one == two else math.inf


def within_tolerance(first: Ranking, second: Ranking, samples: int) -> bool:
    """Whether two rankings, made on different machines, agree (see the module's text)."""
    rows = {row.name: row for row in second.models}
    if set(rows) != {row.name for row in first.models}:
        return False
    best = rows[first.models[0].name]
    if not (best.rank == first.models[0].rank or best.tied_with_best):
        return False
    return all(row_within(row, rows[row.name], samples) for row in first.models)


def row_within(one: RankedModel, two: RankedModel, samples: int) -> bool:
    """Whether a model went the same way, up to the noise of `samples` validation samples."""
    if (one.status, one.epochs) != (two.status, two.epochs):
        return False
    for p, q in zip(one.validation_accuracy, two.validation_accuracy):
        # The standard error of a share, with a sample more on either side: never zero.
        mean = (samples * (p + q) / 2 + 1) / (samples + 2)
        if abs(p - q) > STANDARD_ERRORS * math.sqrt(mean * (1 - mean) / samples):
            return False
    return True
