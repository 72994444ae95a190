"""The true gradients against autodiff, and the streams against their definition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ncap_jax.capacitance import line_graph, network, one_step, reference, trace
from tests.support import architectures, brute_force
from tests.support.nets import Net, random_net

pytestmark = pytest.mark.usefixtures("x64")

# docs/numerics.md: float64 against float64.
EXACT = 1e-12
NET = random_net(7, (4, 5, 4, 6, 3), 5, plain=False)


def scaled_perceptron(params: list[Array], constants: Any, x: Array) -> Array:
    """`NET`: z = relu(scale (z W + b) + shift), whose folded batch norm is held constant."""
    biases, scales, shifts = constants
    for kernel, bias, scale, shift in zip(params[:-1], biases, scales, shifts):
        x = jax.nn.relu((x @ kernel + bias[None, :]) * scale[None, :] + shift[None, :])
    return x @ params[-1] + biases[-1][None, :]


def recorded(net: Net) -> tuple[Any, dict[Any, Array]]:
    """The forward pass, and the true gradients at its layers."""
    constants = jax.tree.map(jnp.asarray, (net.biases, net.scales, net.shifts))
    kernels = [jnp.asarray(kernel) for kernel in net.kernels]
    forward_pass = trace.record(scaled_perceptron, kernels, constants, jnp.asarray(net.inputs))
    logits = forward_pass.logits.primal
    g = jax.nn.softmax(logits, axis=1) - jax.nn.one_hot(net.labels, 3, dtype=logits.dtype)
    return forward_pass, one_step.cotangents(forward_pass, g)


@jax.jit
def everything() -> dict[str, Any]:
    """States and streams of `NET`, from one program."""
    forward_pass, gradients = recorded(NET)
    uses = list(forward_pass.outputs)
    measured = {s: one_step.degrees(forward_pass, gradients, s) for s in network.STRENGTHS}
    return {
        "g": [gradients[use] for use in uses],
        "t": {
            strength: [
                one_step.tangents(forward_pass.graph, line_graph.MAPS[strength])[node]
                for node in forward_pass.graph.nodes
                if node.use is not None
            ]
            for strength in network.STRENGTHS
        },
        "degrees": {s: [d[1:] for d in result.layers] for s, result in measured.items()},
        "sums": {s: (result.total, result.magnitude) for s, result in measured.items()},
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, everything())


@pytest.fixture(scope="module")
def states() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    return reference.mlp_states(*NET.plain, NET.scales, NET.shifts)


def test_gradients_are_those_of_the_definition(found, states):
    _, _, g = states
    for value, expected in zip(found["g"], g, strict=True):
        np.testing.assert_allclose(value, expected, rtol=EXACT, atol=EXACT)


MAPS = {"signed": np.asarray, "absolute": np.abs, "squared": np.square}


@pytest.mark.parametrize("strength", MAPS)
def test_the_tangent_stream_restarts_as_sums_of_the_inputs(found, states, strength):
    """Behind layer l, t is Lin(1, f(z^{l-1})), the same for every unit."""
    z, _, _ = states
    for value, u in zip(found["t"][strength], z, strict=True):
        sums = MAPS[strength](u).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(value, np.broadcast_to(sums, value.shape), rtol=EXACT)


@pytest.mark.parametrize("strength", MAPS)
def test_degrees_are_pairs_of_equation_3(found, states, strength):
    """delta_in: (f(z), f(s) G of the next layer); delta_out: (f(s) Z of the previous, f(g))."""
    f, (z, s, g) = MAPS[strength], states
    layers = found["degrees"][strength][::-1]  # last layer first
    assert len(layers) == 4
    for index, (delta_in, delta_out) in enumerate(layers):
        if index < 2 or (index == 2 and strength != "signed"):
            total = f(g[index + 1]).sum(axis=1, keepdims=True)
            np.testing.assert_allclose(delta_in[0], f(z[index]), rtol=EXACT)
            np.testing.assert_allclose(delta_in[1], f(s[index]) * total, rtol=EXACT, atol=EXACT)
        else:  # nothing follows the last layer; signed, softmax makes the one before exactly 0
            assert delta_in is None
        if index > 0:
            total = f(z[index - 1]).sum(axis=1, keepdims=True)
            np.testing.assert_allclose(delta_out[0], f(s[index - 1]) * total, rtol=EXACT)
            np.testing.assert_allclose(delta_out[1], f(g[index]), rtol=EXACT, atol=EXACT)
        else:
            assert delta_out is None


@pytest.mark.parametrize("strength", MAPS)
def test_sums_over_edges_are_those_of_the_dense_matrix(found, strength):
    total, magnitude = found["sums"][strength]
    adjacency = reference.dense_adjacency(*NET.plain, strength, NET.scales, NET.shifts)
    sign, samples = line_graph.SIGN[strength], len(NET.labels)
    scale = EXACT * np.abs(adjacency).sum()
    np.testing.assert_allclose(sign * total / samples, adjacency.sum(), rtol=0, atol=scale)
    if strength == "signed":  # cancels inside Lin(1, u): a lower bound of the absolute sum
        absolute = found["sums"]["absolute"][0]
        assert abs(total) < magnitude <= absolute * (1 + EXACT)
    else:
        np.testing.assert_allclose(magnitude, total, rtol=EXACT)


def test_the_true_gradient_passes_held_states():
    """Behind an attention map and a layer norm, g is autodiff's, not that of held ones."""
    net, lins, weights, inputs, labels = architectures.example("two_head_attention")
    apply = brute_force.apply(net, lins)

    def loss(weights: dict[str, Array]) -> Array:
        log_p = jax.nn.log_softmax(apply(weights, None, inputs))
        return -jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    @jax.jit
    def both(weights: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        forward_pass = trace.record(apply, weights, None, inputs)
        logits = forward_pass.logits.primal
        g = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3, dtype=inputs.dtype)
        gradients = one_step.cotangents(forward_pass, g).items()
        found = {use.weight.keys[0]: use.weight_gradient(use.u, g) for use, g in gradients}
        return found, jax.grad(loss)(weights)

    found, expected = both(weights)
    assert set(found) == set(weights)
    for key, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-10, atol=1e-12)


def test_layers_that_the_loss_does_not_see_have_no_gradient():
    """A branch behind stop_gradient: recorded, but neither driven nor driving."""
    a, b = jnp.ones((3, 4)), jnp.ones((4, 2))

    def apply(params: tuple[Array, Array], constants: None, x: Array) -> Array:
        del constants
        h = x @ params[0]
        return (h @ params[1]) + jax.lax.stop_gradient(h @ params[1])

    forward_pass = trace.record(apply, (a, b), None, jnp.ones((5, 3)))
    assert len(forward_pass.outputs) == 3
    gradients = one_step.cotangents(forward_pass, jnp.ones((5, 2)))
    assert [use.weight.keys for use in gradients] == [("0",), ("1",)]
    measured = one_step.degrees(forward_pass, gradients, "absolute")
    unseen, seen, first = measured.layers
    assert unseen[1:] == (None, None)
    assert seen.delta_in is None
    assert seen.delta_out is not None
    assert first.delta_in is not None
    assert first.delta_out is None
