"""What a run would do, without training anything and without a trace on the disk.

The data are read and the filters applied, as in the run; what a filter measures is measured. The
recall is foretold as far as earlier calls have scored features, or decided.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence

from ncap_jax.options import RankConfig
from ncap_jax.report import text
from ncap_jax.run import admission, recall
from ncap_jax.run.job import Job
from ncap_jax.run.preparing import prepare
from ncap_jax.run.recall_files import read_decision
from ncap_jax.run.request import Request
from ncap_jax.selection import race
from ncap_jax.selection.recall import choose, not_worth_a_look


def plan(request: Request) -> list[str]:
    """The plan of a run, in sentences.

    Args:
        request: what would be asked for; a folder need not exist.

    Raises:
        NcapError: the run would be refused.
    """
    job, about = prepare(request)
    run = None if request.output_dir is None else pathlib.Path(request.output_dir)
    asked, left = job.funnel
    data = about["data"]
    return [
        f"Data: {data['name']}, {data['num_train']} training and {data['num_validation']} "
        "validation images.",
        f"Candidates: {asked.models:,}, of which the filters leave {left.models:,} "
        f"({text.duration(left.seconds or 0.0)}).",
        *admission.notes(job.left_out),
        *(_recall(job, data["sha256"], run) if job.recall else ()),
        *_training(job.recall or len(job.specs), job.config),
        "Nothing was trained or written.",
    ]


def _recall(job: Job, digest: str, run: pathlib.Path | None) -> list[str]:
    """Who would be chosen by what is known, and what is still to be looked at."""
    config = job.config
    parts = text.listed(config.recall_parts) or "the order in which they are given"
    number = "as many as there is time for" if recall.kept_by_time(config) else f"{job.recall}"
    lines = [f"Recall: {number} of {len(job.specs):,}, by {parts}."]
    decided = None if run is None else read_decision(run, recall.decision_key(job, digest))
    if decided is not None:
        return [*lines, f"It is decided already: {', '.join(decided.chosen)}."]
    known = recall.before_loading(job.specs, config)
    if "features" in config.recall_parts:
        known = recall.as_cached(job, digest, run, known)
        seconds = [each.seconds for each in known if each.scores]
        skipped = not_worth_a_look(known, job.recall, config.recall_parts)
        missing = sum(not each.scores and each.name not in skipped for each in known)
        lines.append(
            f"Features: {len(seconds):,} models were scored before, {missing:,} are loaded in at "
            f"most {text.duration(recall.seconds_for(config))}{_about(seconds, missing)}."
        )
    likely = choose(known, job.recall, config).chosen
    return [*lines, f"As far as is known, it would choose {', '.join(likely)}."]


def _about(seconds: Sequence[float], missing: int) -> str:
    """What is expected of those that were not scored, by those that were."""
    if not seconds or not missing:
        return ""
    return (
        f", about {text.duration(statistics.median(seconds) * missing)} at the pace of the others"
    )


def _time(config: RankConfig, budget: float) -> str:
    """What a time budget is divided into."""
    line = f"Time budget: {text.duration(budget)} in all."
    if config.strategy == "race":
        line += (
            " A model is given its first epoch as long as there is time for the race that follows: "
            "for how many is known once the first one has had its own."
        )
    return line


def _training(models: int, config: RankConfig) -> list[str]:
    """How many models train how far."""
    epochs = f"{config.epochs} epoch{'s' if config.epochs != 1 else ''}"
    line = f"Training: {models} model{'s' if models != 1 else ''}, up to {epochs} each."
    if config.strategy == "race":
        places = {rung: race.kept(models, rung) for rung in race.rungs(config)}
        cuts = [f"{kept} after {rung}" for rung, kept in places.items() if kept < models]
        alike = "and those that the images cannot tell from them"
        line += f" The race lets {text.listed(cuts)} continue, {alike}." if cuts else ""
    lines = [line]
    if config.time_budget is not None:
        lines.append(_time(config, config.time_budget))
    return [*lines, "How long an epoch takes is known once the first model has trained one."]
