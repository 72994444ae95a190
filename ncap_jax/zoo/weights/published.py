"""ModelSpecs of models whose weights Keras Applications publishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ncap_jax.types import ModelSpec

KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"


def keras_spec(
    name: str,
    build: Callable[..., Any],
    file: str,
    *,
    feature_width: int,
    parameters: int,
    preprocessing: str,
    licence: str,
    citation: str,
    description: str,
    family: str,
    input_size: int = 224,
    md5: str | None = None,
    classifier: Sequence[str] = ("predictions",),
) -> ModelSpec:
    """A ModelSpec for a file of Keras Applications, the one without classifier.

    Args:
        name: the registry's name.
        build: returns the module.
        file: path below Keras Applications' base URL.
        feature_width: of `features(x)`.
        parameters: trainable scalars.
        preprocessing: a key of `ncap_jax.zoo.preprocess.MODES`.
        licence: of the weights, as their publisher states it.
        citation: the paper.
        description: one line for people.
        family: the architecture family.
        input_size: side of the square input in pixels.
        md5: of the file, where Keras states it.
        classifier: layers of the file *with* classifier that the module has no place for.
    """
    return ModelSpec(
        name=name,
        build=build,
        input_size=input_size,
        feature_width=feature_width,
        preprocessing=preprocessing,
        weights=f"{KERAS_APPLICATIONS}/{file}",
        parameters=parameters,
        licence=licence,
        citation=citation,
        description=description,
        family=family,
        extra={"convention": "keras", "md5": md5, "classifier": tuple(classifier)},
    )
