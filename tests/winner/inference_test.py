"""A model as one function says what the model says; files that do not are refused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.winner import inference
from tests.support.winners import toy_winner


def test_it_says_what_the_model_says():
    winner = dataclasses.replace(
        toy_winner(), facts=dataclasses.replace(toy_winner().facts, temperature=2.0)
    )
    images = inference.samples(winner)
    found = jax.jit(inference.as_function(winner))(images)
    assert tuple(found) == inference.OUTPUTS
    np.testing.assert_allclose(found["logits"], winner.logits(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found["probabilities"], winner.predict_proba(images), rtol=1e-5, atol=1e-6
    )


def test_what_a_program_that_runs_it_needs_to_know():
    winner = toy_winner()
    height, width = winner.facts.preprocessing.image_size
    channels = winner.facts.preprocessing.channels
    assert inference.samples(winner).shape == (inference.SAMPLES, height, width, channels)
    assert inference.describe(winner) == {
        "name": "toy_1",
        "images": ["batch", height, width, channels],
        "images_dtype": "uint8",
        "outputs": ["logits", "probabilities"],
        "class_names": list(winner.class_names),
        "temperature": None,
    }


@pytest.mark.parametrize(
    ("found", "said"), [(2.0005, "0.0005"), (float("nan"), "nan")], ids=["far", "not a number"]
)
def test_a_file_that_says_something_else_is_refused(found: float, said: str):
    expected = np.array([[2.0, -1.0]])
    inference.check(np.array([[2.0001, -1.0]]), expected, "the file")
    with pytest.raises(errors.ModelError) as caught:
        inference.check(np.array([[found, -1.0]]), expected, "the file")
    assert caught.value.cause == (f"the file gives logits that differ from the model's by {said}")
    assert caught.value.remedy == "Export the model to another format"
