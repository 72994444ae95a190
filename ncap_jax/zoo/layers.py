"""The layers all architectures are built from, with Keras's padding, epsilon and momentum.

Every layer that owns weights carries `name`, the name its publisher gave it: the loaders map
files to modules by that name and by one rule per kind of layer (`ncap_jax.zoo.weights.keymap`),
so no table of names is kept anywhere.

Parameters are float32. `dtype` is the dtype of the arithmetic: None follows the input and the
parameters; with bfloat16 the convolutions run in bfloat16, while batch-norm statistics and the
pooled features stay in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax.ops.convolutions import convolution
from ncap_jax.ops.pooling import Padding

Size = int | tuple[int, int]
# (key, shape, dtype) -> array. Layers hold theirs, and only equal layers share compiled programs:
# give a module's function or a frozen record, never a closure that is made anew for each layer.
Initializer = Callable[..., jax.Array]
# Standard deviation of a standard normal cut at two: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
CUT = 0.8796256610342398


def symmetric_uniform(
    key: jax.Array, shape: Sequence[int], limit: float, dtype: DTypeLike
) -> jax.Array:
    """Draw from U(-limit, limit), on the host where the key is concrete.

    Compiling a random-number program for every shape of kernel takes longer than anything else in
    building a large network. Under tracing (`jax.jit`, `nnx.eval_shape`) JAX's generator is used,
    whose numbers differ.
    """
    if isinstance(key, jax.core.Tracer):
        return jax.random.uniform(key, shape, dtype, -limit, limit)
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    drawn = np.random.default_rng(seed).uniform(-limit, limit, shape).astype(dtype)
    return jax.device_put(drawn)  # `jnp.asarray` compiles a program for every shape


def he_uniform(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Keeps the variance through ReLU: U(-a, a), a = sqrt(6 / fan_in)."""
    return symmetric_uniform(key, shape, math.sqrt(6 / math.prod(shape[:-1])), dtype)


