"""PyTorch modules as candidates: the same numbers, the same life as a model of the zoo."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ncap_jax as ncap
from experiments.torch_parity import candidate, compare
from ncap_jax import errors
from ncap_jax.finetune.batch_norm import limit_memory
from ncap_jax.zoo import functional, load_model
from tests.support import torch_nets

pytestmark = torch_nets.needs_timm
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# Relative, float32: sums in another order, amplified by batch norm over few pixels.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def norm() -> Any:
    """Convolution, batch norm, dropout."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 4, 4), torch.nn.BatchNorm2d(6), torch.nn.Dropout(0.5)
        )


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 8, 3)), jnp.float32)


def spec_of(module: Any, **changes: Any) -> ncap.ModelSpec:
    return ncap.from_torch(module, **{"name": "net", "input_size": 8, **changes})


@pytest.mark.parametrize("name", torch_nets.TEN)
def test_the_numbers_are_pytorchs(name: str) -> None:
    module, size = torch_nets.build(name)
    agreement = compare(module, size)
    assert max(agreement) < TOLERANCE, agreement


def test_features_are_pooled_and_the_module_is_copied(norm: Any, images: jax.Array) -> None:
    import torch

    spec = spec_of(norm)
    assert (spec.feature_width, spec.parameters) == (6, 6 * 3 * 16 + 6 + 12)
    before = norm.eval()(torch.tensor(np.moveaxis(np.asarray(images), -1, 1))).mean((2, 3))
    norm_again = pickle.loads(pickle.dumps(norm))
    with torch.no_grad():
        norm[0].weight.zero_()
    try:
        ours = load_model(spec).features(images)
    finally:
        norm.load_state_dict(norm_again.state_dict())
    # One program against single operations, float32.
    np.testing.assert_allclose(ours, before.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_draws_afresh_in_training_and_not_in_inference(
    norm: Any, images: jax.Array
) -> None:
    definition, params, state = functional.split(load_model(spec_of(norm)))
    apply = jit(functional.apply, static_argnums=0, static_argnames=("train",))
    first, moved = apply(definition, params, state, images, train=True)
    second, _ = apply(definition, params, moved, images, train=True)
    again, _ = apply(definition, params, state, images, train=True)
    assert np.any(first != second)
    np.testing.assert_array_equal(first, again)
    one, same = apply(definition, params, moved, images, train=False)
    np.testing.assert_array_equal(one, apply(definition, params, moved, images, train=False)[0])
    assert int(moved["state"]["1.num_batches_tracked"]) == 1
    jax.tree.map(np.testing.assert_array_equal, same["state"], moved["state"])


def test_stochastic_depth_drops_paths() -> None:
    import timm

    module = torch_nets.mixer()
    module.blocks[0].drop_path = timm.layers.DropPath(0.5)
    definition, params, state = functional.split(candidate(module))
    x = jnp.ones((16, 16, 16, 3))
    y, _ = functional.apply(definition, params, state, x, train=True)
    rows = {tuple(np.round(np.asarray(row), 4)) for row in y}
    assert 1 < len(rows) <= 4, "both branches, kept or dropped as a whole, of equal images"


def test_the_memory_of_batch_norm_is_limited(norm: Any, images: jax.Array) -> None:
    norm[1].momentum = 0.001
    try:
        module = load_model(spec_of(norm))
        limit_memory(module, steps=3)
    finally:
        norm[1].momentum = 0.1
    definition, params, state = functional.split(module)
    _, moved = functional.apply(definition, params, state, images, train=True)
    mean = np.asarray(moved["state"]["1.running_mean"])
    plain = functional.split(load_model(spec_of(norm)))
    _, usual = functional.apply(*plain, images, train=True)
    # min(0.999, max(0.9, 1 - 2 / 4)) = 0.9, PyTorch's default.
    np.testing.assert_allclose(mean, usual["state"]["1.running_mean"], rtol=1e-5)


def test_two_models_of_one_source_share_programs(norm: Any) -> None:
    spec = spec_of(norm)
    one, two = (functional.split(load_model(spec))[0] for _ in range(2))
    assert one is two
    assert functional.split(load_model(spec_of(norm)))[0] is not one


def test_no_pytorch_runs_after_tracing(
    norm: Any, images: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition, params, state = functional.split(load_model(spec_of(norm)))
    apply = jit(functional.apply, static_argnums=0, static_argnames=("train",))
    first, _ = apply(definition, params, state, images, train=False)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("PyTorch was called")

    monkeypatch.setattr("torch.nn.Module.__call__", refuse)
    np.testing.assert_array_equal(apply(definition, params, state, images, train=False)[0], first)


def test_half_precision_computes_in_it_and_keeps_statistics(norm: Any, images: jax.Array) -> None:
    module = load_model(spec_of(norm), dtype=jnp.bfloat16)
    definition, params, state = functional.split(module)
    y, moved = functional.apply(definition, params, state, images, train=True)
    assert y.dtype == jnp.float32
    assert params["params"]["0.weight"].dtype == jnp.float32
    assert moved["state"]["1.running_var"].dtype == jnp.float32
    full, _ = functional.apply(*functional.split(load_model(spec_of(norm))), images, train=False)
    half, _ = functional.apply(definition, params, state, images, train=False)
    difference = np.max(np.abs(half - full))
    assert 0 < difference < 0.05, "eight bits of mantissa"


def test_an_operator_that_fails_is_named_with_its_model() -> None:
    import torch

    class Odd(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.special.airy_ai(x).mean((2, 3))

    with pytest.raises(errors.ModelError, match=r"odd cannot run: .*airy_ai"):
        spec_of(Odd(), name="odd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "maps"}, "has no method 'maps'"),
        ({"preprocessing": "mean=1"}, "unknown preprocessing mode"),
        ({"preprocessing": "mean=0,0,0 std=0,1,1"}, "out of range"),
    ],
)
def test_refusals(norm: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.NcapError, match=message):
        spec_of(norm, **change)


def test_what_is_no_module_and_what_cannot_be_drawn(norm: Any) -> None:
    with pytest.raises(errors.ModelError, match="a dict is not a"):
        spec_of({})
    with pytest.raises(errors.ModelError, match="cannot be drawn anew"):
        load_model(spec_of(norm), weights="random")


def test_a_spec_can_be_sent_to_a_process(norm: Any, images: jax.Array) -> None:
    spec = pickle.loads(pickle.dumps(spec_of(norm)))
    np.testing.assert_array_equal(
        load_model(spec).features(images), load_model(spec_of(norm)).features(images)
    )


def test_nothing_of_pytorch_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, ncap_jax; from ncap_jax.zoo import find_models;"
        "find_models('tiny_*'); ncap_jax.rank_models; ncap_jax.from_torch;"
        "assert not {'torch', 'timm', 'torchax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
