"""A state on disk: every kind of array bit for bit, in few blocks; other layouts refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.finetune import candidate, checkpoints


def tree():
    draw = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(draw.normal(size=(7, 5)), jnp.float32),
        "half": jnp.asarray(draw.normal(size=(3,)), jnp.bfloat16),
        "flag": jnp.asarray([True, False, True]),  # the arrays after it begin at odd bytes
        "count": jnp.asarray(3, jnp.int32),
        "empty": jnp.zeros((0, 4)),
        "keys": jax.random.split(jax.random.key(1), 2),
        "fast": jax.random.key(2, impl="rbg"),
    }


def bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes()
    return leaf.shape, leaf.dtype, np.asarray(leaf).tobytes()


@pytest.mark.parametrize("block", [1, 16, checkpoints.BLOCK])
def test_every_kind_of_array_comes_back(tmp_path, monkeypatch, block):
    monkeypatch.setattr(checkpoints, "BLOCK", block)
    store, saved = checkpoints.Checkpoints(tmp_path / "c"), tree()
    store.save(0, saved)
    found = store.restore(0, candidate.blank(saved))
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    assert list(map(bits, jax.tree.leaves(found))) == list(map(bits, jax.tree.leaves(saved)))


def test_hundreds_of_arrays_are_one_block():
    """Each array of its own would leak some memory for good (tensorstore's `to_json`)."""
    assert len(checkpoints._pack([jnp.ones(3)] * 300)) == 1 + len([checkpoints.CHECKSUM])


def test_a_block_holds_as_much_as_fits():
    size = checkpoints.BLOCK
    assert checkpoints._blocks([1, size - 1, 2, size + 5, 0, 3]) == [[0, 1], [2], [3, 4], [5]]
    assert checkpoints._blocks([0, size + 1, 1]) == [[0, 1], [2]]  # none without a byte
    assert checkpoints._blocks([]) == []


def test_another_layout_of_as_many_bytes_is_refused(tmp_path):
    store = checkpoints.Checkpoints(tmp_path / "c")
    store.save(0, {"a": jnp.ones((2, 3))})
    with pytest.raises(errors.CheckpointError, match="checksum"):
        store.restore(0, {"a": jnp.ones((3, 2))})
