"""From a ranking to the model to use: the first ones trained to convergence, the best one kept.

    finish/finish.json                  what is finished and how; another way is refused
    finish/trajectories/<model>.jsonl   a line an epoch, those of the ranking first
    finish/checkpoints/<model>/         the state after the last epoch, while the model is trained
    finish/best/<model>/                the weights of the best epoch, once it has converged
    finish/time.json                    seconds that all calls took together
    finish/report.json                  what the reports show beside the model
    finish/start/                       where the ranking had probes: the same epochs with a linear
                                        head, from the pretrained weights
    winner/                             the model (`ncap_jax.winner.storage`)
    report.html, report.md              of the ranking, which show the winner then

Each file is whole before another depends on it, so that a kill at any moment costs the epoch under
way and nothing else. The ranking's other files stay as they are.
"""

from __future__ import annotations

import dataclasses
import io
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ncap_jax import caching, data, errors, files
from ncap_jax.data.augment import augmentation
from ncap_jax.data.batching import steps_per_epoch
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.data.held_out import HeldOut
from ncap_jax.finetune import loop, mesh, splits, trajectory_files
from ncap_jax.finetune.candidate import Candidate, FineTuning, prepare
from ncap_jax.finetune.steps import Program
from ncap_jax.ops.effort import effort_for
from ncap_jax.options import FinishConfig, RankConfig
from ncap_jax.report.progress import Progress, Watchers
from ncap_jax.run import finish_source
from ncap_jax.run.finish_folder import FinishFolder
from ncap_jax.run.finish_source import FinishRequest, Ranked
from ncap_jax.run.folder import RunFolder
from ncap_jax.run.job import Job
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.run.preparing import prepare as prepare_job
from ncap_jax.run.scratch import Scratch
from ncap_jax.run.stopwatch import Stopwatch
from ncap_jax.types import EpochRecord, RankedModel, Trajectory, Watcher
from ncap_jax.winner import freezing, training
from ncap_jax.winner.training import Converged, Course, Finished, Weights

if TYPE_CHECKING:
    from ncap_jax.winner.facts import ModelFacts
    from ncap_jax.winner.model import Winner

WINNER = "winner"


@dataclass(frozen=True)
class Finish:
    """One call's work.

    Attributes:
        ranked: the run that it goes on from.
        job: its models, data and options.
        config: of the finish.
        feed: the data on the device.
        source: files of the models at the end of the ranking.
        folder: of the finish.
        watcher: told of every epoch and every end.
        test: what no training and no choice sees; None: the data have none.
        drafts: model -> what is known of it before it is finished.
    """

    ranked: Ranked
    job: Job
    config: FinishConfig
    feed: Feed
    source: ModelFiles
    folder: FinishFolder
    watcher: Watcher
    test: HeldOut | None
    drafts: Mapping[str, ModelFacts]

    @property
    def begins_again(self) -> bool:
        """Whether models begin with the pretrained weights: a ranking of probes has no head."""
        return self.job.config.head != "linear"


def finish(request: FinishRequest) -> Winner:
    """Do the job; see `ncap_jax.finish` for arguments, result and errors."""
    began = time.monotonic()
    ranked = finish_source.find(request)
    rows = ranked.first(request.config.top)
    programs = caching.describe_programs(caching.keep_compiled_programs())
    if ranked.request.config.head == "linear":
        finish_source.check_states(ranked, rows)
    job, about = prepare_job(ranked.request, {row.name for row in ranked.ranking.models})
    ranked.check(about)
    unknown = [row.name for row in rows if row.name not in job.names]
    if unknown:
        raise errors.OutputError(
            f"{unknown[0]} is in the ranking, but not among the models of its run", "Rank again"
        )
    test, drafts = _known_before(ranked, job, rows)
    with ExitStack() as stack:
        scratch = Scratch() if ranked.folder is None else None
        path = scratch.path if scratch is not None else ranked.folder
        assert path is not None
        run = stack.enter_context(RunFolder(path, about))
        folder = FinishFolder(run.path, request.config, job.config.metric)
        names, last = [row.name for row in rows], job.config.epochs + request.config.max_epochs
        file = None if request.show_progress else io.StringIO()
        view = Progress(names, last, file, programs=programs, metric=job.config.metric)
        stack.enter_context(view)
        stopwatch = stack.enter_context(Stopwatch(folder.path, began))
        watchers = Watchers([stopwatch, view])
        feed = mesh.on_mesh(make_feed(job.dataset), job.config.mesh)
        work = Finish(ranked, job, request.config, feed, run.files, folder, watchers, test, drafts)
        found = _trained(work, rows)
        winner = _winner(work, found)
        if ranked.folder is not None and ranked.scratch is None:
            _keep(work, winner, found, stopwatch)
    return winner


