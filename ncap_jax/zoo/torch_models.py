"""PyTorch modules as candidates: `from_torch`, and what `timm:` names are made of.

torchax runs a module's own code on arrays of JAX while JAX traces it; after that no PyTorch runs.
Parameters and buffers keep PyTorch's names. The module itself is a skeleton without weights, of
which all models of one architecture share one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from ncap_jax import errors
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.adapters import Adapted, Tree, make_spec

# A module's code runs on a skeleton that all its users share: one at a time.
_LOCK = threading.RLock()


class Source(Protocol):
    """Where a module comes from: hashable, equal where the architectures are, picklable."""

    @property
    def name(self) -> str:
        """For errors."""

    def build(self) -> Any:
        """The module, with the weights that it has."""

    def __hash__(self) -> int:
        """Equal for equal sources."""


@dataclass(frozen=True)
class InMemory:
    """A module that is in memory; equal where it is the same object."""

    module: Any
    name: str

    def build(self) -> Any:
        """A copy of it."""
        return copy.deepcopy(self.module)

    def __hash__(self) -> int:
        return id(self.module)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InMemory) and self.module is other.module


def import_torch(name: str) -> Any:
    """The package torch, if all that a PyTorch module needs is installed.

    Args:
        name: of the model that needs it.

    Raises:
        ModelError: it is not.
    """
    try:
        import timm
        import torch

        from ncap_jax.zoo import torch_operators
    except ImportError as error:
        raise errors.ModelError(
            f"{name} is a PyTorch model, and {error.name or 'a package that runs it'} is not "
            "installed",
            "Run pip install 'ncap_jax[timm]'",
        ) from error
    del timm, torch_operators
    return torch


@contextmanager
def drawing(seed: int = 0) -> Iterator[None]:
    """PyTorch draws from this seed, whatever other threads build, and goes on as before.

    Its generator belongs to the whole process, and models of a run are built beside one another.
    """
    import torch

    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def from_torch(
    module: Any,
    *,
    name: str,
    input_size: int,
    preprocessing: str = "torch",
    method: str = "forward",
) -> ModelSpec:
    """A PyTorch module that is in memory, with the weights it has, as a candidate.

    The module is copied: the original is never trained. Parameters with `requires_grad=False` stay
    as they are. Needs the extra `timm`.

    Args:
        module: any `torch.nn.Module`, the classifier taken off: `timm.create_model(...,
            num_classes=0)`, or `model.fc = torch.nn.Identity()`.
        name: in tables and file names.
        input_size: side of the square input in pixels.
        preprocessing: how uint8 pixels become input: a key of `ncap_jax.zoo.preprocess.MODES`, or
            a text as `ncap_jax.zoo.preprocess.Scaling.text` gives it.
        method: of the module; maps (batch, 3, height, width) to features (batch, width) or
            (batch, channels, height, width).

    Raises:
        ModelError: the extra is not installed; not a module; no such method; an operator that
            cannot be computed; or an output of another shape.
        WeightsError: a weight is not finite.
        ConfigError: unknown preprocessing.
    """
    torch = import_torch(name)
    if not isinstance(module, torch.nn.Module):
        raise errors.ModelError(
            f"a {type(module).__name__} is not a torch.nn.Module", "Give a PyTorch module"
        )
    if not callable(getattr(module, method, None)):
        raise errors.ModelError(
            f"{type(module).__name__} has no method {method!r}",
            "Name the method that returns the features",
        )
    source = InMemory(copy.deepcopy(module).cpu(), name)
    return make_spec(
        name,
        InMemoryBuilder(source, method, pretrained=False),
        InMemoryBuilder(source, method),
        input_size,
        preprocessing,
    )


@dataclass(frozen=True)
class InMemoryBuilder:
    """Builds the candidate of a module in memory."""

    source: InMemory
    method: str = "forward"
    pretrained: bool = True

    def __call__(self, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Module:
        """The module with the weights it has.

        Raises:
            ModelError: it was to be drawn at random.
        """
        if not self.pretrained:
            raise errors.ModelError(
                f"{self.source.name} is a module in memory, which cannot be drawn anew at random",
                "For a run from scratch, give a ModelSpec with a build function, or a timm: name",
            )
        params, state = arrays_of(self.source.build())
        return adapted(self.source, params, state, rngs, dtype, self.method)


def adapted(
    source: Source,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    method: str = "forward",
) -> Adapted:
    """A module with these arrays as a candidate."""
    compute = None if dtype is None else str(jnp.dtype(dtype))
    apply = TorchApply(source, method, compute)
    return Adapted(apply, jax.device_put(dict(params)), jax.device_put(dict(state)), rngs())


@dataclass(frozen=True)
class TorchApply:
    """A method of a PyTorch module as an `Apply`; equal where source and method are.

    Attributes:
        source: of the module.
        method: its name.
        dtype: compute dtype of parameters and images; None: that of the images.
        longest: momentum (of the old value) that no batch norm exceeds in training.
    """

    source: Source
    method: str = "forward"
    dtype: str | None = None
    longest: float = 1.0

    def __call__(
        self, params: Tree, state: Tree, x: jax.Array, key: jax.Array | None, *, training: bool
    ) -> tuple[jax.Array, Tree]:
        if self.dtype is not None:
            x = x.astype(self.dtype)
            params = {name: array.astype(self.dtype) for name, array in params.items()}
        images = jnp.transpose(x, (0, 3, 1, 2))
        with _LOCK, _named_errors(self.source.name):
            y, changed = self._run({**params, **state}, images, key, training=training)
        y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        if y.ndim == 4:
            y = jnp.transpose(y, (0, 2, 3, 1))
        return y, {name: changed[name] for name in state} if training else state

    def _run(
        self, arrays: Tree, images: jax.Array, key: jax.Array | None, *, training: bool
    ) -> tuple[jax.Array, Tree]:
        """The method's value, and all arrays after the call."""
        import torch
        from torch.nn.utils import stateless

        env, module = environment(), skeleton(self.source)
        module.train(training)
        wrapped = {name: env.wrap(jnp.asarray(array)) for name, array in arrays.items()}
        with (
            torch.no_grad(),
            env.override_property(prng=key),
            env,
            env.images,
            _momenta(module, self.longest),
            stateless._reparametrize_module(module, wrapped, tie_weights=True),
        ):
            y = getattr(module, self.method)(env.wrap(images))
            named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            after = {name: named[name].jax() for name in arrays}
        return _jax_array(y), after

    def limited(self, longest: float) -> TorchApply:
        """See `Apply`."""
        return dataclasses.replace(self, longest=longest)


