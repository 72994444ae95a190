"""The oracle: the dense adjacency matrix P of a small MLP's line graph, in NumPy float64.

Slow and obvious on purpose: it shares no code with the kernels and does not import JAX. Memory is
O(edges^2), so it suits networks of a few hundred weights.

Source: Jiang et al., Neural Capacitance (arXiv 2201.04194), equations (1) and (2) of
`docs/numerics.md`; the `total` form is the exact mixed second derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def mlp_states(
    kernels: Sequence[Array],
    biases: Sequence[Array],
    inputs: Array,
    labels: Array,
    scales: Sequence[Array] | None = None,
    shifts: Sequence[Array] | None = None,
) -> tuple[list[Array], list[Array], list[Array]]:
    """States of a ReLU network z = max(scale a + shift, 0), a = z W + b, softmax cross-entropy.

    Args:
        kernels: L matrices W^l (n_in, n_out).
        biases: L vectors b^l (n_out,).
        inputs: (batch, n_0).
        labels: (batch,) integers.
        scales: L - 1 vectors (n_out,), the folded batch norm's factor; None: ones.
        shifts: L - 1 vectors (n_out,), the folded batch norm's offset; None: zeros.

    Returns:
        z: L arrays z^0 .. z^{L-1} (batch, n_l).
        s: L - 1 arrays s^1 .. s^{L-1}, slopes dz/da (batch, n_l).
        g: L arrays g^1 .. g^L, gradients of one sample's loss by a^l (batch, n_l).
    """
    depth = len(kernels)
    kernels = [np.asarray(k, np.float64) for k in kernels]
    z, s = [np.asarray(inputs, np.float64)], []
    for index in range(depth):
        a = z[-1] @ kernels[index] + np.asarray(biases[index], np.float64)
        if index == depth - 1:
            break
        scale = np.ones(a.shape[1]) if scales is None else np.asarray(scales[index], np.float64)
        shift = np.zeros(a.shape[1]) if shifts is None else np.asarray(shifts[index], np.float64)
        y = scale * a + shift
        z.append(np.maximum(y, 0.0))
        s.append(np.where(y > 0, scale, 0.0))
    softmax = np.exp(a - a.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    g = [softmax - np.eye(a.shape[1])[np.asarray(labels)]]  # g^L = softmax(a^L) - y
    for index in reversed(range(depth - 1)):
        g.insert(0, s[index] * (g[0] @ kernels[index + 1].T))  # g^l = s^l o (W^{l+1}' g^{l+1})
    return z, s, g


def gauss_newton(kernels: Sequence[Array], slopes: Sequence[Array], softmax: Array) -> list[Array]:
    """One sample's second derivatives H^m of the loss by a^m, m = 1..L; exact for ReLU.

    Args:
        kernels: L matrices (n_in, n_out).
        slopes: s^1 .. s^{L-1} of the sample, (n_l,) each.
        softmax: softmax(a^L) of the sample, (n_L,).

    Returns:
        L matrices (n_m, n_m).
    """
    curvature = np.diag(softmax) - np.outer(softmax, softmax)
    matrices = [curvature]
    jacobian = np.eye(len(softmax))  # da^L / da^m, (n_L, n_m)
    for kernel, slope in zip(reversed(kernels[1:]), reversed(slopes), strict=True):
        jacobian = (jacobian @ np.asarray(kernel, np.float64).T) * slope
        matrices.insert(0, jacobian.T @ curvature @ jacobian)
    return matrices


def _separable_block(z: Array, s: Array, g: Array, strength: str) -> Array:
    """P between layers l and l+1 by equation (1), states held: (n_{l-1}, n_l, n_l, n_{l+1})."""
    batch, width = s.shape
    block = np.zeros((z.shape[1], width, width, g.shape[1]))
    for b in range(batch):
        for i in range(width):
            term = np.outer(z[b], g[b]) * s[b, i]
            if strength == "signed":
                block[:, i, i, :] -= term / batch
            elif strength == "absolute":
                block[:, i, i, :] += np.abs(term) / batch
            else:
                block[:, i, i, :] += term**2 / batch
    return block


def _total_block(
    z: Array, s: Array, kernel: Array, z_next: Array, g: Array, curvature: Sequence[Array]
) -> Array:
    """P between layers l and m = l+1, states not held: (n_{l-1}, n_l, n_l, n_m).

    -d2C / dW^l_ji dW^m_pk = -z_j s_i (delta_pi g_k + (W^m H^m)_ik z_p) for each sample.
    """
    batch, width = s.shape
    block = np.zeros((z.shape[1], width, width, g.shape[1]))
    for b in range(batch):
        inner = np.einsum("pi,k->ipk", np.eye(width), g[b])
        inner += np.einsum("ik,p->ipk", kernel @ curvature[b], z_next[b])
        block -= np.einsum("j,i,ipk->jipk", z[b], s[b], inner) / batch
    return block


def dense_adjacency(
    kernels: Sequence[Array],
    biases: Sequence[Array],
    inputs: Array,
    labels: Array,
    strength: str = "signed",
    scales: Sequence[Array] | None = None,
    shifts: Sequence[Array] | None = None,
    alpha: float = 1.0,
) -> Array:
    """P (edges, edges) of an MLP: edges in layer order, each kernel (n_in, n_out) row by row.

    The arguments are those of `mlp_states`, the `strength` (signed, absolute, squared or total)
    and the learning rate `alpha`.
    """
    z, s, g = mlp_states(kernels, biases, inputs, labels, scales, shifts)
    kernels = [np.asarray(k, np.float64) for k in kernels]
    sizes = [k.size for k in kernels]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    adjacency = np.zeros((starts[-1], starts[-1]))
    softmax = g[-1] + np.eye(kernels[-1].shape[1])[np.asarray(labels)]
    curvature = [gauss_newton(kernels, [v[b] for v in s], softmax[b]) for b in range(len(softmax))]
    for low in range(len(kernels) - 1):  # layer l = low + 1 in the equations' count
        high = low + 1
        if strength == "total":
            sample_curvature = [matrices[high] for matrices in curvature]
            block = _total_block(z[low], s[low], kernels[high], z[high], g[high], sample_curvature)
        else:
            block = _separable_block(z[low], s[low], g[high], strength)
        rows, columns = slice(starts[low], starts[high]), slice(starts[high], starts[high + 1])
        adjacency[rows, columns] = block.reshape(sizes[low], sizes[high])
    return adjacency * (alpha**2 if strength == "squared" else alpha)


def beta_eff(adjacency: Array) -> float:
    """Equation (2), (1' P P 1) / (1' P 1), for any square P; NaN for 0/0."""
    delta_in = adjacency.sum(axis=1)  # delta_in = P 1
    delta_out = adjacency.sum(axis=0)  # delta_out = P' 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(delta_out @ delta_in / np.float64(delta_in.sum()))
