"""LogME in JAX against a compiled CPU reference: same features, same machine.

    python -m benchmarks.logme --output=benchmarks/results/logme_cpu.json

N = 10,000 samples, D = 2,048 features, 100 classes. The reference follows the steps of the
published algorithm in float64: singular value decomposition of the D × D Gram matrix and U by a
matrix product (LAPACK and BLAS, compiled and multithreaded), then for each class the fixed point,
at most 11 rounds. `loops` is the share of the latter, the only part that NumPy interprets.

Wall time and CPU time (all threads), each the minimum over repeats after one call that may
compile; also where the JAX version's time goes. On a machine that others use too, the CPU times
are the ones to compare.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ncap_jax.predictor.features import precision
from ncap_jax.predictor.logme import logme
from ncap_jax.run import facts

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Repeats; the minimum counts.", lower_bound=1)
_SAMPLES = flags.DEFINE_integer("samples", 10_000, "N.", lower_bound=2)
_FEATURES = flags.DEFINE_integer("features", 2_048, "D.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", 100, "K.", lower_bound=2)


class Seconds(NamedTuple):
    """Of the fastest call, by either clock."""

    wall: float
    cpu: float


def best(function: Callable[[], Any]) -> Seconds:
    """Fastest of some calls; the first one, which may compile, does not count."""
    function()
    seconds = []
    for _ in range(_REPEATS.value):
        start = Seconds(time.perf_counter(), time.process_time())
        function()
        seconds.append((time.perf_counter() - start.wall, time.process_time() - start.cpu))
    return Seconds(*map(min, zip(*seconds)))


def evidence(
    sigma: np.ndarray, energy: np.ndarray, outside: float, samples: int, features: int
) -> float:
    """Largest evidence per sample of one class, by the fixed point on the spectrum."""
    alpha, beta, value = 1.0, 1.0, 0.0
    t = 1.0
    for _ in range(11):
        gamma = (sigma / (sigma + t)).sum()
        norm = (sigma * energy / (t + sigma) ** 2).sum()
        residual = (energy / (1 + sigma / t) ** 2).sum() + outside
        alpha = gamma / (norm + 1e-5)
        beta = (samples - gamma) / (residual + 1e-5)
        new = alpha / beta
        value = (
            features / 2 * np.log(alpha)
            + samples / 2 * np.log(beta)
            - np.log(alpha + beta * sigma).sum() / 2
            - beta / 2 * residual
            - alpha / 2 * norm
            - samples / 2 * np.log(2 * np.pi)
        )
        if abs(new - t) / t <= 1e-3:
            break
        t = new
    return value / samples


def factorise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values (D,) and left singular vectors (N, D), for N > D."""
    features = features.astype(np.float64)
    _, squared, vh = np.linalg.svd(features.T @ features)
    return squared, (features @ vh.T) / np.sqrt(squared)


def all_classes(squared: np.ndarray, left: np.ndarray, labels: np.ndarray) -> float:
    """LogME from the factors."""
    scores = []
    for c in range(labels.max() + 1):
        y = (labels == c).astype(np.float64)
        energy = (left.T @ y) ** 2
        scores.append(evidence(squared, energy, float(y.sum() - energy.sum()), *left.shape))
    return float(np.mean(scores))


def reference(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME by the published steps, float64, for N > D."""
    return all_classes(*factorise(features), labels)


def parts(features: np.ndarray) -> dict[str, Seconds]:
    """Seconds of the Gram matrix and of its eigendecomposition, in the dtype of the features."""
    with precision(features.dtype):
        x = jnp.asarray(features)
        gram = jax.jit(lambda f: jnp.matmul(f.T, f, precision="highest"))
        eigh = jax.jit(jnp.linalg.eigh)
        product = gram(x)
        return {
            "gram": best(lambda: jax.block_until_ready(gram(x))),
            "eigh": best(lambda: jax.block_until_ready(eigh(product))),
        }


def measure() -> dict[str, Any]:
    """All times, the speed-ups, and how far the scores are apart."""
    rng = np.random.default_rng(0)
    n, d, classes = _SAMPLES.value, _FEATURES.value, _CLASSES.value
    labels = rng.permutation(np.arange(n) % classes)
    centres = 0.1 * rng.standard_normal((classes, d))
    features = (rng.standard_normal((n, d)) + centres[labels]).astype(np.float32)
    wide = features.astype(np.float64)
    factors = factorise(features)
    seconds = {
        "reference_float64": best(lambda: reference(features, labels)),
        "jax_float32": best(lambda: logme(features, labels)),
        "jax_float64": best(lambda: logme(wide, labels)),
        "reference_loops": best(lambda: all_classes(*factors, labels)),
        **{f"jax_float32_{name}": value for name, value in parts(features).items()},
        **{f"jax_float64_{name}": value for name, value in parts(wide).items()},
    }
    base, score = seconds["reference_float64"], all_classes(*factors, labels)
    return {
        "samples": n,
        "features": d,
        "classes": classes,
        "seconds": {name: value._asdict() for name, value in seconds.items()},
        "speedup": {
            name: {
                "wall": base.wall / seconds[name].wall,
                "cpu": base.cpu / seconds[name].cpu,
            }
            for name in ("jax_float32", "jax_float64")
        },
        "score_reference": score,
        "difference_float32": float(logme(features, labels)) - score,
        "difference_float64": float(logme(wide, labels)) - score,
    }


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    del argv
    result = {**facts.describe(), "logme": measure()}
    text = json.dumps(result, indent=2)
    print(text)
    if _OUTPUT.value is not None:
        path = pathlib.Path(_OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
