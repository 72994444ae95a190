"""Reader of PyTorch checkpoints, through PyTorch's own weights-only loader.

A `.pth` file is a pickle: unpickling one runs whatever code it holds. PyTorch's weights-only
loader admits tensors and plain containers alone; nothing here unpickles without it.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from ncap_jax import errors

# Zip archives (PyTorch >= 1.6) and bare pickles (before).
SIGNATURES = (b"PK\x03\x04", b"\x80")
CONVERT = (
    'python -c "import sys, torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v '
    'in torch.load(sys.argv[1], weights_only=True).items()}, sys.argv[2])" in.pth out.safetensors'
)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, by PyTorch's names.

    A dictionary under `state_dict` is unwrapped, and so is the prefix `module.` that
    `DataParallel` leaves.

    Args:
        path: a `.pth` (`.pt`, `.th`) file.

    Returns:
        Arrays by name, such as `features.0.weight`.

    Raises:
        WeightsError: PyTorch is not installed, the file is damaged, or it holds more than tensors
            and plain containers (and might run code).
    """
    path = pathlib.Path(path)
    content = _load(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(_is_tensor(v) for v in content.values()):
        raise errors.WeightsError(
            f"{path} does not hold a dictionary of tensors",
            "Give a checkpoint of a model's state_dict",
        )
    return {name.removeprefix("module."): value.numpy() for name, value in content.items()}


def _load(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise errors.WeightsError(
            f"{path} is a PyTorch checkpoint, and PyTorch, which reads it safely, is not installed",
            "Run pip install 'ncap_jax[torch]', or convert the file on a machine that has "
            f"PyTorch: {CONVERT}",
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the damage leads to
        raise errors.WeightsError(
            f"{path} is damaged, or holds more than tensors: {str(error).splitlines()[0]}",
            "Download it again from its publisher; a checkpoint that needs full unpickling is "
            "refused",
        ) from error


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