def _known_before(
    ranked: Ranked, job: Job, rows: Sequence[RankedModel]
) -> tuple[HeldOut | None, dict[str, ModelFacts]]:
    """The test part, and what is known of every model; looked at before any training.

    What is wrong with the test part, and what could not be saved, is told at once.
    """
    # Imported here: what is wrong with the run itself is told without what labels images.
    from ncap_jax.run import judging

    asked = ranked.request
    test = data.load_test_part(asked.dataset, asked.data_config, seed=asked.config.seed)
    described = judging.describe_data(job, test)
    return test, {row.name: judging.draft(job, row.name, described) for row in rows}


def _keep(
    work: Finish, winner: Winner, found: Mapping[str, Finished], stopwatch: Stopwatch
) -> None:
    """Save the winner in the folder of the run, whose reports show it then."""
    # Imported here: figures and templates are needed once the models are trained.
    from ncap_jax.run import finish_report

    assert work.ranked.folder is not None
    place = work.ranked.folder / WINNER
    winner.save(place)
    ends = {name: finished.converged for name, finished in found.items()}
    finish_report.write(
        work.ranked, work.job, winner.facts, ends, work.test, place, stopwatch.seconds
    )


def _trained(work: Finish, rows: Sequence[RankedModel]) -> dict[str, Finished]:
    """The models, each at its best epoch; those that break are left out, with a warning.

    Raises:
        ModelError: none of them could be trained.
    """
    found: dict[str, Finished] = {}
    failures: dict[str, str] = {}
    for row in rows:
        try:
            found[row.name] = _finished(work, row)
        except (errors.OutputError, errors.ChangedDataError):
            raise
        except Exception as error:
            # What breaks in one model must not cost the others their epochs.
            failures[row.name] = str(error) or type(error).__name__
            warnings.warn(f"{row.name} is left out: {failures[row.name]}"[:500], stacklevel=2)
    if not found:
        raise errors.ModelError(
            f"no model could be finished: {'; '.join(f'{n}: {w}' for n, w in failures.items())}",
            "See the causes, or rank again in another folder",
        )
    return found


def _winner(work: Finish, found: Mapping[str, Finished]) -> Winner:
    """The best of the models; of equal ones the first in the ranking."""
    # Imported here, as above.
    from ncap_jax.run import judging

    name = max(found, key=lambda each: found[each].converged.merit)  # the first of equal ones
    ends = {each: finished.converged for each, finished in found.items()}
    about = dataclasses.replace(
        work.drafts[name],
        chosen=judging.how_chosen(work.ranked.ranking, work.config, ends),
        created=work.folder.started,
    )
    return judging.judged(about, found[name], work.job.dataset, work.test)


def _finished(work: Finish, row: RankedModel) -> Finished:
    """One model at its best epoch; what is left of its training is done."""
    spec = next(spec for spec in work.job.specs if spec.name == row.name)
    config = dataclasses.replace(work.job.config, head="linear", num_probes=1, beta_eff="off")
    halves = 2 if work.source.halving_note(row.name) else 1
    candidate = prepare(spec, work.feed, config, None, halves)
    source = work.source
    if work.begins_again:
        source = work.folder.start
        # Another candidate: training consumes its arrays.
        _train_again(work, prepare(spec, work.feed, config, None, halves), config)
    work.folder.begin(row.name, source.trajectory(row.name))
    converged = _converged_before(work, candidate)
    if converged is None:
        if source.checkpoints(row.name).latest() is None:  # removed since the model was finished
            raise finish_source.not_kept(row)
        converged = _converge(work, candidate, config, source)
        work.folder.best(row.name).save(converged.best_epoch, converged.weights)
    work.folder.files.checkpoints(row.name).remove()
    seconds = sum(record.seconds for record in converged.records)
    work.watcher.finished(Trajectory(row.name, "linear", converged.records, seconds=seconds))
    return Finished(converged, candidate.network)