def _jax_array(y: Any) -> Any:
    return y.jax() if hasattr(y, "jax") else y


@functools.cache
def environment() -> Any:
    """Where the operators compute; one a process."""
    from ncap_jax.zoo.torch_operators import Environment

    return Environment()


@functools.lru_cache(maxsize=256)
def skeleton(source: Source) -> Any:
    """The module without the values of its parameters and persistent buffers."""
    import torch

    module = source.build()
    names = {name for group in kept_names(module) for name in group}
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is None or prefix + name not in names:
                    continue
                empty = torch.empty_like(value, device="meta")
                fixed = isinstance(value, torch.nn.Parameter)
                table[name] = torch.nn.Parameter(empty, value.requires_grad) if fixed else empty
    return module


def kept_names(module: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the trainable parameters, and of what else belongs to the weights.

    Buffers that PyTorch does not save are not among them: they follow from the architecture.
    """
    trainable = [name for name, leaf in module.named_parameters() if leaf.requires_grad]
    saved = module.state_dict(keep_vars=True)
    aliases = {id(leaf): name for name, leaf in module.named_parameters()}
    other = [
        name
        for name, leaf in saved.items()
        if name not in trainable and aliases.get(id(leaf), name) == name
    ]
    return tuple(trainable), tuple(other)


def arrays_of(module: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters and state of a module as NumPy arrays, by PyTorch's names."""
    saved = module.state_dict()
    params, state = (
        {name: np.array(saved[name].cpu().numpy()) for name in names}
        for names in kept_names(module)
    )
    return params, state


@contextmanager
def _momenta(module: Any, longest: float) -> Iterator[None]:
    """Lend a module's batch norm a shorter memory: the skeleton is everybody's."""
    least = 1 - longest  # of the new value's weight, which is what PyTorch calls momentum
    found = [
        part
        for part in module.modules()
        if getattr(part, "running_mean", None) is not None and getattr(part, "momentum", None)
    ]
    own = [part.momentum for part in found]
    try:
        for part, momentum in zip(found, own):
            part.momentum = max(momentum, least)
        yield
    finally:
        for part, momentum in zip(found, own):
            part.momentum = momentum


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Errors that name the operator and the model."""
    from ncap_jax.zoo.torch_operators import OperatorError

    try:
        yield
    except OperatorError as error:
        raise errors.ModelError(
            f"{name} cannot run: {error}", "Choose another model; docs/models.md lists what works"
        ) from error
