"""Weights files of all formats: read by content, refused when wrong, unsafe or of another model."""

from __future__ import annotations

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.layers import Backbone, BatchNorm, Conv, ConvNorm, Dense, DepthwiseConv
from ncap_jax.zoo.weights import keras_h5, keymap, readers, store


class Net(Backbone):
    """One layer of each kind."""

    def __init__(self, *, rngs, dtype=None):
        self.stem = ConvNorm(Conv(3, 4, 3, name="a", rngs=rngs), BatchNorm(4, name="b", rngs=rngs))
        # A separable convolution: one published layer, two of ours.
        self.depthwise = DepthwiseConv(4, 3, name="c", rngs=rngs)
        self.pointwise = Conv(4, 5, 1, name="c", rngs=rngs)
        self.dense = Dense(5, 6, name="d", rngs=rngs)

    def stages(self, x):
        return {"d": self.dense(self.pointwise(self.depthwise(self.stem(x))))}


KERAS = {
    "a/kernel": (3, 3, 3, 4),
    "b/gamma": (4,),
    "b/beta": (4,),
    "b/moving_mean": (4,),
    "b/moving_variance": (4,),
    "c/depthwise_kernel": (3, 3, 4, 1),
    "c/pointwise_kernel": (1, 1, 4, 5),
    "d/kernel": (5, 6),
    "d/bias": (6,),
}
# Where Keras's arrays come to lie.
OURS = {
    "a/kernel": "stem.conv.kernel",
    "b/gamma": "stem.norm.scale",
    "b/beta": "stem.norm.bias",
    "b/moving_mean": "stem.norm.mean",
    "b/moving_variance": "stem.norm.var",
    "c/depthwise_kernel": "depthwise.kernel",
    "c/pointwise_kernel": "pointwise.kernel",
    "d/kernel": "dense.kernel",
    "d/bias": "dense.bias",
}
SPEC = ModelSpec("net", Net, 8, 6, extra={"convention": "keras", "classifier": ("predictions",)})


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in KERAS.items()}


def write_h5(path, arrays, *, style="{layer}/{kind}:0", group=None, chunks=False):
    """A legacy file; `style` is how that age of Keras named weights inside a layer's group."""
    layers: dict[str, list[str]] = {}
    for key in arrays:
        layers.setdefault(key.rsplit("/", 1)[0], []).append(key)
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        names = [name.encode() for name in layers]
        if chunks:
            half = len(names) // 2
            root.attrs["layer_names0"], root.attrs["layer_names1"] = names[:half], names[half:]
        else:
            root.attrs["layer_names"] = names
        for layer, keys in layers.items():
            kinds = [key.rsplit("/", 1)[1] for key in keys]
            weights = [style.format(layer=layer, kind=kind) for kind in kinds]
            root.create_group(layer).attrs["weight_names"] = [w.encode() for w in weights]
            for weight, key in zip(weights, keys):
                root[layer].create_dataset(weight, data=arrays[key])


def net():
    return Net(rngs=nnx.Rngs(0))


def check_filled(module, arrays):
    state = store.state_arrays(module)
    for key, path in OURS.items():
        expected = np.transpose(arrays[key], (0, 1, 3, 2)) if "depthwise" in key else arrays[key]
        np.testing.assert_array_equal(state[path], expected)
    assert set(state) == set(OURS.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "{layer}/{layer}/{kind}:0"},
        {"style": "{layer}/{kind}"},
        {"group": "model_weights"},
        {"chunks": True},
    ],
    ids=["keras2", "nested", "keras3", "whole model", "split names"],
)
def test_every_age_of_keras_files(options, arrays, tmp_path):
    write_h5(tmp_path / "w.h5", arrays, **options)
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "w.h5")
    check_filled(module, arrays)


def test_keras_1_words(tmp_path):
    old = {"a/W": (3, 3, 3, 4), "a/b": (4,), "n/running_mean": (4,), "n/running_std": (4,)}
    values = {key: np.ones(shape, np.float32) for key, shape in old.items()}
    write_h5(tmp_path / "w.h5", values, style="{layer}_{kind}_1:0")
    read = keras_h5.read(tmp_path / "w.h5")
    assert set(read) == {"a/kernel", "a/bias", "n/moving_mean", "n/moving_variance"}


def test_unnamed_layers_are_numbered_by_creation_not_by_position(tmp_path):
    layers = ("conv2d_10", "conv2d_9", "batch_normalization", "conv2d_100", "conv2d_7x")
    write_h5(tmp_path / "w.h5", {f"{name}/bias": np.array([i]) for i, name in enumerate(layers)})
    read = {key: int(value[0]) for key, value in keras_h5.read(tmp_path / "w.h5").items()}
    assert read == {
        "conv2d_0/bias": 1,
        "conv2d_1/bias": 0,
        "conv2d_2/bias": 3,
        "batch_normalization_0/bias": 2,
        "conv2d_7x/bias": 4,
    }


def test_file_with_classifier_fits_and_other_left_overs_do_not(arrays, tmp_path):
    arrays["predictions/kernel"] = np.zeros((6, 10), np.float32)
    write_h5(tmp_path / "top.h5", arrays)
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "top.h5")
    check_filled(module, arrays)
    arrays["predictions_too/kernel"] = np.zeros((6, 10), np.float32)
    write_h5(tmp_path / "more.h5", arrays)
    with pytest.raises(errors.WeightsError, match=r"1 left over .predictions_too/kernel"):
        readers.fill_from_file(net(), SPEC, tmp_path / "more.h5")


