"""What a worker does for a recall: it shows training images to an untouched model and scores it.

The features are computed by the program that evaluates the model in its fine-tuning. This runs in
this process, or in another that has the weights (`ncap_jax.run.start`).
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from ncap_jax import caching, errors
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import evaluation, mesh
from ncap_jax.predictor.feature_scores import feature_scores
from ncap_jax.run.executors import Emit
from ncap_jax.run.job import Job, Look, Looked
from ncap_jax.run.recall_files import weights_digest
from ncap_jax.types import ModelSpec

# Compiled programs add up over a long list; they are freed after as many models.
MODELS_KEPT = 16


class Looker:
    """The work of one process; see `ncap_jax.run.executors.Work`.

    Args:
        job: its models are the candidates.
        images: how many training images are shown, where there are as many.
    """

    def __init__(self, job: Job, images: int):
        self._dataset, self._specs = job.dataset, {spec.name: spec for spec in job.specs}
        self._config = dataclasses.replace(job.config, measure_size=images)
        self._feed: Feed | None = None
        self._loaded = 0

    def __call__(self, look: Look, emit: Emit) -> Looked:
        """Look at one model; its own failure is told, not raised.

        Raises:
            ChangedDataError: an image is not what it was: no model could be compared with another.
            OutputError: see `ncap_jax.zoo.loading.load_model`.
        """
        del emit
        if look.over:
            return Looked()
        spec, began = self._specs[look.model], time.monotonic()
        try:
            features, labels = self._features(spec)
            if flaw := evaluation.feature_flaw(features):
                raise errors.ModelError(f"its features are {flaw}", "Check its weights and input")
            scores = feature_scores(features, labels)
            # A file that was downloaded has a digest only now.
            digest = weights_digest(spec, self._config)
        except (errors.OutputError, errors.ChangedDataError):
            raise
        except Exception as error:  # one candidate must not cost the others their run
            return Looked(failure=in_words(error))
        return Looked(scores, time.monotonic() - began, digest)

    def _features(self, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
        if self._feed is None:
            self._feed = mesh.on_mesh(make_feed(self._dataset), self._config.mesh)
        self._loaded += 1
        if self._loaded % MODELS_KEPT == 0:
            caching.forget_compiled_programs()
        return evaluation.untouched_features(spec, self._feed, self._config)


def look_elsewhere(job: Job, images: int) -> Looker:
    """The work of another process, which has its own folder of compiled programs."""
    caching.keep_compiled_programs()
    return Looker(job, images)


def in_words(error: Exception) -> str:
    """What went wrong with a candidate, for people."""
    if isinstance(error, errors.NcapError):
        return error.cause[:500]
    return f"{type(error).__name__}: {error}"[:500]
