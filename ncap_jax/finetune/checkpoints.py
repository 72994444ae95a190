"""A candidate's state on disk after every epoch, so that a killed run goes on where it was.

Orbax writes each checkpoint beside the last one and renames it into place: at any moment there
is a whole one or none. Only the newest is kept. A checksum of the arrays is kept with them: the
file format itself would let a changed byte pass.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import errors

CHECKSUM = "crc32"


class Checkpoints:
    """The checkpoints of one candidate.

    Args:
        folder: of this candidate alone; made when the first one is saved.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder).absolute()

    def save(self, epoch: int, tree: Any) -> None:
        """Keep `tree` (any pytree of arrays, random keys too) as the state after `epoch`.

        Raises:
            OutputError: the folder cannot be written.
        """
        import orbax.checkpoint as ocp

        try:
            with self._manager() as manager:
                manager.save(epoch, args=ocp.args.StandardSave(_with_checksum(_flat(tree))))
        except (OSError, ValueError) as error:
            raise errors.OutputError(
                f"cannot write a checkpoint to {self.folder}: {error}",
                "Free space or choose another output folder; the run goes on from the last one",
            ) from error

    def latest(self) -> int | None:
        """The epoch of the newest whole checkpoint, or None.

        Raises:
            CheckpointError: the folder is damaged.
        """
        if not self.folder.is_dir():
            return None
        try:
            with self._manager() as manager:
                return manager.latest_step()
        except Exception as error:  # orbax has no error class of its own for damage
            raise errors.CheckpointError(
                f"the checkpoints in {self.folder} cannot be read: {error}",
                "Remove that folder: the model starts again",
            ) from error

    def restore(self, epoch: int, template: Any) -> Any:
        """The state after `epoch`, in the structure and dtypes of `template`.

        Raises:
            CheckpointError: the checkpoint is damaged or of another model.
        """
        import orbax.checkpoint as ocp

        leaves, structure = jax.tree.flatten(template)
        try:
            expected = _with_checksum(_flat(template))
            with self._manager() as manager:
                found = manager.restore(epoch, args=ocp.args.StandardRestore(expected))
            checksum = found.pop(CHECKSUM)
            if checksum != _checksum(found):
                raise ValueError("its checksum is wrong")
        except Exception as error:  # orbax has no error class of its own for damage
            raise errors.CheckpointError(
                f"the checkpoint of epoch {epoch} in {self.folder} cannot be read: {error}",
                "Remove that folder: the model starts again",
            ) from error
        restored = [_like(leaf, found[str(number)]) for number, leaf in enumerate(leaves)]
        return jax.tree.unflatten(structure, restored)

    def remove(self) -> None:
        """Delete all checkpoints of this candidate: it is finished, or starts again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder, options=options)


def _flat(tree: Any) -> dict[str, np.ndarray]:
    """Leaves by number: the structure comes from the template, random keys as their integers."""
    return {
        str(number): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for number, leaf in enumerate(jax.tree.leaves(tree))
    }


def _with_checksum(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**arrays, CHECKSUM: _checksum(arrays)}


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """CRC-32 over the bytes of all arrays, in the order of their numbers; () uint32."""
    value = 0
    for number in range(len(arrays)):
        contents = np.ascontiguousarray(arrays[str(number)]).reshape(-1).view(np.uint8).data
        value = zlib.crc32(contents, value)
    return np.asarray(value, np.uint32)


def _like(leaf: Any, value: np.ndarray) -> jax.Array:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    return jnp.asarray(value, leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
