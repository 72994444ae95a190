"""beta_eff of probes on a model's features, as the records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from ncap_jax.capacitance import beta_eff
from ncap_jax.types import STRENGTHS, Statuses, Values
from ncap_jax.zoo import probe


def measure_probes(params: Any, features: jax.Array, labels: jax.Array) -> tuple[Values, Statuses]:
    """beta_eff of every probe in every strength.

    The probe's batch-norm statistics are taken over the measurement set itself.

    Args:
        params: the stacked probes' params.
        features: (n, width) float32 of the measurement subset.
        labels: (n,) int32.
    """
    return as_records(_probes(probe.probe_arrays(params), features, labels))


def as_records(results: Mapping[str, beta_eff.BetaEff]) -> tuple[Values, Statuses]:
    """Values and statuses by strength, one per probe, as plain Python numbers and names."""
    values = {
        strength: tuple(np.atleast_1d(np.asarray(result.value, np.float64)).tolist())
        for strength, result in results.items()
    }
    statuses = {s: tuple(np.atleast_1d(r.status).tolist()) for s, r in results.items()}
    return values, statuses


@jax.jit
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
