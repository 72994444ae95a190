"""A model as one function of images, for files that other programs run; and the check of those."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ncap_jax import errors
from ncap_jax.zoo import functional

if TYPE_CHECKING:
    from ncap_jax.winner.model import Winner

# Of logits, absolute and relative to the largest: docs/numerics.md.
TOLERANCE = 1e-4
SAMPLES = 3
# What the function gives, in the order of their names.
OUTPUTS = ("logits", "probabilities")


def as_function(winner: Winner) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The model with its weights, preprocessing included.

    Returns:
        A function of uint8 images as files are decoded, (batch, height, width, channels) of
        `facts.preprocessing`, that gives `logits` and calibrated `probabilities`, both (batch, K)
        float32, like `Winner.logits` and `Winner.predict_proba`.
    """
    network, params, state = winner.network, winner.params, winner.state
    alone = functools.partial(jax.tree.map, lambda leaf: leaf[0])  # there is one head
    head = alone(params["head"]), alone(state["head"])

    def run(images: jax.Array) -> dict[str, jax.Array]:
        pixels = network.preprocess(images)
        features, _ = functional.apply(
            network.backbone, params["backbone"], state["backbone"], pixels, train=False
        )
        features = features.astype(jnp.float32)
        y, _ = functional.apply(network.head, *head, features, train=False, method="__call__")
        logits = y.astype(jnp.float32)
        scaled = logits / (winner.facts.temperature or 1.0)
        return dict(zip(OUTPUTS, (logits, jax.nn.softmax(scaled))))

    return run


def images_of(winner: Winner, batch: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the function's images.

    Args:
        winner: the model.
        batch: number of images; it may be symbolic.
    """
    pixels = winner.facts.preprocessing
    return jax.ShapeDtypeStruct((batch, *pixels.image_size, pixels.channels), jnp.uint8)


def samples(winner: Winner) -> np.ndarray:
    """A few images of noise with which files are checked."""
    shape = images_of(winner, SAMPLES).shape
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def describe(winner: Winner) -> dict[str, Any]:
    """What a program that runs the function needs to know, in JSON's types."""
    pixels = winner.facts.preprocessing
    return {
        "name": winner.name,
        "images": ["batch", *pixels.image_size, pixels.channels],
        "images_dtype": "uint8",
        "outputs": list(OUTPUTS),
        "class_names": list(winner.class_names),
        "temperature": winner.facts.temperature,
    }


def check(found: ArrayLike, expected: np.ndarray, what: str) -> None:
    """Refuse a file that does not say what the model says.

    Args:
        found: logits of the file.
        expected: logits of the model.
        what: the file, for the error.

    Raises:
        ModelError: they differ.
    """
    error = float(np.abs(np.asarray(found) - expected).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):  # NaN is none either
        raise errors.ModelError(
            f"{what} gives logits that differ from the model's by {error:.2g}",
            "Export the model to another format",
        )
