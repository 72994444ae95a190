"""beta_eff of a model under fine-tuning, as the records hold it."""

from __future__ import annotations

import functools

import jax
import numpy as np

from ncap_jax.capacitance import beta_eff as kernels
from ncap_jax.types import STRENGTHS, Head
from ncap_jax.zoo import probe as probes

Values = dict[str, tuple[float, ...]]
Statuses = dict[str, tuple[str, ...]]


def probe(head: Head, params, features: jax.Array, labels: jax.Array) -> tuple[Values, Statuses]:
    """beta_eff of every probe and every strength; nothing for a linear head.

    The probe's batch-norm statistics are taken over the measurement set itself.

    Args:
        head: how the model runs.
        params: the stacked probes' params.
        features: (n, width) float32 of the measurement subset.
        labels: (n,) int32.
    """
    if head == "linear":
        return {}, {}
    results = _probes(probes.probe_arrays(params), features, labels)
    values = {s: tuple(np.asarray(r.value, np.float64).tolist()) for s, r in results.items()}
    return values, {s: tuple(np.atleast_1d(r.status).tolist()) for s, r in results.items()}


@jax.jit
def _probes(arrays: probes.ProbeArrays, features, labels):
    one = functools.partial(
        kernels.probe_beta_eff,
        features=features,
        labels=labels,
        strengths=STRENGTHS,
        epsilon=probes.EPSILON,
    )
    return jax.vmap(lambda a: one(a.kernels, a.biases, a.gammas, a.betas))(arrays)
