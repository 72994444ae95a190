"""What the use of a run's models costs.

Nothing is measured while something is trained: models are timed after the last one, once no thread
compiles any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ncap_jax import caching
from ncap_jax.measure import inference
from ncap_jax.run import admission, ahead
from ncap_jax.run.job import Job
from ncap_jax.types import InferenceCost, LeftOut, Ranking, Trajectory


def costs(
    job: Job,
    trajectories: Sequence[Trajectory],
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, InferenceCost]:
    """What the use of every model costs, by name; timed if the configuration asks for it.

    The operations of a model that was never trained are not counted: of a long list in a short time
    budget most are not, and tracing them all would take longer than the budget leaves.

    Args:
        job: the run, whose training is over.
        trajectories: of its models; those without an epoch of training are not timed.
        tell: is told what is about to take a while.
    """
    trained = {t.model for t in trajectories if t.epochs and t.status in ("ok", "stopped")}
    timed = trained if job.config.measure_inference else set()
    if timed:
        ahead.wait()
        models = "1 model labels" if len(timed) == 1 else f"{len(timed)} models label"
        tell(f"Measuring how fast {models} images.")
    used_on = admission.setting(job.dataset, job.config)
    found = {
        spec.name: inference.cost(
            spec, used_on, counted=spec.name in trained, measured=spec.name in timed
        )
        for spec in job.specs
    }
    if timed:
        caching.forget_compiled_programs()
    return found


def with_costs(
    ranking: Ranking, costs: Mapping[str, InferenceCost], left_out: tuple[LeftOut, ...]
) -> Ranking:
    """A ranking whose rows say what the use of their models costs.

    Args:
        ranking: of a run.
        costs: by name.
        left_out: the models that do not take part.
    """
    rows = (dataclasses.replace(row, cost=costs[row.name]) for row in ranking.models)
    return dataclasses.replace(ranking, models=tuple(rows), left_out=left_out)
