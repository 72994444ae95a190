"""Fine-tuned models for tests, which no training made."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from ncap_jax import data
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune.candidate import prepare
from ncap_jax.types import Dataset, ModelSpec
from ncap_jax.winner.architecture import architecture_of, origin_of, preprocessing_of
from ncap_jax.winner.facts import ModelFacts
from ncap_jax.winner.metrics import ClassificationMetrics, classification_metrics
from ncap_jax.winner.model import Winner
from ncap_jax.zoo import MODELS
from tests.support.small import small_config, small_digits
from tests.support.toy_runs import toy

TOY = toy(1)
DIGITS = tuple("0123456789")


def figures(right: int, wrong: int, class_names: tuple[str, ...] = DIGITS) -> ClassificationMetrics:
    """The figures of a model that answered so many images of the first class right and wrong."""
    shares = np.full((right + wrong, len(class_names)), 0.25 / (len(class_names) - 1))
    shares[:right, 0] = shares[right:, 1] = 0.75
    return classification_metrics(shares, np.zeros(len(shares), int), class_names)


METRICS = {"validation": figures(3, 1), "test": figures(1, 1)}


def make_winner(
    spec: ModelSpec = TOY,
    dataset: Dataset | None = None,
    weights: str = "random",
    dtype: str = "float32",
    input_size: int | None = None,
    **facts: Any,
) -> Winner:
    """A model as it is before training, with statistics of batch norm that are not the first."""
    dataset = dataset or small_digits()
    config = small_config(head="linear", weights=weights, dtype=dtype, input_size=input_size)
    candidate = prepare(spec, make_feed(dataset), config)
    params, state, _ = candidate.train_state
    state = jax.tree.map(lambda leaf: leaf + 0.125 if leaf.dtype == "float32" else leaf, state)
    fields: dict[str, Any] = {
        "metrics": METRICS,
        "chosen": {"candidates": ["toy_1", "toy_2"], "epochs": 3},
        "data": {"name": dataset.name, "training images": 96},
        "versions": {"ncap_jax": "0"},
        "created": "2026-01-02T03:04:05+00:00",
        **facts,
    }
    return Winner(
        candidate.network,
        params,
        state,
        ModelFacts(
            name=spec.name,
            architecture=architecture_of(spec),
            preprocessing=preprocessing_of(spec, dataset, config.input_size),
            class_names=tuple(dataset.class_names or ()),
            dtype=dtype,
            origin=origin_of(spec, weights),
            **fields,
        ),
    )


@functools.cache
def toy_winner() -> Winner:
    """One of the toys, made once."""
    return make_winner()


@functools.cache
def tiny_winner() -> Winner:
    """A model of the zoo with its pretrained weights, made once."""
    return make_winner(MODELS["tiny_plain_wide"], data.load_dataset("digits"), "pretrained")
