"""A state on disk: every kind of array bit for bit, in few blocks; damage and others refused."""

from __future__ import annotations

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax import distributed, errors
from ncap_jax.finetune import checkpoints
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.ops.dtypes import is_key


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


def blank(leaf):
    """As `leaf` in kind, nothing of its content."""
    if not is_key(leaf):
        return jnp.zeros_like(leaf)
    data = jnp.zeros_like(jax.random.key_data(leaf))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def bits(leaf):
    if is_key(leaf):
        return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes()
    return leaf.shape, leaf.dtype, np.asarray(leaf).tobytes()


@pytest.mark.parametrize("block", [1, 16, checkpoints.BLOCK])
def test_every_kind_of_array_comes_back(tmp_path, monkeypatch, block):
    monkeypatch.setattr(checkpoints, "BLOCK", block)
    store, saved = Checkpoints(tmp_path / "c"), tree()
    store.save(0, saved)
    found = store.restore(0, jax.tree.map(blank, saved))
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


def test_the_newest_alone_is_kept_until_all_are_removed(tmp_path):
    store = Checkpoints(tmp_path / "deep" / "c")
    assert store.latest() is None
    assert not store.folder.exists()
    for epoch in (0, 3):
        store.save(epoch, {"a": jnp.full(4, float(epoch))})
        assert store.latest() == epoch
    assert [path.name for path in store.folder.iterdir() if path.name.isdigit()] == ["3"]
    found = Checkpoints(tmp_path / "deep" / "c").restore(3, {"a": jnp.zeros(4)})
    np.testing.assert_array_equal(found["a"], np.full(4, 3.0))
    store.remove()
    store.remove()  # of nothing, no error
    assert store.latest() is None
    assert not store.folder.exists()


def refused(store, template):
    """The cause of the refusal of epoch 0; its remedy is always the same."""
    with pytest.raises(errors.CheckpointError) as error:
        store.restore(0, template)
    assert error.value.remedy == "Remove that folder: the model starts again"
    start = f"the checkpoint of epoch 0 in {store.folder} cannot be read: "
    assert error.value.cause.startswith(start)
    return error.value.cause.removeprefix(start)


def test_another_layout_of_as_many_bytes_is_refused(tmp_path):
    store = Checkpoints(tmp_path / "c")
    store.save(0, {"a": jnp.ones((2, 3))})
    assert refused(store, {"a": jnp.ones((3, 2))}) == "its checksum is wrong"


def test_a_damaged_checkpoint_is_refused(tmp_path):
    store = Checkpoints(tmp_path / "c")
    store.save(0, {"a": jnp.ones(3)})
    for file in store.folder.rglob("d/*"):
        file.write_bytes(b"")
    assert refused(store, {"a": jnp.ones(3)})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = Checkpoints(tmp_path / "file" / "c")
    with pytest.raises(errors.OutputError) as error:
        store.save(0, {"a": jnp.ones(3)})
    assert error.value.cause.startswith(
        f"cannot write a checkpoint to {store.folder}: [Errno {errno.ENOTDIR}]"
    )
    assert error.value.remedy == (
        "Free space or choose another output folder; the run resumes from the last checkpoint"
    )


def as_primary(patch):
    """This is the primary process of several; what it tells the others."""
    told = []
    several(patch, lambda value: told.append(value) or value, primary=True)
    return told


def as_other(patch, told):
    """This is another process, which is told so."""
    replay = iter(told)
    several(patch, lambda value: next(replay), primary=False)


def several(patch, broadcast, *, primary):
    patch.setattr(distributed, "is_distributed", lambda: True)
    patch.setattr(distributed, "is_primary", lambda: primary)
    patch.setattr(distributed, "broadcast_json", broadcast)
    patch.setattr(distributed, "broadcast_bytes", broadcast)


def test_of_several_processes_only_the_primary_one_sees_the_folder(tmp_path, monkeypatch):
    def act(folder):
        store = Checkpoints(folder)
        store.save(1, tree())
        assert store.latest() == 1
        return store.restore(1, jax.tree.map(blank, tree()))

    with monkeypatch.context() as patch:
        told = as_primary(patch)
        act(tmp_path / "c")
    with monkeypatch.context() as patch:
        as_other(patch, told)
        found = act(tmp_path / "elsewhere")
    assert list(map(bits, jax.tree.leaves(found))) == list(map(bits, jax.tree.leaves(tree())))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_damage_is_everyones(tmp_path, monkeypatch):
    def act(folder):
        store = Checkpoints(folder)
        with pytest.raises(errors.CheckpointError) as error:
            store.restore(0, {"a": jnp.ones((3, 2))})
        return error.value.cause, error.value.remedy

    Checkpoints(tmp_path / "c").save(0, {"a": jnp.ones((2, 3))})
    with monkeypatch.context() as patch:
        told = as_primary(patch)
        first = act(tmp_path / "c")
    with monkeypatch.context() as patch:
        as_other(patch, told)
        assert act(tmp_path / "elsewhere") == first
