"""Predict each model's accuracy at convergence from the first epochs of its fine-tuning.

`PREDICTORS` maps a name to a `Predictor`; `get` resolves `default`. Every entry takes the
trajectories of the pool, truncated to the first n epochs, and returns one `Prediction` each.
`accuracies` gives the predicted accuracies of any of them, those of methods that only rank as well.

The transferability scores, which look at features instead of trajectories, are in
`ncap_jax.predictor.scores`; their modules, and with them JAX, are imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ncap_jax import errors
from ncap_jax.options import Head
from ncap_jax.predictor import (
    accuracy_and_loss,
    best_seen,
    curve,
    joint,
    last_loss,
    last_seen,
    sotl,
)
from ncap_jax.predictor.base import Predictor
from ncap_jax.predictor.calibration import accuracies
from ncap_jax.predictor.ridge import ridge
from ncap_jax.predictor.validation_size import FEW

__all__ = ["DEFAULT_PREDICTORS", "PREDICTORS", "Predictor", "accuracies", "get"]

# What `RankConfig.predictor = "default"` means, per head: the method that ranked best against full
# fine-tuning over the corpus (experiments/compare_predictors.py; docs/results/early-signals.md).
DEFAULT_PREDICTORS: Mapping[Head, str] = {
    "probe": "capacitance",
    "trainable_probe": "capacitance",
    "linear": "last_validation_accuracy",
}

_ALL = (
    Predictor("last_seen", last_seen.predict, "validation accuracy of the last epoch"),
    Predictor("best_seen", best_seen.predict, "highest validation accuracy so far"),
    Predictor(
        "last_validation_accuracy",
        accuracy_and_loss.where_images_are_few(last_seen.predict),
        "validation accuracy of the last epoch, plus the growth expected until the end; with fewer "
        f"than {FEW} validation images, the training loss counts as well",
        scores_only=True,
        link=last_seen.logit_link,
    ),
    Predictor(
        "last_validation_loss",
        last_loss.predict_validation,
        "validation loss of the last epoch (score: minus the loss)",
        scores_only=True,
        link=last_loss.log_link,
    ),
    Predictor(
        "last_training_loss",
        last_loss.predict_training,
        "training loss after the last epoch (score: minus the loss)",
        scores_only=True,
        link=last_loss.log_link,
    ),
    Predictor(
        "sotl",
        sotl.sum_of_training_losses(),
        "sum of training losses, all epochs (score: minus their mean)",
        scores_only=True,
        link=last_loss.log_link,
    ),
    Predictor(
        "sotl_e",
        sotl.sum_of_training_losses(last=1),
        "training loss of the last epoch as it ran, SoTL-E with E = 1 (score: minus the loss)",
        scores_only=True,
        link=last_loss.log_link,
    ),
    Predictor(
        "power_law",
        curve.extrapolation(["power"]),
        "power law fitted to validation accuracy, extrapolated",
        min_epochs=2,
    ),
    Predictor(
        "curve_families",
        curve.extrapolation(list(curve.FAMILIES)),
        "power, exponential and log-power curves, weighted by fit, extrapolated",
        min_epochs=2,
    ),
    Predictor(
        "capacitance",
        joint.equal_weights(["beta_absolute", "validation_loss"]),
        "absolute beta_eff and validation loss of the last epoch, compared across models",
        scores_only=True,
        strength="absolute",
    ),
    Predictor(
        "published_ridge",
        ridge("signed", scaled=False),
        "Bayesian ridge on signed beta_eff, value at 0, exactly as published",
        min_epochs=2,
        strength="signed",
    ),
    Predictor(
        "scaled_ridge",
        ridge("absolute", scaled=True),
        "Bayesian ridge on absolute beta_eff, value at 0, scale-safe",
        min_epochs=2,
        strength="absolute",
    ),
)

PREDICTORS: dict[str, Predictor] = {predictor.name: predictor for predictor in _ALL}


def get(name: str, head: Head = "probe") -> Predictor:
    """The predictor of that name; `default` means the head's own in `DEFAULT_PREDICTORS`.

    Raises:
        ConfigError: the name is unknown.
    """
    if name == "default":
        name = DEFAULT_PREDICTORS[head]
    if name not in PREDICTORS:
        raise errors.ConfigError(*errors.unknown_name("predictor", name, PREDICTORS))
    return PREDICTORS[name]


def __getattr__(name: str) -> Any:
    # ncap_jax.predictor.logme.logme(...) without an import line; JAX is not imported before.
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
