"""A candidate's state on disk after every epoch, so that a killed run goes on where it was.

Orbax writes each checkpoint beside the last one and renames it into place: at any moment there
is a whole one or none. Only the newest is kept. A checksum of the arrays is kept with them: the
file format itself would let a changed byte pass.

A model's hundreds of arrays are written as the few blocks of bytes that they make in a row. Each
array of its own would cost Orbax a millisecond, and some 300 bytes of memory for good: its
`KvStore.Spec.to_json` is never freed (tensorstore 0.1.86).

Of several processes the first alone uses Orbax: the state is whole on each of them, and those of
other machines may not see the folder. A state that is read back is broadcast from there.
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

from ncap_jax import errors
from ncap_jax.finetune import parallel

CHECKSUM = "crc32"
# Bytes of a block, but for a larger array, which is one of its own. Blocks are compressed and
# written side by side.
BLOCK = 16 << 20


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
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._manager() as manager:
                manager.save(epoch, args=ocp.args.StandardSave(_pack(tree)))
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

    def remove(self) -> None:
        """Delete all checkpoints of this candidate: it is finished, or starts again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            enable_async_checkpointing=False,
            # Otherwise every call waits at a barrier for all processes. With some of them alone
            # Orbax does not make the folder: `save` does.
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}
            ),
        )
        return ocp.CheckpointManager(self.folder, options=options)


class SharedCheckpoints(Checkpoints):
    """The checkpoints of one candidate for several processes, of which the first has the folder.

    Every method is called by all of them, in the same order. It returns the same in each, or
    raises the same: see `parallel.first_does`.
    """

    def save(self, epoch: int, tree: Any) -> None:
        """See `Checkpoints.save`; `tree` is whole on the devices of every process."""
        parallel.first_does(partial(super().save, epoch, tree))

    def latest(self) -> int | None:
        """See `Checkpoints.latest`."""
        return parallel.first_does(super().latest)

    def restore(self, epoch: int, template: Any) -> Any:
        """See `Checkpoints.restore`; the arrays lie on the first device of each process."""
        load = partial(super().restore, epoch, template)
        tree = template  # stands for the state where there is none: of the same layout

        def read() -> None:
            nonlocal tree
            tree = load()

        parallel.first_does(read)
        blocks = {name: parallel.broadcast(block) for name, block in _in_blocks(tree).items()}
        return _unpack(blocks, template)

    def remove(self) -> None:
        """See `Checkpoints.remove`."""
        parallel.first_does(super().remove)


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
    """What `_pack` makes of such a tree, its content not filled in."""
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
        # Orbax takes no block without a byte: an array without one goes along with another.
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
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


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
        jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array
    )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
