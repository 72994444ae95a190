"""Addresses of publishers, and what they say of the architecture."""

from __future__ import annotations

from ncap_jax.zoo import MODELS
from ncap_jax.zoo.weights import published


def test_keras_addresses():
    assert published.keras_url("vgg16/w.h5") == (
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/w.h5"
    )
    ours = {spec.name: spec for spec in MODELS.values() if spec.layout.convention == "keras"}
    downloaded = [spec for spec in ours.values() if "://" in (spec.weights or "")]
    assert len(downloaded) == 24 + 1  # Keras's models, and one that is cut short
    assert all(spec.weights.startswith(published.KERAS_APPLICATIONS) for spec in downloaded)


def test_timm_addresses_name_the_architecture():
    url = published.timm_url("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert url == (
        "https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        "/resolve/main/model.safetensors"
    )
    assert published.timm_architecture(url) == "vit_tiny_patch16_224"
    assert published.timm_architecture(published.timm_url("resnet50")) == "resnet50"
    assert published.timm_architecture("https://example.org/timm/resnet50.a1/x") is None
    assert published.timm_architecture("squeezenet_v1.1.safetensors") is None
