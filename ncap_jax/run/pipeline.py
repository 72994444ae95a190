"""The main job: fine-tune each candidate briefly, measure, predict, rank."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from ncap_jax import caching, distributed, report
from ncap_jax.finetune.learning_rates import rates_to_try
from ncap_jax.options import RankConfig
from ncap_jax.report.progress import Progress, Watchers, line_printer
from ncap_jax.report.tensorboard import TensorBoard
from ncap_jax.run import (
    admission,
    ahead,
    facts,
    finish_record,
    growth,
    looking,
    recall,
    start,
    usage,
    worker,
)
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.job import Job
from ncap_jax.run.preparing import prepare, settle
from ncap_jax.run.recorded import Recorded
from ncap_jax.run.request import Request, Source
from ncap_jax.run.schedule import Scheduler
from ncap_jax.run.scratch import Scratch
from ncap_jax.run.stopwatch import Stopwatch
from ncap_jax.selection import budget, funnel, race
from ncap_jax.selection.keeping import kept, most_states
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import Ranking, Trajectory, Watcher

Known = Mapping[str, Recorded]


def rank(request: Request) -> Ranking:
    """Do the main job; see `ncap_jax.rank_models` for arguments, result and errors."""
    call_start = time.monotonic()
    board = None if request.tensorboard is None else TensorBoard(request.tensorboard)
    kept_programs = caching.keep_compiled_programs()
    programs = caching.describe_programs(kept_programs)
    cached = bool(caching.count_programs(kept_programs))
    job, about = prepare(request)
    clock = make_clock(job, call_start, beside=not cached and ahead.threads() > 0)
    with contextlib.ExitStack() as stack:
        place = open_place(request, about, job.config)
        folder = place.folder
        known: Known = {}
        if folder is not None:
            stack.enter_context(folder)
        if job.recall:
            job, about = shortened(job, about, request, folder, clock)
        if folder is not None:
            known = grow(folder, job)
        primary = distributed.is_primary()
        stopwatch = Stopwatch(folder.path if folder and primary else None, call_start)
        watchers: list[Watcher] = []
        view = progress(job, known, clock, programs, shown=request.show_progress)
        if primary:
            watchers += [stack.enter_context(stopwatch), stack.enter_context(view)]
            if board is not None:
                watchers.append(stack.enter_context(board))
        trajectories = finetune_all(job, folder, Watchers(watchers), clock, known)
        costs = usage.costs(job, trajectories, view.note if primary else lambda line: None)
        info = facts.run_info(job, about, stopwatch.seconds)
        ranking = rank_trajectories(trajectories, job.dataset.name, job.config, info=info)
        ranking = usage.with_costs(ranking, costs, job.left_out)
        ranking = dataclasses.replace(ranking, funnel=(*job.funnel, funnel.trained(ranking)))
        if request.output_dir is not None and folder is not None and primary:
            report.write(ranking, folder.path, finish_record.found(folder.path))
        if folder is not None:
            folder.keep_states(trajectories, kept(ranking))
    path = None if folder is None else folder.path
    return dataclasses.replace(ranking, source=Source(request, path, place.scratch))


def make_clock(job: Job, start: float, *, beside: bool) -> budget.TimeBudget:
    """The time budget of a call, for the arguments see `ncap_jax.selection.budget.TimeBudget`."""
    config = job.config
    later = partial(race.epochs_after, epoch=1, config=config)
    trials = {spec.name: len(rates_to_try(spec, config)) for spec in job.specs}
    return budget.TimeBudget(config, start, beside=beside, later_epochs=later, trials=trials)


def shortened(
    job: Job,
    about: dict[str, Any],
    request: Request,
    folder: RunFolder | None,
    clock: budget.TimeBudget,
) -> tuple[Job, dict[str, Any]]:
    """The job with the models that a recall chooses, and the content of its `run.json`.

    Raises:
        NcapError: see `ncap_jax.run.recall.decide`.
    """
    tell = line_printer(shown=request.show_progress)
    path = None if folder is None else folder.path
    asked = job, recall.images_of(job.dataset.num_classes)
    makers = start.Makers(partial(looking.Looker, *asked), partial(looking.look_elsewhere, *asked))
    decision = recall.decide(job, about["data"]["sha256"], path, tell, makers, clock.rest)
    job, about = settle(job, about, request.data_config, decision)
    if folder is not None:
        folder.describe(about)
    return job, about


def progress(
    job: Job, known: Known, clock: budget.TimeBudget, programs: str, *, shown: bool
) -> Progress:
    """The view of a run, which begins with its plan; nobody sees it unless it is `shown`."""
    return Progress(
        job.names,
        job.config.epochs,
        None if shown else io.StringIO(),
        programs=programs,
        clock=clock,
        notes=[
            *admission.notes(job.left_out),
            *growth.notes(known, job.config, len(job.dataset.labels)),
        ],
        metric=job.config.metric,
    )


class Place(NamedTuple):
    """Where a run keeps its files: `scratch` owns a folder that is removed with it."""

    folder: RunFolder | None = None
    scratch: Scratch | None = None


def open_place(request: Request, about: dict[str, Any], config: RankConfig) -> Place:
    """The folder of a run; of several processes the primary one's counts.

    Where none was asked for, it is a temporary one if the run needs it.

    Raises:
        OutputError: see `RunFolder`.
    """
    wanted = request.output_dir
    path = distributed.broadcast_json(None if wanted is None else os.fspath(wanted))
    if path is not None:
        return Place(RunFolder(path, about))
    if not needs_folder(config):
        return Place()
    scratch = Scratch()
    return Place(RunFolder(scratch.path, about), scratch)


def grow(folder: RunFolder, job: Job) -> Known:
    """Let a folder hold this run from now on; returns what the folder knows of the run's models.

    Raises:
        OutputError: the predictor or the metric reads what was not recorded.
    """
    known = folder.recorded()
    followed = growth.was_followed(folder.earlier, job.config, len(job.dataset.labels))
    growth.check_measured(known, job.config, folder.path, followed=followed)
    growth.check_counted(known, job.config, folder.path)
    folder.grow()
    return known


def finetune_all(
    job: Job,
    folder: RunFolder | None,
    watcher: Watcher,
    clock: budget.TimeBudget,
    known: Known | None = None,
) -> tuple[Trajectory, ...]:
    """Fine-tune the candidates, as far as the folder does not hold their epochs already.

    Args:
        job: the run.
        folder: of the run, where it has one.
        watcher: told of every epoch and every end.
        clock: the time budget; it counts from the start of the call.
        known: what the folder knows of the models.

    Raises:
        NcapError: the folder cannot be written, or the workers cannot start.
    """
    turns = job.names if job.in_order else budget.admission_order(job.specs, job.config)
    with contextlib.ExitStack() as stack:
        measured = growth.measured_epochs(job.config, len(job.dataset.labels))
        parameters = {spec.name: spec.parameters for spec in job.specs}
        scheduler = Scheduler(job.names, job.config, folder, watcher, clock, turns, measured, known)
        executor = None
        beginners = scheduler.beginners()
        clock.expect({name: parameters[name] for name in beginners}, len(turns) - len(beginners))
        if scheduler.unfinished():
            executor = start.make_executor(job.config, makers(job, folder), len(job.specs))
            executor = stack.enter_context(executor)
        scheduler.run(executor)
        return scheduler.trajectories()


def makers(job: Job, folder: RunFolder | None) -> start.Makers:
    """What makes the work of a worker in this process, and in another."""
    if folder is None:
        here = partial(worker.make_work, job, None)
        # Other processes have their share of the cores, and compile what they train themselves.
        return start.Makers(here, partial(here, threads=0))
    path = folder.path.absolute()
    return start.Makers(
        partial(worker.make_work, job, folder.files),
        partial(worker.join_work, job, str(path), worker.digest(path)),
    )


def needs_folder(config: RankConfig) -> bool:
    """Whether a model's state must be kept outside the function that trains it."""
    return (
        (most_states(config) > 0 and not distributed.is_distributed())
        or config.executor != "local"
        or config.strategy != "full"
        or config.epochs_budget is not None
    )