def _train_again(work: Finish, candidate: Candidate, config: RankConfig) -> None:
    """Train the ranking's epochs with a linear head, from the pretrained weights."""
    source, name = work.folder.start, candidate.name
    seen = source.resume_point(name)
    again = FineTuning(candidate, work.feed, config)

    def on_record(record: EpochRecord) -> None:
        source.append(name, record)
        work.watcher.epoch(name, record)

    if not seen or seen[-1].epoch < config.epochs:
        loop.finetune(
            again,
            seen=seen,
            checkpoints=source.checkpoints(name),
            saved=range(config.epochs + 1),
            on_record=on_record,
        )


def _converged_before(work: Finish, candidate: Candidate) -> Converged | None:
    """A model that an earlier call has finished; None: there is something left to do."""
    name, state = candidate.name, candidate.train_state
    best = work.folder.best(name)
    epoch = best.latest()
    if epoch is None:
        return None
    records = trajectory_files.read_sound(work.folder.files.trajectory(name))
    if [record.epoch for record in records] != list(range(len(records))) or epoch >= len(records):
        warnings.warn(f"the epochs of {name} are damaged: it is finished again", stacklevel=2)
        best.remove()
        work.folder.files.start_again(name)
        return None
    try:
        weights = best.restore(epoch, Weights(state.params, state.state))
    except errors.CheckpointError as error:
        warnings.warn(f"{name} is finished again: {error}", stacklevel=2)
        best.remove()
        work.folder.files.start_again(name)
        return None
    return Converged(records, epoch, weights, work.job.config.metric)


def _converge(
    work: Finish, candidate: Candidate, config: RankConfig, source: ModelFiles
) -> Converged:
    """Train one model to convergence, from the ranking's state or where a kill stopped it."""
    name, kept = candidate.name, work.folder.files
    first = source.checkpoints(name).latest()
    assert first is not None  # it was looked at before
    ranked = trajectory_files.read(source.trajectory(name))[: first + 1]
    seen = kept.resume_point(name)
    if not seen:
        text = "".join(f"{trajectory_files.line(record)}\n" for record in ranked)
        files.write_atomically(kept.trajectory(name), text)
        seen = ranked

    def on_record(record: EpochRecord) -> None:
        kept.append(name, record)
        work.watcher.epoch(name, record)

    judging_with = FineTuning(candidate, work.feed, config)
    program = _program(work, candidate, config)
    training_with = dataclasses.replace(
        judging_with, candidate=dataclasses.replace(candidate, program=program)
    )
    start = source.checkpoints(name)
    # A ranking keeps the states of all its splits; the finish goes on from that of the user's own.
    number = config.validation_splits if source is work.source else 1
    return training.converge(
        Course(training_with, judging_with, work.config, first),
        seen,
        lambda: mesh.replicate(program.mesh, splits.first(start, first, candidate, number)),
        checkpoints=kept.checkpoints(name),
        on_record=on_record,
    )


def _program(work: Finish, candidate: Candidate, config: RankConfig) -> Program:
    """What trains: the ranking's program, apart from what the finish does in another way.

    Its effort follows from the number of steps that there may be.
    """
    labels, dataset = work.feed.labels, work.job.dataset
    runs = work.config.max_epochs * steps_per_epoch(len(labels), config.batch_size)
    weights: tuple[float, ...] = ()
    if work.config.class_weights == "balanced":
        weights = training.class_weights(labels, work.feed.num_classes)
    params, state, _ = candidate.train_state
    held = freezing.held_leaves(
        candidate.network,
        params["backbone"],
        state["backbone"],
        dataset.images.shape[1:],
        work.config.freeze_stages,
    )
    return dataclasses.replace(
        candidate.program,
        augment=augmentation(work.config.augment, dataset),
        effort="full" if effort_for(runs) == "full" else "some",
        class_weights=weights,
        held=held,
    )
