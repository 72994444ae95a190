"""Finding models by name, pattern and spec; what is not a model is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, find_model, find_models, registry, tiny

OWN = ModelSpec("own", build=print, input_size=8, feature_width=4)
TINY = [spec.name for spec in tiny.SPECS]


def test_every_family_is_in_the_registry():
    modules = [sys.modules[f"ncap_jax.zoo.{name}"] for name in registry.FAMILIES if len(MODELS)]
    assert [spec for module in modules for spec in module.SPECS] == list(MODELS.values())
    assert list(MODELS) == [spec.name for spec in MODELS.values()]
    assert len(set(MODELS)) == len(MODELS) == 55


def test_a_registry_is_filled_when_it_is_looked_at():
    small = registry.Registry(["vgg"])
    assert list(small) == ["vgg16", "vgg19"]
    assert small["vgg16"] is MODELS["vgg16"]
    with pytest.raises(KeyError):
        small["resnet50"]


def test_names_and_specs():
    assert find_model("tiny_plain") is MODELS["tiny_plain"]
    assert find_model(OWN) is OWN


def test_names_patterns_and_specs_in_order_each_once():
    assert [spec.name for spec in find_models(["tiny_*"])] == TINY
    found = find_models(["tiny_senet", OWN, "tiny_se*", tiny.SPECS[0], "tiny_senet"])
    assert [spec.name for spec in found] == ["tiny_senet", "own", "tiny_plain"]


def test_a_single_model_need_not_be_in_a_list():
    assert find_models(OWN) == (OWN,)
    assert find_models("tiny_plain") == find_models(["tiny_plain"])
    assert len(find_models("tiny_plain*")) == 4


@pytest.mark.parametrize(
    ("models", "cause", "remedy"),
    [
        ("resnet5", "unknown model 'resnet5'", "Did you mean resnet50 or "),
        ("tyni_*", "no model matches 'tyni_*'", "See the names with --list_models"),
        ([], "no model is given", "Give at least one name, or a pattern such as tiny_*"),
        (
            [OWN, ModelSpec("own", build=print, input_size=9, feature_width=4)],
            "two different models are named 'own'",
            "Give each its own name",
        ),
        (
            ModelSpec("a/b", build=print, input_size=8, feature_width=4),
            "'a/b' cannot be the name of a model",
            "Use letters, digits and _ . + - and begin with a letter, a digit or _",
        ),
        (
            3,
            "a int is neither a name nor a ModelSpec",
            "Wrap it with ncap_jax.from_module, from_linen, from_keras or from_torch",
        ),
        ("hf://a", "'hf://a' does not name a repository of the Hugging Face Hub", "Write hf://"),
    ],
)
def test_what_is_no_model_is_refused(models: Any, cause: str, remedy: str):
    with pytest.raises(errors.ModelError) as refusal:
        find_models(models)
    assert refusal.value.cause == cause
    assert refusal.value.remedy.startswith(remedy)


def test_a_search_says_which_models_only_a_pattern_asked_for():
    found = registry.search(["tiny_se*", "tiny_res*", "tiny_senet", OWN, "tiny_resnet"])
    assert found.specs == find_models(["tiny_se*", "tiny_res*", OWN])
    assert found.by_pattern == {"tiny_resnet_deep", "tiny_resnet_random"}
    assert registry.search("tiny_plain").by_pattern == frozenset()
