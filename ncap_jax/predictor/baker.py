"""Performance prediction by ν-SVR on curve features, trained on other models' finished curves.

Features of a run after n epochs: the validation accuracies y_1..y_n, their first differences and
their second differences. A ν-support-vector regression with an RBF kernel maps them
(standardised) to the final accuracy; C, ν and γ are chosen by cross-validation on the training
curves, and the residuals of that cross-validation give the standard deviation.

It needs finished runs of *other* models to learn from, so it is not in `PREDICTORS`: `train` makes
a predictor of the usual interface from a corpus, `leave_one_out` predicts every model of a corpus
from all the others.

Source: Baker, Gupta, Raskar, Naik, "Accelerating Neural Architecture Search using Performance
Prediction", 2017 (arXiv 1705.10823). The architecture and hyperparameter features of the paper
are left out: the candidates here share the hyperparameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ncap_jax import errors
from ncap_jax.predictor.base import (
    Predictor,
    accuracy_flag,
    no_prediction,
    per_model,
    trained_series,
    truncate,
)
from ncap_jax.types import Prediction, Trajectory

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MIN_CURVES = 4
# Settings among which cross-validation chooses.
GRID = {
    "nusvr__C": [1.0, 10.0, 100.0],
    "nusvr__nu": [0.3, 0.7],
    "nusvr__gamma": [0.01, 0.1],
}


def curve_features(accuracy: np.ndarray) -> np.ndarray:
    """(n,) accuracies -> (n + (n−1) + (n−2),): values, first and second differences."""
    return np.concatenate([accuracy, np.diff(accuracy), np.diff(accuracy, n=2)])


def train(
    trajectories: Sequence[Trajectory], final_accuracies: Sequence[float], epochs: int
) -> Predictor:
    """Learn from finished runs how the first epochs foretell the end.

    Args:
        trajectories: the corpus; only the first `epochs` epochs count.
        final_accuracies: what each reached, in [0, 1].
        epochs: n.

    Returns:
        A predictor for runs of at least `epochs` epochs; it ignores later ones.

    Raises:
        ConfigError: fewer than `MIN_CURVES` usable curves.
    """
    curves = [trained_series(truncate(t, epochs), "validation_accuracy") for t in trajectories]
    usable = [
        (curve_features(curve), final)
        for curve, final in zip(curves, final_accuracies, strict=True)
        if curve.size == epochs and np.all(np.isfinite(curve)) and np.isfinite(final)
    ]
    if len(usable) < MIN_CURVES:
        raise errors.ConfigError(
            f"only {len(usable)} finished curves of {epochs} epochs to learn from",
            f"Give at least {MIN_CURVES} curves, or use fewer epochs",
        )
    x, y = np.stack([u[0] for u in usable]), np.array([u[1] for u in usable])
    model, std = _fit(x, y)

    def predict(trajectory: Trajectory) -> Prediction:
        curve = trained_series(truncate(trajectory, epochs), "validation_accuracy")
        if curve.size < epochs or not np.all(np.isfinite(curve)):
            return no_prediction(f"{epochs} finite epochs needed")
        mean = float(model.predict(curve_features(curve)[None])[0])
        return Prediction(mean, std, accuracy_flag(mean, np.append(curve, y)))

    return Predictor(
        "baker_svr",
        per_model(predict),
        f"ν-SVR on the first {epochs} accuracies, trained on {len(usable)} finished runs",
        min_epochs=epochs,
    )


def _fit(x: np.ndarray, y: np.ndarray) -> tuple[Pipeline, float]:
    """The regression of best cross-validated settings, and its cross-validated RMS error."""
    from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import NuSVR

    folds = KFold(min(3, len(y)), shuffle=True, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), NuSVR(kernel="rbf")),
        GRID,
        scoring="neg_mean_absolute_error",
        cv=folds,
    ).fit(x, y)
    model = search.best_estimator_
    error = cross_val_predict(model, x, y, cv=folds) - y
    return model, float(np.sqrt(np.mean(error**2)))


def leave_one_out(
    trajectories: Sequence[Trajectory], final_accuracies: Sequence[float], epochs: int
) -> list[Prediction]:
    """Each run predicted from the finished runs of all *other models*.

    Runs of the same model (other seeds) are left out of its training with it.

    Raises:
        ConfigError: too few curves, see `train`.
    """
    answers: dict[str, Predictor] = {}
    for name in {t.model for t in trajectories}:
        others = [i for i, t in enumerate(trajectories) if t.model != name]
        answers[name] = train(
            [trajectories[i] for i in others], [final_accuracies[i] for i in others], epochs
        )
    return [answers[t.model]([t])[0] for t in trajectories]
