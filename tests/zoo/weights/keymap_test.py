"""Published names and layouts become ours, whatever the publisher's convention."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import functional
from ncap_jax.zoo.layers import DepthwiseConv
from ncap_jax.zoo.vit import ViT
from ncap_jax.zoo.weights import keymap, store
from tests.support.weights_files import KERAS, keras_arrays, net


def test_keras_names_and_layouts():
    arrays = keras_arrays()
    renamed = keymap.rename(net(), arrays, "keras")
    assert set(renamed) == {path for _, path in KERAS.values()}
    np.testing.assert_array_equal(
        renamed["depthwise.kernel"], arrays["c/depthwise_kernel"].transpose(0, 1, 3, 2)
    )
    # One published layer, two of ours: each takes its own kernel.
    np.testing.assert_array_equal(renamed["pointwise.kernel"], arrays["c/pointwise_kernel"])


def test_keras_has_two_names_for_a_depthwise_kernel():
    layer = DepthwiseConv(4, name="c", rngs=nnx.Rngs(0))
    for kind in ("kernel", "depthwise_kernel"):
        renamed = keymap.rename(layer, {f"c/{kind}": np.zeros((3, 3, 4, 1))}, "keras")
        assert {path: array.shape for path, array in renamed.items()} == {"kernel": (3, 3, 1, 4)}


def test_torch_names_and_layouts():
    arrays = keras_arrays()
    published = {
        "a.weight": arrays["a/kernel"].transpose(3, 2, 0, 1),
        "b.weight": arrays["b/gamma"],
        "b.bias": arrays["b/beta"],
        "b.running_mean": arrays["b/moving_mean"],
        "b.running_var": arrays["b/moving_variance"],
        "b.num_batches_tracked": np.array(7),
        "d.weight": arrays["d/kernel"].T,
        "d.bias": arrays["d/bias"],
    }
    renamed = keymap.rename(net(), published, "torch")
    assert len(renamed) == 7, "PyTorch's counter of batches is not a weight"
    for key in ("a/kernel", "b/gamma", "b/beta", "b/moving_mean", "d/kernel", "d/bias"):
        np.testing.assert_array_equal(renamed[KERAS[key][1]], arrays[key])


def test_the_classifier_is_left_out_and_strangers_keep_their_names():
    arrays = {"top/kernel": np.zeros(1), "top2/kernel": np.zeros(1), "d/bias": np.zeros(6)}
    assert set(keymap.rename(net(), arrays, "keras", ("top",))) == {"top2/kernel", "dense.bias"}


def test_parameters_of_no_layer_have_published_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ncap_jax.zoo.vit.DEPTH", 0)
    table = keymap.published_names(functional.build_abstractly(partial(ViT, 64)), (), "torch")
    assert table["cls_token"] == ("cls_token", None)
    assert table["pos_embed"] == ("pos_embed", None)
    assert table["patch_embed.proj.weight"] == ("patches.kernel", (2, 3, 1, 0))


@pytest.mark.parametrize(
    ("names", "convention", "published"),
    [
        (["a/kernel"], "keras", True),
        (["a.weight"], "torch", True),
        (["a.weight"], "keras", False),
        (["stem.conv.kernel"], "keras", False),
    ],
)
def test_whose_names_they_are(names: list[str], convention: keymap.Convention, published: bool):
    arrays = {name: np.zeros(1) for name in names}
    assert keymap.is_published(net(), arrays, convention) == published


@pytest.mark.parametrize("convention", ["keras", "torch"])
def test_publishing_is_the_reverse_of_reading(convention: keymap.Convention):
    module = net()
    arrays = {
        path: np.arange(a.size).reshape(a.shape) for path, a in store.state_arrays(module).items()
    }
    published = keymap.publish(module, arrays, convention)
    assert len(published) == len(arrays) - (convention == "torch")
    again = keymap.rename(module, published, convention)
    for path, array in again.items():
        np.testing.assert_array_equal(array, arrays[path])


def test_what_has_no_published_name_is_left_out():
    assert keymap.publish(net(), {"other": np.zeros(1)}, "torch") == {}
