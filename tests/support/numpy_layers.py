"""Layers of convolutional networks and transformers in plain NumPy, in float64.

An oracle for the families that Keras Applications does not have: written from the papers and the
publishers' code, it shares nothing with the package. Images are (batch, height, width, channels).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special

Array = np.ndarray
Pads = tuple[tuple[int, int], tuple[int, int]]


def same_pads(x: Array, kernel: int, stride: int) -> Pads:
    """TensorFlow's "SAME": ceil(n / stride) pixels come out, the odd one is added at the end."""
    pads = []
    for n in x.shape[1:3]:
        total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads[0], pads[1]


def windows(x: Array, kernel: int, stride: int, pads: Pads, fill: float = 0.0) -> Array:
    """(batch, rows, columns, channels, kernel, kernel)."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return views[:, ::stride, ::stride]


def conv(
    x: Array, kernel: Array, bias: Array | float = 0.0, stride: int = 1, pads: Pads = ((0, 0),) * 2
) -> Array:
    """Convolution with a kernel (height, width, in, out)."""
    views = windows(x, kernel.shape[0], stride, pads)
    return np.tensordot(views, kernel.astype(np.float64), ((3, 4, 5), (2, 0, 1))) + bias


def depthwise(
    x: Array, kernel: Array, bias: Array | float = 0.0, stride: int = 1, pads: Pads = ((0, 0),) * 2
) -> Array:
    """One filter per channel, kernel (height, width, channels)."""
    views = windows(x, kernel.shape[0], stride, pads)
    return np.einsum("nrcdij,ijd->nrcd", views, kernel.astype(np.float64)) + bias


def max_pool(x: Array, window: int, stride: int, pads: Pads = ((0, 0),) * 2) -> Array:
    """Maximum over windows; padding counts as minus infinity."""
    return windows(x, window, stride, pads, -np.inf).max((4, 5))


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def gelu(x: Array) -> Array:
    """The exact form, x times the normal distribution function."""
    return x * scipy.special.ndtr(x)


def batch_norm(
    x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float = 1e-5
) -> Array:
    """In inference, with running statistics."""
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float = 1e-6) -> Array:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
