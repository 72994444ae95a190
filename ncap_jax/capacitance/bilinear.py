"""Weight layers: one use of a weight in y = Lin(W, u), a dot product or a convolution.

Besides the layer itself, the streams need Lin with all weights 1. That takes no product:
Lin(1, u) sums u over the input channels and the window, and is the same for every output channel
of a group; its transpose sums over the output channels. Both cost O(activations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ncap_jax.ops.convolutions import convolution
from ncap_jax.ops.dtypes import accumulator

PRIMITIVES = ("dot_general", "conv_general_dilated")


@dataclass(frozen=True, eq=False)
class Weight:
    """An array that only rearranges parameters: every entry is one parameter or a constant.

    Attributes:
        keys: names of the parameter arrays.
        build: parameter arrays by name -> the array.
    """

    keys: tuple[str, ...]
    build: Callable[[dict[str, Array]], Array]

    @classmethod
    def parameter(cls, key: str) -> Weight:
        """One parameter array as it is."""
        return cls((key,), itemgetter(key))

    def scatter(self, leaves: dict[str, Array], cotangent: Array) -> dict[str, Array]:
        """Sum a gradient by the array into gradients by the parameters."""
        chosen = {key: leaves[key].astype(cotangent.dtype) for key in self.keys}
        _, pull = jax.vjp(lambda c: self.build(c).astype(cotangent.dtype), chosen)
        return pull(cotangent)[0]


def apply(name: str, params: dict[str, Any], lhs: Array, rhs: Array) -> Array:
    """Evaluate the primitive itself, in full precision on every device."""
    kept = {k: v for k, v in params.items() if k not in ("precision", "out_sharding")}
    function = lax.dot_general if name == "dot_general" else convolution
    return function(lhs, rhs, precision=lax.Precision.HIGHEST, **kept)


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a weight meets an activation.

    Attributes:
        name: one of `PRIMITIVES`.
        params: parameters of the primitive.
        side: 0 if the weight is the left operand, 1 if it is the right one.
        weight: what the weight operand is made of.
        operand: the weight operand.
        u: the activation operand.
        shape: shape of the output.
    """

    name: str
    params: dict[str, Any]
    side: int
    weight: Weight
    operand: Array
    u: Array
    shape: tuple[int, ...]

    def linear(self, weight: Array, u: Array) -> Array:
        """Lin(W, u)."""
        pair = (weight, u) if self.side == 0 else (u, weight)
        return apply(self.name, self.params, *pair)

    def ones(self, u: Array) -> Array:
        """Lin(1, u), in the shape of the output and at least float32."""
        u = u.astype(accumulator(u.dtype))
        if self.name == "dot_general":
            return _ones_dot(u, 1 - self.side, self.params["dimension_numbers"], self.shape)
        return _ones_conv(u, self.operand.shape, self.shape, self.params)

    def ones_transpose(self, g: Array) -> Array:
        """Lin'(1, g), the transpose of `ones`, in the shape of the activation."""
        g = g.astype(accumulator(g.dtype))
        (h,) = jax.linear_transpose(self.ones, jax.ShapeDtypeStruct(self.u.shape, g.dtype))(g)
        return h

    def weight_gradient(self, u: Array, g: Array) -> Array:
        """Gradient by the weight operand for activation u and output cotangent g."""
        dtype = accumulator(g.dtype)
        u, g = u.astype(dtype), g.astype(dtype)
        operand = jax.ShapeDtypeStruct(self.operand.shape, dtype)
        (gradient,) = jax.linear_transpose(lambda w: self.linear(w, u).astype(dtype), operand)(g)
        return gradient

    def sums_over_classes(self) -> bool:
        """Whether the output is (batch, classes) and Lin'(1, g) sums over the classes."""
        # A weight on the left puts its own dimensions first: (classes, batch).
        if self.name != "dot_general" or len(self.shape) != 2 or self.side == 0:
            return False
        contract, batch = self.params["dimension_numbers"]
        return not batch[self.side] and self.operand.ndim == len(contract[self.side]) + 1


def _ones_dot(u: Array, side: int, dimension_numbers: Any, shape: tuple[int, ...]) -> Array:
    """`dot_general` with ones on the other side: a sum over the contracted dimensions."""
    contract, batch = (numbers[side] for numbers in dimension_numbers)
    free = [d for d in range(u.ndim) if d not in contract and d not in batch]
    moved = jnp.transpose(u, (*batch, *free, *contract))
    total = moved.sum(axis=tuple(range(len(batch) + len(free), u.ndim)))
    own = len(batch) + len(free)
    other = (
        tuple(range(own, len(shape)))
        if side == 0
        else tuple(range(len(batch), len(shape) - len(free)))
    )
    return jnp.broadcast_to(jnp.expand_dims(total, other), shape)


def _window_sum(x: Array, axis: int, size: int, params: dict[str, Any], index: int) -> Array:
    """Sum a strided, dilated window along one axis, as shifted slices, which XLA fuses."""
    low, high = params["padding"][index]
    stride, dilation = params["window_strides"][index], params["rhs_dilation"][index]
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (low, high, params["lhs_dilation"][index] - 1)
    x = lax.pad(x, jnp.zeros((), x.dtype), padding)
    count = (x.shape[axis] - dilation * (size - 1) - 1) // stride + 1
    starts = (dilation * k for k in range(size))
    last = stride * (count - 1) + 1
    slices = [lax.slice_in_dim(x, s, s + last, stride, axis) for s in starts]
    return sum(slices[1:], slices[0])


def _ones_conv(
    u: Array, kernel: tuple[int, ...], shape: tuple[int, ...], params: dict[str, Any]
) -> Array:
    """Convolution with a kernel of ones: channel sums of each group, then window sums."""
    lhs, rhs, out = params["dimension_numbers"]
    groups, axis = params["feature_group_count"], lhs[1]
    split = (*u.shape[:axis], groups, u.shape[axis] // groups, *u.shape[axis + 1 :])
    x = u.reshape(split).sum(axis=axis + 1)
    for index, position in enumerate(lhs[2:]):
        x = _window_sum(x, position, kernel[rhs[2 + index]], params, index)
    # From the order of the input's dimensions to that of the output's.
    x = jnp.transpose(x, [lhs[out.index(d)] for d in range(x.ndim)])
    axis, repeats = out[1], shape[out[1]] // groups
    x = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    )
    return x.reshape(shape)
