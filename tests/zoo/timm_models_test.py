"""`timm:` names: what they mean, which weights they read, and what is said without the extra."""

from __future__ import annotations

import builtins
import threading
from typing import Any

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.zoo import find_model, find_models, functional, load_model, shapes
from ncap_jax.zoo.registry import reference
from ncap_jax.zoo.weights import places
from tests.support.torch_nets import needs_timm

SMALL = "timm:test_vit"  # 0.3 million parameters


@needs_timm
def test_a_name_says_everything_that_timm_knows() -> None:
    spec = find_model("timm:vit_base_patch16_clip_224.openai")
    assert (spec.name, spec.input_size) == ("vit_base_patch16_clip_224.openai", 224)
    assert spec.preprocessing == (
        "mean=0.48145466,0.4578275,0.40821073 std=0.26862954,0.26130258,0.27577711 "
        "crop=0.9 resize=bicubic"
    )
    assert spec.weights == "hf://timm/vit_base_patch16_clip_224.openai"
    assert spec.licence == "apache-2.0"
    assert reference(spec) == "timm:vit_base_patch16_clip_224.openai"


@needs_timm
def test_without_a_tag_the_default_weights_are_meant() -> None:
    assert find_model("timm:resnet50") == find_model("timm:resnet50.a1_in1k")


@needs_timm
def test_patterns() -> None:
    names = [spec.name for spec in find_models("timm:test_vit*")]
    assert "test_vit.r160_in1k" in names
    assert len({name.split(".")[0] for name in names}) == len(names), "one of each architecture"
    tags = [spec.name for spec in find_models("timm:vit_tiny_patch16_224.augreg*")]
    assert tags == [
        "vit_tiny_patch16_224.augreg_in21k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    ]


@needs_timm
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnt50", "Did you mean resnet50"),
        ("timm:resnet50.a1", r"unknown timm model 'resnet50\.a1'"),
        ("timm:zz*", r"no model of timm matches 'zz\*'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(errors.ModelError, match=message):
        find_models(name)


@needs_timm
def test_random_weights_follow_from_the_seed() -> None:
    one, two, other = (
        jax.tree.leaves(functional.split(load_model(SMALL, "random", seed=seed))[1])
        for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert any(np.any(a != b) for a, b in zip(one, other))
    assert all(np.all(np.isfinite(leaf)) for leaf in one)


@needs_timm
def test_what_another_thread_builds_changes_no_draw() -> None:
    """PyTorch's generator is the process's; models of a run are built beside one another."""
    from ncap_jax.zoo.timm_networks import TimmSource

    def drawn() -> list[np.ndarray]:
        return jax.tree.leaves(functional.split(load_model(SMALL, "random"))[1])

    alone, end = drawn(), threading.Event()

    def build() -> None:
        while not end.is_set():
            TimmSource("test_vit2").build()

    other = threading.Thread(target=build)
    other.start()
    try:
        beside = [drawn() for _ in range(3)]
    finally:
        end.set()
        other.join()
    for leaves in beside:
        jax.tree.map(np.testing.assert_array_equal, leaves, alone)


@needs_timm
def test_a_run_is_told_width_and_parameters_without_weights() -> None:
    (spec,) = shapes.checked([find_model(SMALL)])
    assert (spec.feature_width, spec.parameters) == (64, 306_240)
    assert reference(spec) == f"{SMALL}.r160_in1k"


@needs_timm
def test_offline_weights_are_missing_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    place = places.locate(find_model(SMALL))
    assert place.kind == "missing"
    assert "NCAP_OFFLINE" in place.why


@pytest.mark.parametrize("name", ["timm:resnet50", "timm:resnet*"])
def test_without_the_extra_the_error_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.split(".")[0] in ("timm", "torchax"):
            raise ImportError(f"No module named {module!r}", name=module)
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(errors.ModelError, match=r"pip install 'ncap_jax\[timm\]'"):
        find_models(name)
