"""β_eff and the learning curve used jointly, across models.

Within one short run β_eff stays far from 0, and its extrapolation to β_eff = 0 says little
(docs/results/early-signals.md). *Across* the models of a pool it adds to what the curve says.
So, for model i of a pool after n epochs, with features x_ij from the table below:

    score_i = Σ_j w_j (x_ij − mean_i' x_i'j)                                                (J1)

Equal weights. With w_j = 1 nothing is learned. The registry's method `capacitance` takes the
absolute β_eff and the validation loss this way:

    score = −log( β_eff · loss ) + constant of the pool                                     (J0)

Features are not divided by their spread in the pool: that would hide how far apart the models of a
small pool are. `equal_weights` makes such methods from any features.

Learned weights. `fit` takes w (per head and n) from a corpus of finished runs on other data sets:

    logit(final_i) − mean_i' logit(final_i') = Σ_j w_j (x_ij − mean_i' x_i'j) + noise       (J2)

by Bayesian ridge (Gamma priors 1e-6) without intercept. Each pool's left side is divided by its
standard deviation, and features by theirs over the corpus. Centring and scaling within the pool
remove what differs from set to set: how hard it is, and how far apart the models end.

| feature | of the record after epoch n |
|---|---|
| `validation_accuracy` | logit of the accuracy, held 0.005 away from 0 and 1 |
| `validation_loss`, `train_loss` | −log of the loss in nats |
| `running_loss` | −log of the mean running loss of epochs 1..n (SoTL) |
| `beta_absolute`, `beta_squared` | −log β_eff of that strength |
| `fall_absolute`, `fall_squared` | log of its value before training, minus log of it now |

Learned weights need finished runs on *other data sets*, so no method with them is in `PREDICTORS`:
`predictor` makes a predictor of the usual interface from them. A score has no unit;
`ncap_jax.predictor.calibration` turns it into an accuracy. How well each ranks:
`experiments/compare_predictors.py`, docs/results/early-signals.md.

Source of the idea: the joint regressions of docs/method.md#from-β_eff-to-a-ranking; the forms are
ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ncap_jax import errors
from ncap_jax.options import Head
from ncap_jax.predictor.base import (
    PoolFunction,
    Predictor,
    by_length,
    no_prediction,
    too_short,
    trained_series,
    truncate,
)
from ncap_jax.predictor.growth import clipped_logit
from ncap_jax.types import Prediction, Strength, Trajectory

CURVE = ("validation_accuracy", "validation_loss", "train_loss", "running_loss")
BETA = ("beta_absolute", "beta_squared", "fall_absolute", "fall_squared")
# The whole network's value (head `linear`) is recorded without the squared strength.
FEATURES: Mapping[Head, tuple[str, ...]] = {
    "probe": CURVE + BETA,
    "trainable_probe": CURVE + BETA,
    "linear": (*CURVE, "beta_absolute", "fall_absolute"),
}
MIN_POOLS = 2
# Losses and β_eff of exactly 0 (rounding) must not become infinite.
_TINY = 1e-12

Weights = Mapping[str, float]


def feature(trajectory: Trajectory, name: str) -> float:
    """One feature of a trajectory's last record; NaN where it was not recorded."""
    if name.startswith(("beta_", "fall_")):
        kind, _, strength = name.partition("_")
        values = trajectory.beta_eff(_strength(strength))
        if values.size < 2:
            return float("nan")
        logs = -np.log(np.maximum(np.abs(values), _TINY))
        return float(logs[-1] if kind == "beta" else logs[-1] - logs[0])
    values = trained_series(trajectory, name)
    if not values.size:
        return float("nan")
    if name == "validation_accuracy":
        return float(clipped_logit(values[-1]))
    value = float(np.mean(values)) if name == "running_loss" else float(values[-1])
    return float(-np.log(max(value, _TINY))) if np.isfinite(value) else float("nan")


def _strength(name: str) -> Strength:
    return "squared" if name == "squared" else "absolute"


def features(pool: Sequence[Trajectory], names: Sequence[str]) -> np.ndarray:
    """(models, features) float64, centred within the pool.

    A model without β_eff (a whole network of too few layers has none) counts as average there; a
    model without a finite loss keeps its NaN.
    """
    x = np.array([[feature(t, name) for name in names] for t in pool], dtype=np.float64)
    x = x.reshape(len(pool), len(names))
    for j, name in enumerate(names):
        finite = np.isfinite(x[:, j])
        x[:, j] -= x[finite, j].mean() if finite.any() else 0.0
        if name not in CURVE:
            x[~finite, j] = 0.0
    return x


def fit(
    pools: Sequence[Sequence[Trajectory]],
    finals: Sequence[Sequence[float]],
    epochs: int,
    names: Sequence[str],
) -> dict[str, float]:
    """The weights of (J2) from pools of finished runs.

    Args:
        pools: the models of one data set and seed each; only the first `epochs` epochs count.
        finals: what each model reached, in [0, 1].
        epochs: n.
        names: of the features to use.

    Returns:
        feature -> weight.

    Raises:
        ConfigError: fewer than `MIN_POOLS` pools, or none from which weights can be learned.
    """
    from sklearn.linear_model import BayesianRidge

    if len(pools) < MIN_POOLS:
        raise errors.ConfigError(
            f"only {len(pools)} pools of finished runs to learn from",
            f"Give at least {MIN_POOLS} pools",
        )
    rows, targets = [], []
    for pool, final in zip(pools, finals, strict=True):
        x = features([truncate(t, epochs) for t in pool], names)
        y = clipped_logit(np.asarray(final, dtype=np.float64))
        keep = np.isfinite(x).all(axis=1) & np.isfinite(y)
        if keep.sum() < 2 or np.ptp(y[keep]) == 0:
            continue
        y = y[keep] - y[keep].mean()
        rows.append(x[keep])
        targets.append(y / y.std())
    if not rows:
        raise errors.ConfigError(
            "no pool has two models with all features and different final accuracies",
            "Record every epoch's losses and beta_eff, or use fewer features",
        )
    x, y = np.concatenate(rows), np.concatenate(targets)
    scale = x.std(axis=0)
    scale[scale == 0] = 1.0
    model = BayesianRidge(fit_intercept=False).fit(x / scale, y)
    return dict(zip(names, (model.coef_ / scale).tolist(), strict=True))


def scores(pool: Sequence[Trajectory], weights: Weights) -> list[Prediction]:
    """Equation (J1) for every model of a pool."""
    x = features(pool, list(weights))
    return [
        Prediction(float(value))
        if np.isfinite(value)
        else no_prediction("a loss or beta_eff of the last epoch is missing or not finite")
        for value in x @ np.array(list(weights.values()))
    ]


def equal_weights(names: Sequence[str]) -> PoolFunction:
    """Equation (J1) with weights of one as a method of the pool; (J0) for β_eff and a loss."""
    return by_length(lambda pool, epochs: scores(pool, dict.fromkeys(names, 1.0)))


def predictor(table: Mapping[int, Weights], name: str = "capacitance_learned") -> Predictor:
    """A predictor with learned weights.

    Args:
        table: n -> the weights after n epochs; those of the largest n that a run has reached are
            used.
        name: what the predictor is called.
    """

    def score(pool: Sequence[Trajectory], epochs: int) -> list[Prediction]:
        known = [n for n in table if n <= epochs]
        if not known:
            return [too_short(t, min(table)) for t in pool]
        return scores(pool, table[max(known)])

    return Predictor(
        name,
        by_length(score),
        "regression on losses and beta_eff across the pool, learned on other data sets",
        scores_only=True,
        min_epochs=min(table),
    )
