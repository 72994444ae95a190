"""beta_eff of probes on a model's features, as the records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from ncap_jax.capacitance import beta_eff
from ncap_jax.ops.effort import Effort, Jitted
from ncap_jax.types import STRENGTHS, Statuses, Values
from ncap_jax.zoo import probe


def measure_probes(
    params: Any, features: Any, labels: Any, *, effort: Effort = "full"
) -> tuple[Values, Statuses]:
    """beta_eff of every probe in every strength.

    The probe's batch-norm statistics are taken over the measurement set itself.

    Args:
        params: the stacked probes' params.
        features: (n, width) float32 of the measurement subset.
        labels: (n,) int32.
        effort: of the program's compilation.
    """
    return as_records(_probes.at(effort)(probe.probe_arrays(params), features, labels))


def compile_probes(params: Any, features: Any, labels: Any, *, effort: Effort) -> None:
    """Compile what `measure_probes` runs for features and labels of these shapes."""
    _probes.at(effort).lower(probe.probe_arrays(params), features, labels).compile()


def as_records(results: Mapping[str, beta_eff.BetaEff]) -> tuple[Values, Statuses]:
    """Values and statuses by strength, one per probe, as plain Python numbers and names."""
    values = {
        strength: tuple(np.atleast_1d(np.asarray(result.value, np.float64)).tolist())
        for strength, result in results.items()
    }
    statuses = {s: tuple(np.atleast_1d(r.status).tolist()) for s, r in results.items()}
    return values, statuses


@Jitted
def _probes(
    arrays: probe.ProbeArrays, features: jax.Array, labels: jax.Array
) -> dict[str, beta_eff.BetaEff]:
    one = partial(
        beta_eff.probe_beta_eff,
        features=features,
        labels=labels,
        strengths=STRENGTHS,
        epsilon=probe.EPSILON,
    )
    return jax.vmap(lambda a: one(a.kernels, a.biases, a.gammas, a.betas))(arrays)
