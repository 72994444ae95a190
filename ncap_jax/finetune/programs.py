"""Compile what a candidate's epochs will run, before they run it.

A program that is compiled for shapes alone is the one that a later call with arrays of these shapes
uses: nothing is compiled twice. So another thread can do it while a model trains.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ncap_jax.data.feed import Chunk
from ncap_jax.finetune import steps
from ncap_jax.finetune.candidate import FineTuning


def compile_programs(tuning: FineTuning, until: int) -> None:
    """Compile what a candidate's epochs up to one of them run, for one device.

    Args:
        tuning: a candidate; its arrays stay as they are.
        until: the epoch. A model that pauses before beta_eff is measured may never come so far.
    """
    candidate, feed, config = tuning.candidate, tuning.feed, tuning.config
    in_pieces = config.time_budget is not None or config.model_time_budget is not None
    training = next(iter(feed.train(config.seed, 1, config.batch_size)))
    steps.compile_steps(candidate.program, candidate.train_state, training, in_pieces=in_pieces)
    validation = next(iter(feed.validation(candidate.evaluation_batch)))
    width = _compile_evaluation(candidate.program, candidate.train_state, validation)
    if tuning.measure is not None and any(map(tuning.is_measured, range(until + 1))):
        size = len(candidate.measurement)
        tuning.measure.compile(
            candidate.train_state,
            jax.ShapeDtypeStruct((size, width), jnp.float32),
            jax.ShapeDtypeStruct((size,), jnp.int32),
        )


def _compile_evaluation(program: steps.Program, train_state: steps.TrainState, chunk: Chunk) -> int:
    """Compile features and sums for batches as in `chunk`; returns the features' width."""
    network, (params, state, _) = program.network, train_state
    size = len(chunk.indices[0])
    images = jax.ShapeDtypeStruct((size, *chunk.images.shape[1:]), chunk.images.dtype)
    arguments: Any = network, params, state, images, program.mesh
    compute = steps.features.at(program.effort)
    compute.lower(*arguments).compile()
    features = compute.eval_shape(*arguments)
    features = jax.ShapeDtypeStruct(features.shape, features.dtype)
    labels = jax.ShapeDtypeStruct((size,), chunk.labels.dtype)
    sums = steps.head_sums.at(program.effort)
    head = network.head, params["head"], state["head"]
    sums.lower(*head, features, labels, chunk.mask[0]).compile()
    return features.shape[1]
