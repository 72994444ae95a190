"""AlexNet against torchvision's definition, in NumPy and (where it is installed) in PyTorch."""

from __future__ import annotations

import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.zoo import MODELS, alexnet, functional
from ncap_jax.zoo.alexnet import AlexNet, TorchUniform, adaptive_average_pool
from ncap_jax.zoo.weights import keymap, readers
from tests.support import numpy_layers as numpy_net
from tests.support.published import Weights, check, features, filled

WIDTH = 24


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense layers hold nine tenths of the weights: a few of their units say as much."""
    monkeypatch.setattr(alexnet, "WIDTH", WIDTH)


def numpy_features(weights: Weights, x: np.ndarray) -> np.ndarray:
    """The file models/alexnet.py of torchvision, layer by layer."""

    def conv(
        x: np.ndarray, index: int, outputs: int, side: int, stride: int, pad: int
    ) -> np.ndarray:
        inputs = x.shape[-1]
        shape = (outputs, inputs, side, side)
        kernel = weights.draw(f"features.{index}.weight", shape, fan_in=inputs * side**2)
        bias = weights.draw(f"features.{index}.bias", (outputs,))
        y = numpy_net.conv(x, kernel.transpose(2, 3, 1, 0), bias, stride, ((pad, pad),) * 2)
        return numpy_net.relu(y)

    def dense(x: np.ndarray, index: int) -> np.ndarray:
        kernel = weights.draw(f"classifier.{index}.weight", (WIDTH, x.shape[1]), fan_in=x.shape[1])
        return numpy_net.relu(x @ kernel.T + weights.draw(f"classifier.{index}.bias", (WIDTH,)))

    x = numpy_net.max_pool(conv(x, 0, 64, 11, 4, 2), 3, 2)
    x = numpy_net.max_pool(conv(x, 3, 192, 5, 1, 2), 3, 2)
    x = conv(conv(conv(x, 6, 384, 3, 1, 1), 8, 256, 3, 1, 1), 10, 256, 3, 1, 1)
    x = numpy_adaptive(numpy_net.max_pool(x, 3, 2), 6)
    return dense(dense(x.transpose(0, 3, 1, 2).reshape(len(x), -1), 1), 4)


def numpy_adaptive(x: np.ndarray, grid: int) -> np.ndarray:
    """PyTorch's bins: floor(i n / grid) up to ceil((i + 1) n / grid)."""
    n, height, width, channels = x.shape
    y = np.empty((n, grid, grid, channels))
    for i in range(grid):
        for j in range(grid):
            rows = slice(i * height // grid, -(-(i + 1) * height // grid))
            columns = slice(j * width // grid, -(-(j + 1) * width // grid))
            y[:, i, j] = x[:, rows, columns].mean((1, 2))
    return y


def test_features_are_torchvisions(narrow: None):
    weights = Weights()
    x = np.random.default_rng(0).normal(0.4, 1, (2, 95, 79, 3)).astype(np.float32)
    expected = numpy_features(weights, x)
    check(features(filled(MODELS["alexnet"], AlexNet, weights), x), expected)


@pytest.mark.parametrize("n", [1, 3, 6, 7, 13])
def test_adaptive_average_pool(n: int):
    x = np.random.default_rng(0).normal(size=(2, n, 6, 3)).astype(np.float32)
    ours = adaptive_average_pool(jnp.asarray(x), 6)
    np.testing.assert_allclose(ours, numpy_adaptive(x, 6), rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only(narrow: None):
    definition, params, state = functional.split(AlexNet(rngs=nnx.Rngs(0)))
    x = jnp.ones((1, 63, 63, 3))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(state: Any) -> list[tuple[jax.Array, Any]]:
        modes = (False, True)
        return [functional.apply(definition, params, state, x, train=mode) for mode in modes]

    (first, _), (dropped, moved) = run(state)
    (second, _), (dropped_again, _) = run(moved)
    np.testing.assert_array_equal(first, second)
    assert np.any(dropped != dropped_again)
    assert np.any(dropped != first)


def test_bias_and_kernel_are_drawn_as_pytorch_draws_them(narrow: None):
    model = AlexNet(rngs=nnx.Rngs(0))
    limit = 1 / np.sqrt(64 * 25)
    for leaf in (model.convs[1].kernel, model.convs[1].bias):
        values = np.asarray(leaf[...])
        assert 0.9 * limit < np.abs(values).max() <= limit
        assert abs(values.mean()) < 0.15 * limit
    assert TorchUniform(9) == TorchUniform(9) != TorchUniform(10)


def torchvision_alexnet(torch: Any) -> Any:
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


def torch_features(torch: Any, model: Any, x: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Features and stages, keyed by torchvision's index, of NHWC images."""
    y, stages = torch.from_numpy(x).permute(0, 3, 1, 2), {}
    for index, layer in enumerate(model["features"]):
        y = layer(y)
        stages[f"features.{index}"] = y
    y = torch.nn.functional.adaptive_avg_pool2d(y, 6).flatten(1)
    return model["classifier"][:-1](y), stages


def relative(ours: Any, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [95, 224])
def test_features_stages_gradients_equal_pytorch(dtype: str, size: int, tmp_path: pathlib.Path):
    torch = pytest.importorskip("torch", reason="the oracle of AlexNet: the extra [torch]")
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
        def run(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            model = nnx.merge(graphdef, params, rest)
            features = model.features(x)
            return jnp.mean(features @ weights), (features, model.stages(x))

        grads, (found, our_stages) = jax.grad(run, has_aux=True)(params, x)
    assert relative(found, expected.detach().numpy()) <= tolerance
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


def test_features_have_the_stated_width():
    model = functional.build_abstractly(AlexNet)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    assert nnx.eval_shape(lambda m, x: m.features(x), model, x).shape == (2, 4096)
