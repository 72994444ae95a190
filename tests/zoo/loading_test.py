"""Building a model and filling it: whose weights, which mode, which dtype."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import MODELS, functional, load_model
from ncap_jax.zoo.weights import sources, store

# Of the embedded models the one with the fewest shapes: drawing compiles programs for each.
SMALL = "tiny_plain_wide"
KERNEL = "blocks.0.conv.kernel"


def arrays(*arguments: Any, **options: Any) -> dict[str, np.ndarray]:
    return store.state_arrays(load_model(*arguments, **options))


def test_pretrained_weights_are_the_shipped_ones():
    file = pathlib.Path(sources.__file__).parent / "tiny_plain.safetensors"
    shipped = store.read_safetensors(file)
    for name, value in arrays("tiny_plain").items():
        np.testing.assert_array_equal(value, shipped[name])


def test_random_weights_follow_the_seed():
    first, again = (arrays(SMALL, None, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first[KERNEL], again[KERNEL])
    assert np.any(first[KERNEL] != arrays(SMALL, None, seed=2)[KERNEL])
    assert np.any(first[KERNEL] != arrays(SMALL)[KERNEL])


def test_a_file_of_ones_own(tmp_path: pathlib.Path):
    module = load_model(SMALL, None, seed=3)
    store.save_module(module, tmp_path / "mine.safetensors")
    loaded = arrays(SMALL, str(tmp_path / "mine.safetensors"))
    np.testing.assert_array_equal(loaded[KERNEL], store.state_arrays(module)[KERNEL])
    with pytest.raises(errors.WeightsError) as refusal:
        load_model("tiny_convnext", tmp_path / "mine.safetensors")
    assert "mine.safetensors does not fit TinyNet: " in refusal.value.cause


def test_models_come_in_inference_mode():
    for weights in ("pretrained", None):
        assert load_model(SMALL, weights).blocks[0].norm.use_running_average


def test_definitions_are_shared_whatever_the_weights():
    """Published, random and other weights of one architecture: one compiled program."""
    definition, *_ = functional.split(load_model(SMALL))
    assert functional.split(load_model(SMALL, None, seed=5))[0] is definition
    assert functional.split(MODELS[SMALL].build(rngs=nnx.Rngs(7)))[0] is definition
    single = functional.split(load_model(SMALL, None, dtype=jnp.float32))[0]
    assert single is functional.split(load_model(SMALL, dtype="float32"))[0]
    assert single is not definition
    plain, *_ = functional.split(load_model("tiny_plain"))
    assert functional.split(load_model("tiny_plain_barely"))[0] is plain


def test_a_spec_that_brings_its_weights(tmp_path: pathlib.Path):
    calls = []

    def build_pretrained(*, rngs: nnx.Rngs, dtype: Any = None) -> nnx.Module:
        calls.append(dtype)
        module = MODELS[SMALL].build(rngs=rngs, dtype=dtype)
        module.blocks[0].conv.kernel[...] = jnp.ones((3, 3, 3, 24))
        return module

    spec = ModelSpec(
        "own",
        MODELS[SMALL].build,
        input_size=32,
        feature_width=96,
        build_pretrained=build_pretrained,
    )
    assert np.all(arrays(spec, dtype="bfloat16")[KERNEL] == 1)
    assert calls == [jnp.dtype(jnp.bfloat16)]
    assert np.any(arrays(spec, None)[KERNEL] != 1)
    store.save_module(load_model(SMALL), tmp_path / "w.safetensors")
    assert np.any(arrays(spec, tmp_path / "w.safetensors")[KERNEL] != 1)


def test_random_is_a_word_for_no_weights_in_a_spec_too(tmp_path: pathlib.Path):
    drawn = arrays(SMALL, None, seed=3)[KERNEL]
    np.testing.assert_array_equal(arrays(SMALL, "random", seed=3)[KERNEL], drawn)
    spec = dataclasses.replace(MODELS[SMALL], name="drawn", weights="random")
    np.testing.assert_array_equal(arrays(spec, seed=3)[KERNEL], drawn)
    assert sources.digest(spec) is None
    # A file that is given is read all the same, and a spec that brings its weights is drawn anew.
    store.save_module(load_model(SMALL), tmp_path / "w.safetensors")
    assert np.any(arrays(spec, tmp_path / "w.safetensors", seed=3)[KERNEL] != drawn)
    brings = dataclasses.replace(spec, build_pretrained=lambda **_: load_model(SMALL))
    np.testing.assert_array_equal(arrays(brings, seed=3)[KERNEL], drawn)


def test_weights_that_are_nowhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NCAP_WEIGHTS_DIR", raising=False)
    with pytest.raises(errors.WeightsError) as refusal:
        load_model("squeezenet")
    assert refusal.value.cause == (
        "the weights of squeezenet cannot be downloaded, and squeezenet_v1.1.safetensors is not "
        "in a folder of yours (none is set)"
    )
    spec = ModelSpec("own", MODELS["tiny_plain"].build, input_size=32, feature_width=64)
    with pytest.raises(errors.WeightsError) as refusal:
        load_model(spec)
    assert refusal.value.cause == "own has no pretrained weights"


def test_a_folder_that_does_not_exist_is_refused_whoever_needs_it(tmp_path: pathlib.Path):
    with pytest.raises(errors.WeightsError) as refusal:
        load_model(SMALL, weights_dir=tmp_path / "none")
    assert refusal.value.cause == f"weights_dir={tmp_path / 'none'} is not a folder"
