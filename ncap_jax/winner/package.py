"""Save a fine-tuned model to a folder, and load it again."""

from __future__ import annotations

import os

from ncap_jax import caching
from ncap_jax.types import ModelSpec
from ncap_jax.winner import storage
from ncap_jax.winner.architecture import rebuild
from ncap_jax.winner.model import Winner


def save(winner: Winner, folder: str | os.PathLike[str]) -> None:
    """The same as `winner.save(folder)`."""
    winner.save(folder)


def load(folder: str | os.PathLike[str], spec: ModelSpec | None = None) -> Winner:
    """Load a model that was saved.

    Nothing in the folder is run or unpickled, and nothing is downloaded. Compiled programs are
    kept for the next process (`ncap_jax.caching`).

    Args:
        folder: with `model.safetensors` and `model.json`.
        spec: of a model that is not in the zoo: the ModelSpec that it was trained with.

    Raises:
        PackageError: the folder holds no model, or one that is damaged, of another version or
            unsafe to read.
        ModelError: `spec` is missing or of another model, or this version lacks the architecture.
        WeightsError: a weight is not finite.
    """
    folder = caching.expanded(folder)
    facts = storage.read_facts(folder)
    caching.keep_compiled_programs()
    skeleton = rebuild(facts, spec)
    params, state = storage.read_weights(folder, facts, skeleton)
    return Winner(skeleton.network, params, state, facts)