def truncated_normal(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """N(0, 0.02^2) cut at two standard deviations, as transformers are initialised."""
    return _cut_normal(key, shape, 0.02, dtype)


def he_normal(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Keeps the variance through ReLU: 2 / fan_in, of a normal cut at two standard deviations."""
    return _cut_normal(key, shape, math.sqrt(2 / math.prod(shape[:-1])) / CUT, dtype)


def _cut_normal(key: jax.Array, shape: Sequence[int], std: float, dtype: DTypeLike) -> jax.Array:
    """Draw from N(0, std^2) cut at two standard deviations, where `symmetric_uniform` draws."""
    if isinstance(key, jax.core.Tracer):
        return std * jax.random.truncated_normal(key, -2, 2, shape, dtype)
    tail = scipy.special.ndtr(-2.0)
    uniform = np.asarray(symmetric_uniform(key, shape, 0.5 - tail, jnp.float32))
    return jax.device_put((std * scipy.special.ndtri(0.5 + uniform)).astype(dtype))


zeros = nnx.initializers.zeros_init()


def glorot_uniform(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Keras's default for kernels (..., in, out): U(-a, a), a = sqrt(6 / (fan_in + fan_out))."""
    window = math.prod(shape[:-2])
    return symmetric_uniform(key, shape, math.sqrt(6 / (window * (shape[-2] + shape[-1]))), dtype)


class Backbone(nnx.Module):
    """An image model below its classifier.

    Subclasses implement `stages`; a stage carries the name of the published layer whose output
    it is. `train()` and `eval()` switch batch norm and dropout, as in any `nnx.Module`.
    """

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """All named intermediate results, in order; the last is the final feature map.

        Args:
            x: (batch, height, width, 3) float, already preprocessed.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no stages")

    def features(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, 3) float, already preprocessed -> (batch, width), float32 up."""
        *_, last = self.stages(x).values()
        return global_average(last)

    def sized_weights(self, size: int) -> dict[str, jax.Array]:
        """The weights that implementations with one fixed input size hold for that size.

        Args:
            size: side of the images in pixels.

        Returns:
            Path of a weight -> its value; none but those that depend on the size.
        """
        del size
        return {}

    def __call__(self, x: jax.Array) -> jax.Array:
        """The same as `features`."""
        return self.features(x)


class Conv(nnx.Conv):
    """Convolution, kernel (height, width, in / groups, out).

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: side of the kernel, or (height, width).
        stride: of both axes.
        padding: "SAME" as TensorFlow means it (zeros so that the output has ceil(n / stride)
            pixels, the odd one at the end), "VALID", one number for all sides (PyTorch), or
            ((top, bottom), (left, right)).
        bias: whether a bias is added.
        groups: of channels that do not see one another; one channel each: depthwise.
        kernel_init: of the kernel.
        bias_init: of the bias.
        name: the published name.
        dtype: compute dtype.
        rngs: random streams; `params` is used.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size = 1,
        stride: int = 1,
        *,
        padding: Padding = "SAME",
        bias: bool = False,
        groups: int = 1,
        kernel_init: Initializer = glorot_uniform,
        bias_init: Initializer = zeros,
        name: str,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            inputs,
            outputs,
            (kernel, kernel) if isinstance(kernel, int) else kernel,
            strides=stride,
            padding=padding,
            use_bias=bias,
            feature_group_count=groups,
            kernel_init=kernel_init,
            bias_init=bias_init,
            conv_general_dilated=convolution,
            dtype=dtype,
            rngs=rngs,
        )
        self.name = name


class DepthwiseConv(Conv):
    """One filter per channel, kernel (height, width, 1, channels). Arguments as for `Conv`."""

    def __init__(self, channels: int, kernel: Size = 3, stride: int = 1, **options: Any):
        super().__init__(channels, channels, kernel, stride, groups=channels, **options)


class Dense(nnx.Linear):
    """Fully connected layer, kernel (in, out), with bias. Arguments as for `Conv`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        name: str,
        kernel_init: Initializer = glorot_uniform,
        **options: Any,
    ):
        super().__init__(inputs, outputs, kernel_init=kernel_init, **options)
        self.name = name


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation over all axes but the last, as Keras defines it.

    y = x r + (bias - mean r),  r = scale / sqrt(var + epsilon)

    Training takes mean and biased variance of the batch and moves the running averages,
    running <- momentum * running + (1 - momentum) * batch, the variance biased there too
    (PyTorch's and fused TensorFlow's are unbiased). The arithmetic is float32 at least and done
    in Keras's order: in float32 the outputs then agree with Keras's to the last bit, so that no
    ReLU behind them falls on the other side of its kink.

    Args:
        width: number of channels.
        name: the published name.
        epsilon: added to the variance; Keras's default.
        momentum: of the running averages; Keras's default.
        scale: whether the normalised value is multiplied by a learned scale.
        dtype: of the result, None: as the input.
        rngs: random streams.
    """

    def __init__(
        self,
        width: int,
        *,
        name: str,
        epsilon: float = 1e-3,
        momentum: float = 0.99,
        scale: bool = True,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            width, epsilon=epsilon, momentum=momentum, use_scale=scale, dtype=dtype, rngs=rngs
        )
        self.name = name

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: Any = None
    ) -> jax.Array:
        """Normalise (..., width); `use_running_average` overrides `train()` and `eval()`."""
        if mask is not None:
            raise NotImplementedError("masked statistics are not Keras's and not offered here")
        if use_running_average is None:
            use_running_average = self.use_running_average
        wide = jnp.promote_types(x.dtype, jnp.float32)
        values = x.astype(wide)
        if use_running_average:
            mean, var = self.mean[...].astype(wide), self.var[...].astype(wide)
        else:
            mean, var = self._batch_statistics(values)
        r = jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            r = r * self.scale[...].astype(wide)
        assert self.bias is not None  # use_bias is never switched off
        y = values * r + (self.bias[...].astype(wide) - mean * r)
        return y.astype(x.dtype if self.dtype is None else self.dtype)

    def _batch_statistics(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, var = moments(values, once=jax.default_backend() != "cpu")
        for running, batch in ((self.mean, mean), (self.var, var)):
            moved = running[...] * self.momentum + batch * (1 - self.momentum)
            running[...] = moved.astype(running.dtype)
        return mean, var


def moments(values: jax.Array, *, once: bool) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over all axes but the last.

    var = E[(x - s)^2] - (E[x] - s)^2 for any s that does not depend on x

    With s held constant this is exact, and so are its derivatives of every order. Without a shift
    it would cancel where the mean is large against the deviation.

    Args:
        values: (batch, ..., width) floating.
        once: s is the mean of the first sample, so that one pass over the values gives both: an
            accelerator's time here is that of reading them. As |E[x] - s|^2 <= batch var, the
            variance loses a factor of 1 + batch in precision at most (docs/numerics.md).
            Else s is the mean itself, in a pass before: Keras's result to the last bit, and, as
            no derivative passes through s, one pass fewer on the way back.

    Returns:
        Two arrays (width,).
    """
    axes = tuple(range(values.ndim - 1))
    if not once:
        mean = jnp.mean(values, axes)
        shift = jax.lax.stop_gradient(mean)
        return mean, jnp.mean((values - shift) ** 2, axes) - (mean - shift) ** 2
    shift = jax.lax.stop_gradient(jnp.mean(values[0], axes[:-1]))
    centred = values - shift
    mean, square = jnp.mean(centred, axes), jnp.mean(centred * centred, axes)
    return mean + shift, square - mean * mean


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the channels; mean and variance are taken in float32 at least.

    Args:
        width: number of channels.
        name: the published name.
        epsilon: added to the variance; PyTorch's vision models use 1e-6.
        dtype: of the result.
        rngs: random streams.
    """

    def __init__(
        self,
        width: int,
        *,
        name: str,
        epsilon: float = 1e-6,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(width, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)
        self.name = name


class ConvNorm(nnx.Module):
    """Convolution -> batch norm -> activation.

    Args:
        conv: a `Conv` or `DepthwiseConv`.
        norm: a `BatchNorm` of its width.
        activation: elementwise, None for a linear layer.
    """

    def __init__(self, conv: Conv, norm: BatchNorm, activation: Callable | None = nnx.relu):
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, in) -> (batch, height', width', out)."""
        y = self.norm(self.conv(x))
        return y if self.activation is None else self.activation(y)


def global_average(x: jax.Array) -> jax.Array:
    """Mean over height and width: (batch, height, width, channels) -> (batch, channels)."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


def concat(branches: Sequence[jax.Array]) -> jax.Array:
    """Join along the channels."""
    return jnp.concatenate(branches, axis=-1)
