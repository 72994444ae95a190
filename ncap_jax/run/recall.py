"""The recall stage: of a long list of candidates a few are fine-tuned.

Nothing is loaded for the filters and the prior. Features need each model once: of the training
images a few are shown to the untouched model (`ncap_jax.run.looking`), the most promising model by
its prior first, until the time is over; of the models that are left the features say nothing. Those
with random weights are looked at only if the pool cannot be filled without them. Models
are looked at where they are trained later: in this process, in others, or on a Ray cluster. A model
that cannot be loaded or looked at is left out with its reason.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ncap_jax import errors
from ncap_jax.options import RankConfig
from ncap_jax.predictor.static_prior import static_prior
from ncap_jax.run import admission, start
from ncap_jax.run.executors import Lost
from ncap_jax.run.job import Job, Look, Looked
from ncap_jax.run.recall_files import (
    Decision,
    ScoreCache,
    Scores,
    read_decision,
    weights_digest,
    write_decision,
)
from ncap_jax.selection.recall import (
    KEPT,
    Candidate,
    Choice,
    choose,
    kept_in_time,
    merits,
    not_worth_a_look,
)
from ncap_jax.types import LeftOut, ModelSpec
from ncap_jax.zoo import catalogue, registry
from ncap_jax.zoo.weights import sources

# Training images that are looked at: eight of every class, within these bounds.
PER_CLASS, FEWEST, MOST = 8, 256, 1024
# Part of a time budget that a recall may take.
PART = 1 / 3
# What scores depend on beside what their key names; another number makes all cached ones stale.
VERSION = 2
Tell = Callable[[str], None]


def decide(
    job: Job,
    digest: str,
    run: pathlib.Path | None,
    tell: Tell,
    makers: start.Makers,
    left: Callable[[], float] = lambda: math.inf,
) -> Decision:
    """Choose the models that are fine-tuned: `job.recall`, or as many as there may be time for.

    Args:
        job: its models are the candidates.
        digest: SHA-256 of the data.
        run: path of the run's folder, where the decision is kept and found again; None: nowhere.
        tell: is told what happens, in sentences.
        makers: of the work that looks at a model (`ncap_jax.run.looking`).
        left: seconds of the time budget that are left, whenever it is asked.

    Raises:
        ModelError: no candidate could be looked at.
        ConfigError: no candidate is small and fast enough.
        ChangedDataError: an image is not what it was.
        OutputError: the folder cannot be written.
    """
    key = decision_key(job, digest)
    if run is not None and (known := read_decision(run, key)) is not None:
        tell(f"Recall: {len(known.chosen)} models were chosen in an earlier call.")
        return known
    began = time.monotonic()
    timed = kept_by_time(job.config)
    number = "as many as there is time for" if timed else f"{job.recall}"
    tell(f"Recall: of {len(job.specs)} candidates {number} will be fine-tuned.")
    candidates = before_loading(job.specs, job.config)
    if "features" in job.config.recall_parts:
        looks = _Looks(job, digest, run, tell, makers)
        candidates = looks(candidates, began + seconds_for(job.config))
    keep = job.recall
    if timed:
        taken = [each.seconds for each in candidates if each.scores]
        keep = kept_in_time(left(), taken, len(candidates))
        tell(f"Recall: {keep} of them are put in order for the race.")
    choice = fitting(job, candidates, keep)
    seconds = time.monotonic() - began
    decision = Decision(choice.chosen, choice.left_out, seconds, tuple(candidates))
    if run is not None:
        write_decision(run, key, decision)
    return decision


def decision_key(job: Job, digest: str) -> dict[str, Any]:
    """What a decision follows from; an equal key stands for an equal decision."""
    config = job.config
    limits = ("max_latency_ms", "max_parameters")
    time = ("time_budget",) if kept_by_time(config) else ()
    names = ("recall_parts", "recall_family", "recall_seconds", *limits, *time)
    return {
        "candidates": job.names,
        "recall": job.recall,
        **{name: getattr(config, name) for name in names},
        **_setting(job, digest),
    }


def _setting(job: Job, digest: str) -> dict[str, Any]:
    """What the scores of all models depend on."""
    config = job.config
    names = ("seed", "dtype", "input_size", "weights")
    return {
        "version": VERSION,
        "data": digest,
        "images": images_of(job.dataset.num_classes),
        **{name: getattr(config, name) for name in names},
    }


def images_of(classes: int) -> int:
    """How many training images are looked at, where there are as many."""
    return min(max(FEWEST, PER_CLASS * classes), MOST)


def seconds_for(config: RankConfig) -> float:
    """After how many seconds no further model's features are begun with."""
    budget = math.inf if config.time_budget is None else PART * config.time_budget
    return min(config.recall_seconds, budget)


def before_loading(specs: Sequence[ModelSpec], config: RankConfig) -> list[Candidate]:
    """The candidates, in order, with what is known without loading anything."""
    scratch = config.weights == sources.RANDOM
    priors = [math.nan] * len(specs) if scratch else static_prior(specs)
    return [
        Candidate(spec.name, catalogue.facts(spec).family, prior)
        for spec, prior in zip(specs, priors, strict=True)
    ]


