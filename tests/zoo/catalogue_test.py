"""What is published of models."""

from __future__ import annotations

import dataclasses

from ncap_jax.types import ModelSpec, WeightsLayout
from ncap_jax.zoo import MODELS, catalogue
from ncap_jax.zoo.catalogue import CIFAR, IMAGENET, Facts, facts


def of_timm(name: str, **changes: object) -> ModelSpec:
    """As `ncap_jax.zoo.timm_models.spec_of` makes it, without timm."""
    spec = ModelSpec(
        name,
        lambda: None,
        224,
        weights=f"hf://timm/{name}",
        family="timm",
        layout=WeightsLayout("timm"),
    )
    return dataclasses.replace(spec, **changes)


def test_models_of_the_zoo():
    assert facts(MODELS["vgg16"]) == Facts(71.27, IMAGENET, None, "vgg")
    assert facts(MODELS["cifar_resnet20"])[:2] == (91.73, CIFAR)
    assert facts(MODELS["tiny_resnet_deep"]) == Facts(64.25, CIFAR, None, "tiny_resnet")
    assert facts(MODELS["mobilenet_12blocks"]) == Facts(family="mobilenet")  # nobody published it
    # With the figures that a run adds it is the same model.
    counted = dataclasses.replace(MODELS["vgg16"], parameters=1, feature_width=2)
    assert facts(counted).accuracy == 71.27


def test_models_of_timm():
    found = facts(of_timm("resnet50.a1_in1k"))
    assert found.family == "resnet"
    assert found.data == IMAGENET
    assert 79 < found.accuracy < 81
    assert found.parameters == 25_560_000
    # Whatever is not in the table has relatives by its name.
    assert facts(of_timm("resnet50.mine")) == Facts(family="resnet")


def test_an_accuracy_belongs_to_weights():
    for weights in ("random", "mine.safetensors"):
        own = dataclasses.replace(MODELS["vgg16"], weights=weights)
        assert facts(own) == Facts(family="vgg"), weights
    assert facts(of_timm("resnet50.a1_in1k", weights="random")).accuracy is None
    in_memory = of_timm("resnet50.a1_in1k", build_pretrained=lambda: None)
    assert facts(in_memory).accuracy is None
    fetched = lambda: None  # noqa: E731
    fetched.source = "hf://timm/resnet50.a1_in1k"
    assert facts(of_timm("resnet50.a1_in1k", build_pretrained=fetched)).accuracy > 79


def test_who_is_drawn_at_random():
    assert not catalogue.is_random(MODELS["vgg16"])
    assert catalogue.is_random(dataclasses.replace(MODELS["vgg16"], weights="random"))
    bare = dataclasses.replace(MODELS["vgg16"], weights=None)
    assert catalogue.is_random(bare)
    assert not catalogue.is_random(dataclasses.replace(bare, build_pretrained=lambda: None))


def test_accuracies_are_shares_in_percent_and_every_zoo_model_exists():
    content = catalogue.content()
    assert set(content["zoo"]) <= set(MODELS)
    tops = [top for models in content["timm"].values() for top, _ in models.values()]
    assert len(tops) > 1000
    assert min([*tops, *content["zoo"].values()]) > 10
    assert max([*tops, *content["zoo"].values()]) < 100
