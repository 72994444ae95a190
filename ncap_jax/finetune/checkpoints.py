"""A candidate's state on disk after every epoch, so that a killed run resumes where it was.

Orbax writes each checkpoint beside the last one and renames it into place: at any moment there
is a whole one or none. Only the newest is kept. A checksum of the arrays is kept with them: the
file format itself would let a changed byte pass.

The bytes of a model's hundreds of arrays are concatenated and written as a few blocks. Written one
by one, each array would cost Orbax a millisecond and leak some 300 bytes of memory: its
`KvStore.Spec.to_json` is never freed (tensorstore 0.1.86).

Of several processes (`ncap_jax.distributed`) only the primary one uses Orbax: each of them holds
the whole state, and those on other machines may not see the folder. A state that is read back is
broadcast from the primary process.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import zlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ncap_jax import distributed, errors
from ncap_jax.ops.dtypes import is_key

CHECKSUM = "crc32"
# Size of a block in bytes; a larger array gets a block of its own. Blocks are compressed and
# written in parallel.
BLOCK = 16 << 20


class Checkpoints:
    """The checkpoints of one candidate.

    With several processes, all of them call every method, in the same order; it returns the same
    value, or raises the same error, in each.

    Args:
        folder: of this candidate only; created when the first checkpoint is saved.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder).absolute()

    def save(self, epoch: int, tree: Any) -> None:
        """Keep `tree` (any pytree of arrays, random keys too) as the state after `epoch`.

        Raises:
            OutputError: the folder cannot be written.
        """
        distributed.on_primary(partial(self._save, epoch, tree))

    def latest(self) -> int | None:
        """The epoch of the newest whole checkpoint, or None.

        Raises:
            CheckpointError: the folder is damaged.
        """
        return distributed.on_primary(self._latest)

    def restore(self, epoch: int, template: Any) -> Any:
        """The state after `epoch`, in the structure and dtypes of `template`.

        Raises:
            CheckpointError: the checkpoint is damaged or of another model.
        """
        restored = template  # of the same layout, where the state is yet to be received

        def read() -> None:
            nonlocal restored
            restored = self._restore(epoch, template)

        distributed.on_primary(read)
        if not distributed.is_distributed():
            return restored
        blocks = _in_blocks(restored)
        sent = {name: distributed.broadcast_bytes(block) for name, block in blocks.items()}
        return _unpack(sent, template)

    def remove(self) -> None:
        """Delete all checkpoints of this candidate: it is finished, or starts again."""
        distributed.on_primary(partial(shutil.rmtree, self.folder, ignore_errors=True))

    def _save(self, epoch: int, tree: Any) -> None:
        import orbax.checkpoint as ocp

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._manager() as manager:
                manager.save(epoch, args=ocp.args.StandardSave(_pack(tree)))
        except (OSError, ValueError) as error:
            raise errors.OutputError(
                f"cannot write a checkpoint to {self.folder}: {error}",
                "Free space or choose another output folder; the run resumes from the last "
                "checkpoint",
            ) from error

    def _latest(self) -> int | None:
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

    def _restore(self, epoch: int, template: Any) -> Any:
        import orbax.checkpoint as ocp

        try:
            expected = _expected(template)
            with self._manager() as manager:
                found = manager.restore(epoch, args=ocp.args.StandardRestore(expected))
            checksum = found.pop(CHECKSUM)
            if checksum != _checksum(found, template):
                raise ValueError("its checksum is wrong")
            return _unpack(found, template)
        except Exception as error:  # orbax has no error class of its own for damage
            raise errors.CheckpointError(
                f"the checkpoint of epoch {epoch} in {self.folder} cannot be read: {error}",
                "Remove that folder: the model starts again",
            ) from error

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            enable_async_checkpointing=False,
            # Otherwise every call waits at a barrier for all processes. With active_processes
            # Orbax does not create the folder: `save` does.
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        return ocp.CheckpointManager(self.folder, options=options)


def _pack(tree: Any) -> dict[str, np.ndarray]:
    """The blocks of a tree by number, and a checksum."""
    blocks = _in_blocks(tree)
    return {**blocks, CHECKSUM: _checksum(blocks, tree)}


def _in_blocks(tree: Any) -> dict[str, np.ndarray]:
    """The leaves' bytes in a row, cut between leaves: blocks by number, (n,) uint8."""
    leaves = [_bytes(leaf) for leaf in jax.tree.leaves(tree)]
    return {
        str(number): np.concatenate([leaves[place] for place in places])
        for number, places in enumerate(_blocks([leaf.size for leaf in leaves]))
    }


def _expected(template: Any) -> dict[str, np.ndarray]:
    """What `_pack` returns for such a tree, with arbitrary content."""
    sizes = [_raw(leaf).nbytes for leaf in jax.tree.leaves(template)]
    blocks = {
        str(number): np.empty(sum(sizes[place] for place in places), np.uint8)
        for number, places in enumerate(_blocks(sizes))
    }
    return {**blocks, CHECKSUM: np.empty((), np.uint32)}


def _blocks(sizes: list[int]) -> list[list[int]]:
    """Which leaves, of these sizes in bytes, go into which block: as many as it holds."""
    blocks: list[list[int]] = []
    used = 0
    for place, size in enumerate(sizes):
        # Orbax refuses an empty block: an empty array joins its neighbour's.
        if not blocks or (used and size and used + size > BLOCK):
            blocks.append([])
            used = 0
        blocks[-1].append(place)
        used += size
    return blocks


def _unpack(blocks: dict[str, np.ndarray], template: Any) -> Any:
    """The tree of `_in_blocks`; the structure, shapes and dtypes come from the template."""
    leaves, structure = jax.tree.flatten(template)
    raw = [_raw(leaf) for leaf in leaves]
    restored: list[Any] = [None] * len(leaves)
    for number, places in enumerate(_blocks([values.nbytes for values in raw])):
        start = 0
        for place in places:
            like = raw[place]
            cut = blocks[str(number)][start : start + like.nbytes]
            restored[place] = _as(leaves[place], cut.view(like.dtype).reshape(like.shape))
            start += like.nbytes
    return jax.tree.unflatten(structure, restored)


def _raw(leaf: Any) -> np.ndarray:
    """A leaf on the host, a random key as its integers."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _bytes(leaf: Any) -> np.ndarray:
    """(n,) uint8: the bytes of a leaf, not copied if they lie in a row."""
    return np.ascontiguousarray(_raw(leaf)).reshape(-1).view(np.uint8)


def _checksum(blocks: dict[str, np.ndarray], tree: Any) -> np.ndarray:
    """CRC-32 over shapes and dtypes, and the bytes of all blocks in their order; () uint32."""
    layout = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
    value = zlib.crc32(repr(layout).encode())
    for number in range(len(blocks)):
        value = zlib.crc32(np.ascontiguousarray(blocks[str(number)]).data, value)
    return np.asarray(value, np.uint32)


def _as(leaf: Any, value: np.ndarray) -> jax.Array:
    # A copy: an array that shared the block's memory would keep the whole block.
    array = jnp.array(value, copy=True)
    return (
        jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_key(leaf) else array
    )
