"""A PyTorch module beside the candidate that is made of it: outputs, statistics, gradients."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax.ops import effort
from ncap_jax.zoo import functional, torch_models


class Agreement(NamedTuple):
    """Relative differences, in the Euclidean norm over all entries.

    Attributes:
        inference: of the features.
        training: of the features in training mode.
        statistics: of the buffers after a step in training mode.
        gradient: of all parameters together, training mode.
    """

    inference: float
    training: float
    statistics: float
    gradient: float


def compare(module: Any, size: int, batch: int = 4, seed: int = 0) -> Agreement:
    """How far the bridge is from PyTorch, in the module's own precision.

    Args:
        module: of PyTorch, without random numbers in training mode; its statistics move.
        size: side of the images in pixels.
        batch: number of images.
        seed: of the images.
    """
    import torch

    rng, dtype = np.random.default_rng(seed), torch.empty(0, dtype=next(module.parameters()).dtype)
    images = rng.normal(size=(batch, size, size, 3)).astype(dtype.numpy().dtype)
    x = torch.tensor(np.moveaxis(images, -1, 1))
    # With oneDNN, torch 2.14.1's gradient of a 1 x 1 convolution of few channels is wrong.
    with torch.backends.mkldnn.flags(enabled=False):
        with torch.no_grad():
            inference = _pooled(module.eval()(x))
        direction = rng.normal(size=inference.shape).astype(images.dtype)
        ours = _ours(module, images, direction)
        training = _pooled(module.train()(x))
        (training * torch.tensor(direction)).sum().backward()
    buffers = dict(module.named_buffers())
    names = [name for name in ours["state"] if name in buffers]
    gradients = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
    zero = np.zeros(1)
    return Agreement(
        relative([ours["inference"]], [inference.numpy()]),
        relative([ours["training"]], [training.detach().numpy()]),
        relative([ours["state"][n] for n in names], [buffers[n].numpy() for n in names]),
        relative(
            [ours["gradient"][n] for n in gradients],
            [zero if g is None else g.numpy() for g in gradients.values()],
        ),
    )


def candidate(module: Any, name: str = "module") -> nnx.Module:
    """The candidate that is made of a module."""
    source = torch_models.InMemory(module, name)
    return torch_models.adapted(source, *torch_models.arrays_of(module), nnx.Rngs(0))


def _ours(module: Any, images: np.ndarray, direction: np.ndarray) -> dict[str, Any]:
    definition, params, state = functional.split(candidate(module))
    run = partial(functional.apply, definition)

    def loss(params: Any, state: Any, images: Any) -> Any:
        y, after = run(params, state, images, train=True)
        return jnp.sum(y * direction), (y, after)

    def everything(params: Any, state: Any, images: Any) -> dict[str, Any]:
        gradient, (y, after) = jax.grad(loss, has_aux=True)(params, state, images)
        inference, _ = run(params, state, images, train=False)
        found = {"inference": inference, "training": y, "gradient": gradient["params"]}
        return {**found, "state": after.get("state", {})}

    once = jax.jit(everything, compiler_options=effort.compiler_options("least"))
    found: dict[str, Any] = once(params, state, images)
    return found


def _pooled(y: Any) -> Any:
    return y.mean((2, 3)) if y.ndim == 4 else y


def relative(ours: list[Any], theirs: list[Any]) -> float:
    """The norm of the difference over the norm; NaN and infinity pass through."""
    difference = scale = 0.0
    for one, other in zip(ours, theirs, strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        difference += float(np.sum((one - other) ** 2))
        scale += float(np.sum(other**2))
    return float(np.sqrt(difference) / max(np.sqrt(scale), 1e-30))