def test_unfilled_and_wrong_shapes_are_reported_together(arrays, tmp_path):
    del arrays["b/beta"]
    arrays["d/kernel"] = np.zeros((6, 5), np.float32)
    write_h5(tmp_path / "w.h5", arrays)
    with pytest.raises(errors.WeightsError) as caught:
        readers.fill_from_file(net(), SPEC, tmp_path / "w.h5")
    assert "1 unfilled (stem.norm.bias)" in str(caught.value)
    assert "dense.kernel: (6, 5) in the file, (5, 6) here" in str(caught.value)


def test_published_and_own_safetensors(arrays, tmp_path):
    safetensors.numpy.save_file(arrays, tmp_path / "published.safetensors")
    module = net()
    readers.fill_from_file(module, SPEC, tmp_path / "published.safetensors")
    check_filled(module, arrays)
    digest = store.save_module(module, tmp_path / "own.safetensors")
    again = net()
    readers.fill_from_file(again, SPEC, tmp_path / "own.safetensors", digest)
    check_filled(again, arrays)


def test_torch_layout(arrays):
    module = net()
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
    renamed = keymap.rename(module, published, "torch")
    for key in ("a/kernel", "b/gamma", "b/beta", "d/kernel", "d/bias"):
        np.testing.assert_array_equal(renamed[OURS[key]], arrays[key])
    assert "b.num_batches_tracked" not in renamed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not found", "a web page"),
        (b"P6 not weights at all", "no weights file"),
        (b"\x10\0\0\0\0\0\0\0{not json", "not a sound safetensors file"),
        (keras_h5.SIGNATURE + b"and then rubbish" * 9, "is damaged"),
    ],
    ids=["empty", "web page", "image", "bad safetensors", "bad hdf5"],
)
def test_damaged_files_are_refused(content, message, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(errors.WeightsError, match=message):
        readers.fill_from_file(net(), SPEC, tmp_path / "w")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kept, arrays, tmp_path):
    write_h5(tmp_path / "w.h5", arrays)
    store.save_module(net(), tmp_path / "w.safetensors")
    for name in ("w.h5", "w.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(kept * len(content))])
        with pytest.raises(errors.WeightsError):
            readers.fill_from_file(net(), SPEC, tmp_path / name)


def link_elsewhere(file):
    file["other"] = h5py.ExternalLink("secret.h5", "/data")


def store_elsewhere(file):
    file.create_dataset("other", (4,), "u1", external=[("secret.txt", 0, 4)])


def map_elsewhere(file):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("secret.h5", "data", (4,))
    file.create_virtual_dataset("other", layout)


def claim_much(file):
    file.create_dataset("other", (1 << 20, 1 << 20), "f8", chunks=(1, 1024))


def hold_text(file):
    file["other"] = np.array([b"text"])


@pytest.mark.parametrize(
    ("put", "match"),
    [
        (link_elsewhere, "ExternalLink"),
        (store_elsewhere, "lies in another file"),
        (map_elsewhere, "lies in another file"),
        (claim_much, "claims 8796093022208 bytes"),
        (hold_text, "no array of numbers"),
    ],
)
def test_hdf5_that_reaches_out_is_refused(tmp_path, monkeypatch, put, match):
    """No bytes of the reader's other files, and no more memory than the file can be worth."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_bytes(b"key!")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data"] = np.arange(4, dtype=np.uint8)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"bias"]
        put(group)
        group.move("other", "bias")
    with pytest.raises(errors.WeightsError, match=match):
        readers.read(tmp_path / "w.h5")


def test_hdf5_without_weights_is_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(errors.WeightsError, match="layer_names"):
        readers.read(tmp_path / "w.h5")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(errors.WeightsError, match="nowhere"):
        readers.read(tmp_path / "nowhere.h5")


class Harmful:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("form", ["bare", "zip", "npy"])
def test_pickled_code_never_runs(form, tmp_path):
    content = pickle.dumps({"weight": Harmful(tmp_path / "harm")}, protocol=2)
    path = tmp_path / "w.pth"
    if form == "bare":
        path.write_bytes(content)
    elif form == "npy":
        with path.open("wb") as file:
            np.save(file, np.array([Harmful(tmp_path / "harm")], object), allow_pickle=True)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3")
    # Without PyTorch it is refused as well: nothing else may unpickle.
    with pytest.raises(
        errors.WeightsError, match=r"PyTorch checkpoint|more than tensors|no weights file"
    ):
        readers.read(path)
    assert not (tmp_path / "harm").exists()


def test_torch_checkpoint(arrays, tmp_path):
    torch = pytest.importorskip("torch", reason="reads .pth files: the optional extra [torch]")
    state = {"module.d.weight": torch.tensor(arrays["d/kernel"].T)}
    torch.save({"state_dict": state, "best": 91.8}, tmp_path / "w.pth")
    read = readers.read(tmp_path / "w.pth")
    assert list(read) == ["d.weight"]
    np.testing.assert_array_equal(read["d.weight"], arrays["d/kernel"].T)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(errors.WeightsError, match="no dictionary of tensors"):
        readers.read(tmp_path / "list.pth")


def test_torch_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(errors.WeightsError, match=r"ncap_jax\[torch\]"):
        readers.read(tmp_path / "w.pth")
