"""The registry of transferability scores: what each needs, one interface.

`SCORES[name](x, labels)` takes what `needs` says, of one model or of a batch with equal width,
and returns a float, or one per model; higher is better. Scores see the pretrained model before any
fine-tuning: they are cheap, and blind to what fine-tuning will change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ncap_jax.predictor.features import Score
from ncap_jax.predictor.hscore import hscore
from ncap_jax.predictor.leep import leep
from ncap_jax.predictor.linear_probe import linear_probe
from ncap_jax.predictor.logme import logme
from ncap_jax.predictor.nce import nce
from ncap_jax.predictor.nearest_neighbours import nearest_neighbours
from ncap_jax.predictor.transrate import transrate


@dataclass(frozen=True)
class TransferScore:
    """A named score.

    Attributes:
        name: the registry's name.
        compute: (x, labels) -> float, or (m,) for a batch of m models.
        needs: `features` (n, d) of the target images, or `source_probabilities` (n, Z) of the
            pretrained model's own classifier on them.
        description: one line for people.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], Score]
    needs: Literal["features", "source_probabilities"]
    description: str

    def __call__(self, x: np.ndarray, labels: np.ndarray) -> Score:
        """The score of x for labels; higher is better."""
        return self.compute(x, labels)


_ALL = (
    TransferScore("logme", logme, "features", "log maximum evidence of a Bayesian linear model"),
    TransferScore("hscore", hscore, "features", "covariance explained by the classes"),
    TransferScore("transrate", transrate, "features", "mutual information by coding rates"),
    TransferScore("linear_probe", linear_probe, "features", "cross-validated linear accuracy"),
    TransferScore(
        "nearest_neighbours", nearest_neighbours, "features", "leave-one-out accuracy of k-NN"
    ),
    TransferScore("leep", leep, "source_probabilities", "log expected empirical prediction"),
    TransferScore("nce", nce, "source_probabilities", "negative conditional entropy"),
)

SCORES: dict[str, TransferScore] = {score.name: score for score in _ALL}
