"""AlexNet against the same network in PyTorch; its grid of averages against the definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import MODELS, load_model
from ncap_jax.zoo.alexnet import AlexNet, adaptive_average_pool
from ncap_jax.zoo.weights import keymap, readers, store


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the oracle of AlexNet: the extra [torch]")


def torchvision_alexnet(torch):
    """The definition in torchvision (models/alexnet.py) without dropout to compare training too."""
    nn = torch.nn
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        nn.Identity(),
        nn.Linear(256 * 36, 4096),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 1000),
    )
    torch.manual_seed(0)
    return nn.ModuleDict({"features": features, "classifier": classifier})


def torch_features(torch, model, x):
    """Features and stages, keyed by torchvision's index, of NHWC images."""
    y, stages = torch.from_numpy(x).permute(0, 3, 1, 2), {}
    for index, layer in enumerate(model["features"]):
        y = layer(y)
        stages[f"features.{index}"] = y
    y = torch.nn.functional.adaptive_avg_pool2d(y, 6).flatten(1)
    return model["classifier"][:-1](y), stages


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [95, pytest.param(224, marks=pytest.mark.slow)])
def test_features_stages_gradients_equal_pytorch(torch, dtype, size, tmp_path):
    tolerance = {"float32": 1e-4, "float64": 1e-9}[dtype]
    theirs = torchvision_alexnet(torch)
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    theirs = theirs.to(getattr(torch, dtype))
    x = np.random.default_rng(0).normal(0.4, 1, (2, size, size, 3)).astype(dtype)
    weights = np.random.default_rng(1).normal(size=4096).astype(dtype)

    expected, stages = torch_features(torch, theirs, x)
    ((expected @ torch.from_numpy(weights)).mean()).backward()
    with jax.enable_x64(dtype == "float64"):
        ours = AlexNet(dropout=0.0, rngs=nnx.Rngs(0))
        readers.fill_from_file(ours, MODELS["alexnet"], tmp_path / "alexnet.pth")
        graphdef, params, rest = nnx.split(ours, nnx.Param, ...)
        params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)

        @jax.jit
        def run(params, x):
            model = nnx.merge(graphdef, params, rest)
            features = model.features(x)
            return jnp.mean(features @ weights), (features, model.stages(x))

        grads, (features, our_stages) = jax.grad(run, has_aux=True)(params, x)
    assert relative(features, expected.detach().numpy()) <= tolerance
    for name, value in our_stages.items():
        assert relative(value, stages[name].detach().permute(0, 2, 3, 1).numpy()) <= tolerance
    if (dtype, size) == ("float32", 224):
        return  # some of a million ReLUs and poolings tip over by rounding: gradients in float64
    published = {k: p.grad.numpy() for k, p in theirs.named_parameters() if p.grad is not None}
    renamed = keymap.rename(ours, published, "torch")
    flat = {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(grads)}
    assert set(renamed) == set(flat)
    for name, value in renamed.items():
        assert relative(flat[name], value) <= tolerance, name


@pytest.mark.parametrize("n", [1, 3, 6, 7, 13])
def test_adaptive_average_pool_is_pytorchs(torch, n):
    x = np.random.default_rng(0).normal(size=(2, n, 6, 3)).astype(np.float32)
    ours = adaptive_average_pool(jnp.asarray(x), 6)
    theirs = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), 6)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    model = load_model("alexnet", None)
    x = jnp.ones((1, 63, 63, 3))
    assert jnp.array_equal(model.features(x), model.features(x))
    model.train()
    dropped = model.features(x)
    assert not jnp.array_equal(dropped, model.features(x))


def test_bias_and_kernel_are_drawn_as_pytorch_draws_them():
    state = store.state_arrays(load_model("alexnet", None))
    limit = 1 / np.sqrt(64 * 25)
    for leaf in ("kernel", "bias"):
        values = state[f"convs.1.{leaf}"]
        assert 0.9 * limit < np.abs(values).max() <= limit
        assert abs(values.mean()) < 0.15 * limit