def as_cached(
    job: Job, digest: str, run: pathlib.Path | None, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """The candidates with the scores that earlier calls have kept; nothing is loaded.

    Args: see `decide`.
    """
    return _Looks(job, digest, run, lambda line: None)(candidates)


def kept_by_time(config: RankConfig) -> bool:
    """Whether a recall keeps as many models as a race may have time for."""
    return config.recall is None and config.time_budget is not None and config.strategy == "race"


def fitting(job: Job, candidates: Sequence[Candidate], keep: int) -> Choice:
    """The choice, all of it as small and fast as the options ask: others make room for the next.

    Only those that would be chosen are built for it, and timed.

    Args:
        job: see `decide`.
        candidates: with what is known of them.
        keep: how many are chosen.

    Raises:
        ModelError: no candidate could be looked at.
        ConfigError: no candidate is small and fast enough.
    """
    config, specs = job.config, {spec.name: spec for spec in job.specs}
    known, gone = set[str](), list[LeftOut]()
    while True:
        choice = choose(candidates, keep, config, KEPT if kept_by_time(config) else None)
        new = [specs[name] for name in choice.chosen if name not in known]
        if not choice.chosen:
            raise _none_left((*choice.left_out, *gone))
        if not new:
            return Choice(choice.chosen, (*choice.left_out, *gone))
        known |= {spec.name for spec in new}
        found = admission.unfit(new, config)
        names = {each.name for each in found}
        if config.max_latency_ms is not None:
            timed = [spec for spec in new if spec.name not in names]
            found += admission.too_slow(timed, job.dataset, config)
        gone += found
        names = {each.name for each in found}
        candidates = [each for each in candidates if each.name not in names]


def _none_left(left_out: Sequence[LeftOut]) -> errors.NcapError:
    """Why nobody is chosen."""
    limits = [each for each in left_out if each.step == "filter"]
    kind = errors.ConfigError if limits else errors.ModelError
    first = (limits or left_out)[0]
    return kind(
        f"none of the {len(left_out)} candidates can be fine-tuned; {first.name}: {first.reason}",
        "Raise the limit that leaves them out, or give other models"
        if limits
        else "Put that right, or leave features out of recall_parts",
    )


class _Looks:
    """What is known of all candidates: from the cache, or by a worker that looks at them.

    Args: see `decide`; without `makers` nobody is looked at.
    """

    def __init__(
        self,
        job: Job,
        digest: str,
        run: pathlib.Path | None,
        tell: Tell,
        makers: start.Makers | None = None,
    ):
        self._job, self._tell, self._makers = job, tell, makers
        self._specs = {spec.name: spec for spec in job.specs}
        self._cache = ScoreCache(run, _setting(job, digest))
        self._done = 0

    def __call__(self, candidates: Sequence[Candidate], end: float = math.inf) -> list[Candidate]:
        """The candidates, in order, with their scores or failures.

        Args:
            candidates: as known before anything is loaded.
            end: by `time.monotonic`, when no further model is begun with.
        """
        order = np.argsort(merits(candidates, ("prior",)), kind="stable").tolist()
        found = {candidates[place].name: candidates[place] for place in order}
        new = [name for name in found if not self._from_cache(found, name)]
        while self._makers is not None and (turns := self._turns(found, new)):
            self._look(found, turns, end, self._makers)
            new = [name for name in new if name not in turns]
        known = [found[each.name] for each in candidates]
        self._say_who_is_not_known(known, 0 if self._makers is None else len(new))
        return known

    def _turns(self, found: Mapping[str, Candidate], new: Sequence[str]) -> list[str]:
        """Who is looked at next, of those that are left."""
        skipped = not_worth_a_look(
            [*found.values()], self._job.recall, self._job.config.recall_parts
        )
        return [name for name in new if name not in skipped]

    def _from_cache(self, found: dict[str, Candidate], name: str) -> bool:
        """Whether the scores of a model were kept by an earlier call."""
        spec = self._specs[name]
        try:
            digest = weights_digest(spec, self._job.config)
        except Exception:  # whoever looks at the model will tell what is wrong with its file
            return False
        known = self._cache.get(_identity(spec), digest)
        if known is not None:
            self._take(found, name, Looked(known.values, known.seconds))
        return known is not None

    def _look(
        self,
        found: dict[str, Candidate],
        names: Sequence[str],
        end: float,
        makers: start.Makers,
    ) -> None:
        """Have workers look at models, in this order, as long as there is time."""

        def make_task(name: str) -> Look:
            return Look(name, over=time.monotonic() >= end)

        def on_end(name: str, result: Looked | Lost) -> None:
            if isinstance(result, Lost):
                result = Looked(failure=result.reason)
            if result.scores:
                scores = Scores(result.scores, result.seconds)
                self._cache.put(_identity(self._specs[name]), result.weights, scores)
            self._take(found, name, result)

        with start.make_executor(self._job.config, makers, len(names)) as executor:
            executor.run(names, make_task, lambda name, item: None, on_end)

    def _take(self, found: dict[str, Candidate], name: str, looked: Looked) -> None:
        """Enter what is known of a model, and say it."""
        self._done += 1
        each = found[name] = dataclasses.replace(
            found[name], scores=looked.scores, seconds=looked.seconds, failure=looked.failure
        )
        progress = f"[{self._done}/{len(found)} candidates]"
        if each.failure:
            self._tell(f"{name}: failed: {each.failure} {progress}")
        elif each.scores:
            scores = ", ".join(f"{score} {value:.4g}" for score, value in each.scores.items())
            self._tell(f"{name}: {scores} ({each.seconds:.1f} s) {progress}")

    def _say_who_is_not_known(self, found: Sequence[Candidate], skipped: int) -> None:
        if skipped:
            self._tell(
                f"Recall: {skipped} of {len(found)} candidates have random weights and are not "
                "looked at: enough others are left."
            )
        unknown = sum(not each.scores and not each.failure for each in found)
        if count := unknown - skipped:
            self._tell(
                f"Recall: no time was left for the features of {count} of {len(found)} candidates; "
                "they are ranked without them."
            )


def _identity(spec: ModelSpec) -> str:
    """By what the scores of a model are found, beside its weights."""
    name = registry.reference(spec) or spec.name
    return f"{name}, {spec.preprocessing}, {spec.input_size} pixels"
