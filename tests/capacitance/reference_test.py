"""The oracle's own oracle: autodiff on small networks, and matrices worked out by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ncap_jax.capacitance import reference
from tests.support.nets import Net, random_net

pytestmark = pytest.mark.usefixtures("x64")

# docs/numerics.md: closed form against two nested differentiations.
NESTED = {"rtol": 1e-10, "atol": 1e-13}
NET = random_net(11, (3, 4, 3, 2, 3), 5, plain=False)
STARTS = np.cumsum([0, *(k.size for k in NET.kernels)])


def forward(net: Net, kernels: list[Array], taps: list[Array]) -> tuple[list[Array], Array]:
    """Activations z^0..z^{L-1} and logits; `taps` are added to the pre-activations."""
    z = [jnp.asarray(net.inputs)]
    for index, kernel in enumerate(kernels):
        a = z[-1] @ kernel + net.biases[index][None, :] + taps[index]
        if index < len(kernels) - 1:
            y = a * net.scales[index][None, :] + net.shifts[index][None, :]
            z.append(jax.nn.relu(y))
    return z, a


def loss(net: Net, kernels: list[Array], taps: list[Array]) -> Array:
    """Cross-entropy, summed over the samples."""
    log_p = jax.nn.log_softmax(forward(net, kernels, taps)[1], axis=1)
    return -jnp.sum(log_p[jnp.arange(len(net.labels)), net.labels])


def zero_taps(net: Net) -> list[Array]:
    return [jnp.zeros((len(net.labels), kernel.shape[1])) for kernel in net.kernels]


@pytest.fixture(scope="module")
def by_autodiff() -> dict[str, Any]:
    """States, curvature and second derivatives of `NET`, all from one program."""
    with jax.enable_x64(True):
        kernels = [jnp.asarray(k) for k in NET.kernels]
        taps = zero_taps(NET)

        def slopes(taps: list[Array]) -> list[Array]:
            z, _ = forward(NET, kernels, taps)
            return [value.sum() for value in z[1:]]

        @jax.jit
        def derivatives() -> dict[str, Any]:
            return {
                "z": forward(NET, kernels, taps)[0],
                "g": jax.grad(lambda t: loss(NET, kernels, t))(taps),
                # Summed over units, since z^l depends on a^l unit by unit.
                "s": [jax.grad(lambda t, i=i: slopes(t)[i])(taps)[i] for i in range(3)],
                "curvature": jax.hessian(lambda t: loss(NET, kernels, t))(taps),
                "second": jax.hessian(lambda k: loss(NET, k, taps))(kernels),
            }

        return jax.tree.map(np.asarray, derivatives())


def states() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    return reference.mlp_states(*NET.plain, NET.scales, NET.shifts)


def test_states_are_those_of_autodiff(by_autodiff):
    for name, values in zip("zsg", states(), strict=True):
        for value, expected in zip(values, by_autodiff[name], strict=True):
            np.testing.assert_allclose(value, expected, **NESTED)


def test_gauss_newton_is_the_hessian_by_the_pre_activations(by_autodiff):
    _, s, g = states()
    for sample, label in enumerate(NET.labels):
        softmax = g[-1][sample] + np.eye(3)[label]
        found = reference.gauss_newton(NET.kernels, [v[sample] for v in s], softmax)
        for index, matrix in enumerate(found):
            expected = by_autodiff["curvature"][index][index][sample, :, sample, :]
            np.testing.assert_allclose(matrix, expected, **NESTED)


def block(adjacency: np.ndarray, low: int, high: int) -> np.ndarray:
    """P between two layers, counted from 0."""
    rows, columns = slice(*STARTS[low : low + 2]), slice(*STARTS[high : high + 2])
    return adjacency[rows, columns]


def test_total_is_the_second_derivative(by_autodiff):
    adjacency = reference.dense_adjacency(*NET.plain, "total", NET.scales, NET.shifts)
    for low in range(3):
        second = by_autodiff["second"][low][low + 1].reshape(NET.kernels[low].size, -1)
        expected = -second / len(NET.labels)
        np.testing.assert_allclose(block(adjacency, low, low + 1), expected, **NESTED)


SEPARABLE = {
    "signed": lambda term: -term,
    "absolute": np.abs,
    "squared": np.square,
}


@pytest.mark.parametrize("strength", SEPARABLE)
def test_separable_strengths_are_equation_1_edge_by_edge(by_autodiff, strength):
    """P[(j, i), (i, k)] = mean of f(z_j s_i g_k), with the states of autodiff."""
    z, s, g = (by_autodiff[name] for name in "zsg")
    adjacency = reference.dense_adjacency(*NET.plain, strength, NET.scales, NET.shifts)
    expected = np.zeros_like(adjacency)
    for low in range(3):
        n_in, n_out = NET.kernels[low].shape
        for j, i, k in np.ndindex(n_in, n_out, NET.kernels[low + 1].shape[1]):
            term = z[low][:, j] * s[low][:, i] * g[low + 1][:, k]
            row = STARTS[low] + j * n_out + i
            column = STARTS[low + 1] + i * NET.kernels[low + 1].shape[1] + k
            expected[row, column] = SEPARABLE[strength](term).mean()
    np.testing.assert_allclose(adjacency, expected, **NESTED)


def test_only_adjacent_layers_interact():
    for strength in ("signed", "absolute", "squared", "total"):
        adjacency = reference.dense_adjacency(*NET.plain, strength, NET.scales, NET.shifts)
        for low, high in np.ndindex(4, 4):
            assert np.any(block(adjacency, low, high)) == (high == low + 1)


def test_the_learning_rate_scales_the_matrix():
    for strength, factor in (("signed", 3), ("absolute", 3), ("squared", 9), ("total", 3)):
        one, three = (
            reference.dense_adjacency(*NET.plain, strength, NET.scales, NET.shifts, alpha)
            for alpha in (1.0, 3.0)
        )
        np.testing.assert_allclose(three, factor * one, rtol=1e-15)


def test_the_signed_value_needs_three_hidden_layers():
    """With two, the rows of the last hidden layer's kernel sum to 0, and with them beta_eff."""
    deep, shallow = random_net(1, (4, 5, 4, 3, 3), 6), random_net(1, (4, 5, 4, 3), 6)
    last = deep.kernels[-2].size
    rows = reference.dense_adjacency(*deep.plain).sum(axis=1)
    np.testing.assert_allclose(rows[-last - deep.kernels[-1].size :], 0, atol=1e-15)
    assert abs(reference.beta_eff(reference.dense_adjacency(*deep.plain))) > 1e-3
    assert abs(reference.beta_eff(reference.dense_adjacency(*shallow.plain))) < 1e-14
    assert reference.beta_eff(reference.dense_adjacency(*shallow.plain, "absolute")) > 1e-3


def test_beta_eff_by_hand():
    # delta_in = (3, 4), delta_out = (1, 6): (3 * 1 + 4 * 6) / 7.
    assert reference.beta_eff(np.array([[1.0, 2.0], [0.0, 4.0]])) == 27 / 7
    assert np.isnan(reference.beta_eff(np.zeros((2, 2))))
