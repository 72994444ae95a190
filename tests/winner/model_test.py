"""What a fine-tuned model answers, and for what."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ncap_jax import errors
from ncap_jax.finetune import steps
from ncap_jax.report.notebook import notebook_winner
from ncap_jax.winner import model
from ncap_jax.winner.facts import Preprocessing
from ncap_jax.winner.model import Winner
from tests.support.small import small_digits
from tests.support.toy_runs import WIDTH
from tests.support.winners import toy_winner

IMAGES = small_digits().images[:40]


def test_the_shape_of_the_answers():
    winner = toy_winner()
    labels, shares = winner.predict(IMAGES), winner.predict_proba(IMAGES)
    assert shares.shape == (40, 10)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    assert labels == [winner.class_names[best] for best in shares.argmax(axis=1)]
    assert winner.features(IMAGES).shape == (40, WIDTH)


def test_the_logits_are_those_of_training():
    winner = toy_winner()
    expected, _ = steps.forward(
        winner.network, winner.params, winner.state, jnp.asarray(IMAGES), train=False
    )
    np.testing.assert_allclose(winner.logits(IMAGES), expected[0], rtol=1e-5, atol=1e-6)


def test_the_answers_do_not_depend_on_the_batch():
    """To the last bit where an image has the same place; sums are rounded by their place."""
    winner = toy_winner()
    together = winner.logits(IMAGES)
    assert np.array_equal(winner.logits(IMAGES[:5]), together[:5])
    assert np.array_equal(winner.logits(IMAGES[16]), together[16:17])  # first of the second batch
    for index in (15, 39):
        alone = winner.logits(IMAGES[index])
        np.testing.assert_allclose(alone[0], together[index], rtol=1e-6, atol=1e-6)


def test_temperature_flattens_the_probabilities():
    warm = dataclasses.replace(
        toy_winner(), facts=dataclasses.replace(toy_winner().facts, temperature=2.0)
    )
    cold = toy_winner()
    assert np.array_equal(warm.logits(IMAGES), cold.logits(IMAGES))
    expected = jax.nn.softmax(cold.logits(IMAGES) / 2, axis=1)
    np.testing.assert_allclose(warm.predict_proba(IMAGES), expected, rtol=1e-5)
    assert warm.predict(IMAGES) == cold.predict(IMAGES)


def test_a_broken_image_is_named(tmp_path: pathlib.Path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    winner = toy_winner()
    with pytest.raises(errors.DataError) as caught:
        winner.predict(tmp_path)
    assert caught.value.cause == (
        f"1 image is broken: {tmp_path / 'b.png'}: not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    )
    assert caught.value.remedy == (
        "Leave them out, or ask for answers(images), which labels the others"
    )
    sound, broken = winner.answers(tmp_path)
    assert sound.label == winner.predict(IMAGES[0])[0]
    assert np.array_equal(sound.probabilities, winner.predict_proba(IMAGES[0])[0])
    assert sound.probability == sound.probabilities.max()
    assert broken.name == str(tmp_path / "b.png")
    assert broken.label == ""
    assert broken.problem == "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    assert np.isnan(broken.probability)


def test_nothing_but_broken_images(tmp_path: pathlib.Path):
    (tmp_path / "b.png").write_bytes(b"no image")
    (answer,) = toy_winner().answers(tmp_path / "b.png")
    assert answer.problem


def test_evaluation(tmp_path: pathlib.Path):
    winner = toy_winner()
    labels = small_digits().labels[:40]
    figures = winner.evaluate((IMAGES, labels))
    assert figures.count == 40
    assert figures.accuracy == np.mean(winner.predict_proba(IMAGES).argmax(axis=1) == labels)
    assert figures.uncalibrated_error is None
    warm = dataclasses.replace(winner, facts=dataclasses.replace(winner.facts, temperature=2.0))
    again = warm.evaluate((IMAGES, labels))
    assert again.accuracy == figures.accuracy
    assert again.uncalibrated_error == pytest.approx(figures.calibration_error)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(errors.DataError) as caught:
        winner.evaluate(([tmp_path / "b.png"], ["0"]))
    assert caught.value.cause.startswith(f"1 image is broken: {tmp_path / 'b.png'}: not a JPEG")


@pytest.mark.parametrize("classes", [("0", "owl"), ("ant", "bee", "cow", "dog", "eel", "fox")])
def test_images_of_other_classes_are_no_test(classes: tuple[str, ...], tmp_path: pathlib.Path):
    for number, name in enumerate(classes):
        (tmp_path / name).mkdir()
        Image.fromarray(IMAGES[number]).save(tmp_path / name / "a.png")
    with pytest.raises(errors.DataError) as caught:
        toy_winner().evaluate(tmp_path)
    assert (
        caught.value.cause
        == {
            2: "the data has a class that the model does not know: 'owl'",
            6: "the data has 6 classes that the model does not know: 'ant', 'bee', 'cow', 'dog', "
            "'eel' and 1 more",
        }[len(classes)]
    )
    assert caught.value.remedy == (
        "Leave these images out, or rename the classes; the model knows '0', '1', '2', '3', '4' "
        "and 5 more"
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_images_with_other_channels_are_none(channels: int):
    """Neither to be labelled nor to be judged by."""
    images = np.zeros((2, 8, 8, channels), np.uint8)
    for use in (toy_winner().predict, lambda given: toy_winner().evaluate((given, [0, 1]))):
        with pytest.raises(errors.DataError) as caught:
            use(images)
        assert caught.value.cause == f"given images have shape (2, 8, 8, {channels})"
        assert caught.value.remedy == (
            "Give (n, height, width, channels) with 1 (grey) or 3 (red, green, blue) channels"
        )


def test_a_network_that_gives_no_numbers():
    winner = toy_winner()
    state = jax.tree.map(lambda leaf: leaf - 9, winner.state)  # variances below zero
    with pytest.raises(errors.ModelError) as caught:
        dataclasses.replace(winner, state=state).predict(IMAGES[:3])
    assert caught.value.cause == ("the network of toy_1 does not give numbers for 3 of 3 images")
    assert caught.value.remedy == "Its weights are damaged: make the model again"


def test_properties():
    winner = toy_winner()
    assert winner.name == "toy_1"
    assert winner.class_names == tuple("0123456789")
    assert winner.validation_accuracy == 0.75
    assert winner.test_accuracy == 0.5
    assert repr(winner) == (
        "Winner('toy_1': 10 classes, test accuracy 50.0 %, validation accuracy 75.0 %)"
    )


def test_a_notebook_shows_the_figures():
    winner = toy_winner()
    assert winner._repr_html_() == notebook_winner(winner.facts)


def test_a_head_that_is_not_a_single_linear_one():
    winner = toy_winner()
    two = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), winner.params["head"])
    with pytest.raises(errors.ModelError) as caught:
        dataclasses.replace(winner, params={**winner.params, "head": two})
    assert caught.value.cause == (
        "the head has parameters of shapes (2, 10), (2, 12, 10), not those of one linear head "
        "for 10 classes"
    )
    assert caught.value.remedy == "Finish the model with head=linear"


def test_batches_of_one_shape(monkeypatch: pytest.MonkeyPatch):
    """However many images there are; all of them in order."""
    shapes = []
    real = Winner._features

    def noted(self: Winner, batch: jax.Array) -> jax.Array:
        shapes.append(batch.shape)
        return real(self, batch)

    monkeypatch.setattr(Winner, "_features", noted)
    toy_winner().predict(IMAGES[:1])
    toy_winner().predict(IMAGES[:33])
    assert shapes == [(model.CPU_BATCH, 8, 8, 3)] * 4


def test_large_images_are_computed_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """Those of a package that a stranger made, too."""
    shapes = []

    def noted(self: Winner, batch: jax.Array) -> jax.Array:
        shapes.append(batch.shape)
        return jnp.zeros((len(batch), 10))

    monkeypatch.setattr(Winner, "_logits", noted)
    for side, input_size in ((1024, 8), (512, 8), (8, 4096)):
        pixels = Preprocessing("unit", input_size, (side, side))
        facts = dataclasses.replace(toy_winner().facts, preprocessing=pixels)
        dataclasses.replace(toy_winner(), facts=facts).predict(IMAGES[:2])
    assert shapes == [(4, 1024, 1024, 3), (16, 512, 512, 3), (1, 8, 8, 3), (1, 8, 8, 3)]


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch):
    def full(self: Winner, batch: jax.Array) -> jax.Array:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 32212255104 bytes.")

    monkeypatch.setattr(Winner, "_logits", full)
    with pytest.raises(errors.ModelError) as caught:
        toy_winner().predict(IMAGES[:1])
    assert (
        caught.value.cause == "there is too little memory for toy_1 with an input of 8 × 8 pixels"
    )
    assert caught.value.remedy == "Free memory, or use a machine that has more"


def test_what_is_not_for_lack_of_memory_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Winner, "_logits", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy_winner().predict(IMAGES[:1])
