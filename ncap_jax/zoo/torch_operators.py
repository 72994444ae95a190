"""PyTorch's operators as JAX computes them: torchax, with what it lacks or does otherwise.

Imported only when a PyTorch module is used, for it imports torch and torchax. Each entry of
`FIXES` says what is wrong without it (torchax 0.0.13):

- torchax names operators for named tensors, which torch 2.14 no longer has (`import_torchax`).
- Batch norm does not update running statistics in training (google/torchax#22).
- `linear` does not take the keyword `weight` (BEiT v2, EVA-02, Swin V2).
- Convolutions are left to XLA, whose depthwise and pointwise ones are slow on a CPU. Ours take
  channels last, and so does what lies between them (`ncap_jax.zoo.torch_layout`).
- Antialiased resizing fails.
- Average pooling with `ceil_mode` is traced entry by entry; without padding in the mean, XLA folds
  the numbers of pixels at length. Here they are constants.
- Arrays that PyTorch made while a module was built (tables of positions, masks) may not meet
  arrays of JAX; here they become constants of the program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
import torch.utils._pytree as tree
from torch.utils._mode_utils import no_dispatch

from ncap_jax.ops.convolutions import LAYOUT, convolution
from ncap_jax.zoo.layers import moments
from ncap_jax.zoo.torch_layout import PIXELWISE, Images, channels_first, channels_last


class _Absent:
    """In place of an operator that this version of torch does not have, and of its overloads."""

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent()


@contextlib.contextmanager
def _absent_operators() -> Iterator[None]:
    """Let operators that torch no longer has be named: tables list them and never call them."""
    from torch import _ops

    patched: list[tuple[Any, Any]] = []
    for kind in (_ops.OpOverloadPacket, _ops._OpNamespace):
        own = kind.__getattr__

        def get(self: Any, name: str, own: Callable[..., Any] = own) -> Any:
            try:
                return own(self, name)
            except AttributeError:
                if name.startswith("__"):
                    raise
                return _Absent()

        patched.append((kind, own))
        kind.__getattr__ = get
    try:
        yield
    finally:
        for kind, own in patched:
            kind.__getattr__ = own


def import_torchax() -> Any:
    """The package torchax."""
    with _absent_operators():
        import torchax
        from torchax import tensor

        tensor.Environment()  # names the rest of the operators
    return torchax


torchax = import_torchax()
from torchax import tensor  # noqa: E402
from torchax.ops import ops_registry  # noqa: E402
from torchax.view import View  # noqa: E402

Function = Callable[..., Any]


class OperatorError(Exception):
    """An operator that cannot be computed; the text names it."""


class Environment(tensor.Environment):
    """Where PyTorch's operators compute with JAX: torchax's, with this module's fixes.

    An environment of its own: a program that uses torchax finds it as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images = Images()
        for operator, found in list(self._ops.items()):
            if _base(operator) in PIXELWISE and found.is_jax_function:
                self._replace(operator, self.images.pixelwise(found.func))
        for operator, function in FIXES.items():
            self._replace(operator, function)
        for operator in (torch.ops.aten.convolution, torch.ops.aten.avg_pool2d):
            self._replace(operator, self.images.giving(FIXES[operator]))
        cat = torch.ops.aten.cat
        self._replace(cat, self.images.joined(self._ops[cat].func))
        self._replace(F.batch_norm, batch_norm, is_jax_function=False)

    def _replace(self, operator: Any, function: Function, *, is_jax_function: bool = True) -> None:
        self._ops[operator] = ops_registry.Operator(
            operator,
            function,
            is_jax_function=is_jax_function,
            is_user_defined=True,
            needs_env=False,
            is_view_op=False,
        )

    def dispatch(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """One operator; what fails is named once, by the innermost.

        Raises:
            OperatorError: it failed.
        """
        try:
            return super().dispatch(func, types, args, kwargs)
        except OperatorError:
            raise
        except tensor.OperatorNotFound as error:
            if isinstance(func, torch._ops.OpOverload):
                raise OperatorError(f"torchax lacks the operator {_name(func)}") from error
            raise  # its parts may be there
        except Exception as error:
            raise OperatorError(
                f"the operator {_name(func)} failed: {type(error).__name__}: {error}"
            ) from error

    def t2j_iso(self, torchtensors: Any) -> Any:
        """As torchax's; arrays that are PyTorch's own become constants."""

        def constant(leaf: Any) -> Any:
            own = isinstance(leaf, tensor.Tensor | View)
            return leaf if own or leaf.ndim == 0 else self.constant(leaf)

        mapped = tree.tree_map_only(torch.Tensor, constant, torchtensors)
        return super().t2j_iso(mapped)

    def constant(self, array: torch.Tensor) -> Any:
        """An array of PyTorch's as one of this environment."""
        with no_dispatch(), torch._C.DisableTorchFunction():
            values = array.detach().numpy()
        return tensor.Tensor(jnp.asarray(values), self)

    def wrap(self, array: jax.Array) -> Any:
        """An array of JAX's as one of PyTorch's in this environment."""
        return tensor.Tensor(array, self)


def _name(func: Any) -> str:
    return tensor._name_of_func(func)


def _base(operator: Any) -> str:
    """The name of one of ATen's operators without its overload: aten::add.Tensor -> add."""
    if not isinstance(operator, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return ""
    return _name(operator).removeprefix("aten::").split(".")[0]


def linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """X W^T + b over the last axis; torchax's does not take `weight` by keyword."""
    y = jnp.einsum("...i,oi->...o", input, weight)
    return y if bias is None else y + bias


def convolve(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> jax.Array:
    """Convolution; of images, the product's own, whose order of axes is NHWC.

    Raises:
        ValueError: the kernel is larger than the padded images; JAX would give none back.
    """
    if transposed or weight.ndim != 4 or input.ndim != 4:
        return _CONVOLUTION(
            input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )
    y = convolution(
        channels_last(input),
        jnp.transpose(weight, (2, 3, 1, 0)),
        tuple(stride),
        [(side, side) for side in _pair(padding)],
        None,
        _pair(dilation),
        LAYOUT,
        groups,
    )
    if 0 in y.shape:
        sides = "the kernel of {} x {} is larger than the images of {} x {}, padding included"
        padded = (side + 2 * pad for side, pad in zip(input.shape[2:], _pair(padding)))
        raise ValueError(sides.format(*weight.shape[2:], *padded))
    if bias is not None:
        y = y + bias
    return channels_first(y)


def bicubic(input: jax.Array, output_size: Sequence[int], *_: Any) -> jax.Array:
    """Antialiased bicubic resizing of (batch, channels, height, width); torchax's fails."""
    return jax.image.resize(input, (*input.shape[:2], *output_size), "cubic", antialias=True)


def bilinear(input: jax.Array, output_size: Sequence[int], *_: Any) -> jax.Array:
    """Antialiased bilinear resizing, likewise."""
    return jax.image.resize(input, (*input.shape[:2], *output_size), "linear", antialias=True)


def average_pool(
    input: jax.Array,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """Average pooling of (..., height, width)."""
    kernel, pads = _pair(kernel_size), _pair(padding)
    strides = _pair(stride) if stride else kernel
    around, counts = [(0, 0)] * (input.ndim - 2), []
    for size, k, s, pad in zip(input.shape[-2:], kernel, strides, pads):
        rounded = s - 1 if ceil_mode else 0
        length = (size + 2 * pad - k + rounded) // s + 1
        length -= (length - 1) * s >= size + pad  # no window begins in the padding behind
        starts = np.arange(length) * s - pad
        ends = np.minimum(starts + k, size + pad)
        inside = np.minimum(ends, size) - np.maximum(starts, 0)
        counts.append(ends - starts if count_include_pad else inside)
        around.append((pad, max((length - 1) * s + k - size - pad, 0)))
    window, steps = ((1,) * (input.ndim - 2) + pair for pair in (kernel, strides))
    y = jax.lax.reduce_window(input, np.zeros((), input.dtype), jax.lax.add, window, steps, around)
    divisors = np.multiply.outer(*counts) if divisor_override is None else divisor_override
    return y / jnp.asarray(divisors, input.dtype)


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch norm that writes its running statistics, as PyTorch's does.

    Statistics are taken in float32 at least, as the zoo's batch norm takes them. The running
    variance is unbiased.
    """
    env = input._env
    x = input.jax()
    work = jnp.moveaxis(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 1, -1)
    if training:
        mean, variance = moments(work, once=jax.default_backend() != "cpu")
        if running_mean is not None and momentum:
            count = x.size // x.shape[1]
            unbiased = variance * (count / max(count - 1, 1))
            _move(running_mean, mean, momentum)
            _move(running_var, unbiased, momentum)
    else:
        mean, variance = env.t2j_iso((running_mean, running_var))
    scale, shift = (None if part is None else env.t2j_iso(part) for part in (weight, bias))
    factor = jax.lax.rsqrt(variance + eps)
    factor = factor if scale is None else factor * scale
    # One multiplication and one addition a pixel, in PyTorch's own order on a CPU.
    y = work * factor + ((0 if shift is None else shift) - mean * factor)
    return env.wrap(env.images.add(jnp.moveaxis(y.astype(x.dtype), -1, 1)))


def _move(running: Any, value: jax.Array, momentum: float) -> None:
    """One step of a moving average, in place."""
    value = jax.lax.stop_gradient(value).astype(running._elem.dtype)
    running._elem = (1 - momentum) * running._elem + momentum * value


def _pair(sides: Sequence[int]) -> tuple[int, int]:
    """Both sides, of which one may stand for both."""
    return (sides[0], sides[-1])


_CONVOLUTION = ops_registry.all_aten_ops[torch.ops.aten.convolution].func
FIXES: dict[Any, Function] = {
    F.linear: linear,
    torch.ops.aten.linear: linear,
    torch.ops.aten.convolution: convolve,
    torch.ops.aten.avg_pool2d: average_pool,
    torch.ops.aten._upsample_bicubic2d_aa: bicubic,
    torch.ops.aten._upsample_bilinear2d_aa: bilinear,
}
