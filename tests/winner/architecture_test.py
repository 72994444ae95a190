"""A network comes back from what a package says of it, without its weights being drawn."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.types import Dataset
from ncap_jax.winner import architecture, storage
from ncap_jax.winner.facts import Architecture, Origin, Preprocessing
from ncap_jax.zoo import MODELS, hub, load_model
from ncap_jax.zoo.weights import store
from tests.support.toy_runs import toy
from tests.support.winners import make_winner, tiny_winner, toy_winner

TINY = MODELS["tiny_plain"]
FROM_HUB = dataclasses.replace(
    TINY,
    name="tiny.hub",
    weights=None,
    licence="see there",
    family="",
    build_pretrained=hub.Pretrained(TINY, pathlib.Path("file"), "hf://timm/tiny.hub"),
)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (TINY, Architecture("zoo", "tiny_plain")),
        (dataclasses.replace(TINY, feature_width=7), Architecture("zoo", "tiny_plain")),
        (FROM_HUB, Architecture("hub", "tiny_plain")),
        (toy(1), Architecture("custom", "toy_1")),
        (toy(1, "tiny_plain"), Architecture("custom", "tiny_plain")),
    ],
)
def test_what_a_package_says_of_the_network(spec, found):
    assert architecture.architecture_of(spec) == found


def test_where_the_weights_came_from():
    shipped = architecture.origin_of(TINY)
    assert shipped.source == TINY.weights
    assert len(shipped.sha256) == 64
    assert shipped.licence == TINY.licence
    hubs = architecture.origin_of(FROM_HUB)
    assert (hubs.source, hubs.licence) == ("hf://timm/tiny.hub", "see there")
    assert architecture.origin_of(TINY, "random") == Origin("random")
    assert architecture.origin_of(dataclasses.replace(TINY, weights="random")) == Origin("random")
    assert architecture.origin_of(TINY, "own/file.safetensors") == Origin("own/file.safetensors")


def test_how_images_were_read():
    dataset = Dataset(np.zeros((2, 5, 7, 1), np.uint8), np.zeros(2, np.int32))
    assert architecture.preprocessing_of(TINY, dataset, None) == Preprocessing(
        TINY.preprocessing, TINY.input_size, (5, 7), 1
    )
    assert architecture.preprocessing_of(TINY, dataset, 40).input_size == 40


@pytest.mark.parametrize("make", [tiny_winner, toy_winner])
def test_the_network_comes_back(make):
    """Equal static parts share compiled programs, and equal trees of shapes fit its arrays."""
    winner = make()
    spec = None if make is tiny_winner else toy(1)
    again = architecture.rebuild(winner.facts, spec)
    assert again.network == winner.network
    for shapes, arrays in ((again.params, winner.params), (again.state, winner.state)):
        assert jax.tree.structure(shapes) == jax.tree.structure(arrays)
        for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(arrays)):
            assert isinstance(shape, jax.ShapeDtypeStruct)
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_comes_back_with_all_of_its_weights(name: str):
    spec = MODELS[name]
    facts = dataclasses.replace(
        tiny_winner().facts,
        architecture=architecture.architecture_of(spec),
        preprocessing=Preprocessing(spec.preprocessing, spec.input_size, (256, 256)),
    )
    skeleton = architecture.rebuild(facts)
    found = storage.arrays_of(skeleton.network, skeleton.params, skeleton.state)
    weights = store.state_arrays(load_model(name, "random"))
    expected = {f"backbone.{key}": array.shape for key, array in weights.items()}
    expected |= {"head.output.kernel": (spec.feature_width, 10), "head.output.bias": (10,)}
    assert {key: shape.shape for key, shape in found.items()} == expected


def test_a_model_of_the_hub_needs_no_network():
    facts = dataclasses.replace(
        tiny_winner().facts, name="tiny.hub", architecture=Architecture("hub", "tiny_plain_wide")
    )
    assert architecture.rebuild(facts).network == tiny_winner().network


def test_the_arithmetic_comes_back():
    winner = make_winner(dtype="bfloat16")
    assert winner.facts.dtype == "bfloat16"
    assert architecture.rebuild(winner.facts, toy(1)).network == winner.network
    assert architecture.rebuild(toy_winner().facts, toy(1)).network != winner.network


def test_the_width_at_another_input_size():
    facts = dataclasses.replace(
        tiny_winner().facts,
        preprocessing=dataclasses.replace(tiny_winner().facts.preprocessing, input_size=40),
    )
    kernel = architecture.rebuild(facts).params["head"]["output"]["kernel"]
    assert kernel.shape == (1, MODELS["tiny_plain_wide"].feature_width, 10)


@pytest.mark.parametrize(
    ("facts", "spec", "cause", "remedy"),
    [
        (
            toy_winner,
            None,
            "the package holds 'toy_1', whose network is not in the zoo",
            "Load it with the ModelSpec that it was trained with: ncap_jax.load(folder, spec=...)",
        ),
        (
            toy_winner,
            toy(2),
            "the package holds the model 'toy_1', and the ModelSpec is of 'toy_2'",
            "Give the ModelSpec that the model was trained with",
        ),
    ],
)
def test_the_wrong_spec(facts, spec, cause, remedy):
    with pytest.raises(errors.ModelError) as caught:
        architecture.rebuild(facts().facts, spec)
    assert (caught.value.cause, caught.value.remedy) == (cause, remedy)


def test_an_architecture_of_another_version():
    facts = dataclasses.replace(tiny_winner().facts, architecture=Architecture("zoo", "future"))
    with pytest.raises(errors.ModelError) as caught:
        architecture.rebuild(facts)
    assert caught.value.cause == "this version of ncap_jax has no architecture 'future'"
    assert caught.value.remedy == (
        "Use the version that saved the model, which its model.json names"
    )
