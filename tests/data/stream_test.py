"""Streaming, memory and threads must not change what is seen, or in which order."""

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data import batching, load_dataset
from ncap_jax.data.stream import stream_batches
from tests.support.photos import write_class


def epoch(dataset, *, number=0, batch_size=8, start_step=0, **options):
    """One training epoch of a data set as a stream."""
    order = batching.epoch_batches(3, number, len(dataset.labels), batch_size, start_step)
    return stream_batches(dataset.images, dataset.labels, order, **options)


def flatten(batches):
    """The samples of some batches, in order, padding left out."""
    images, labels = [], []
    for batch in batches:
        mask = np.asarray(batch.mask)
        images.append(np.asarray(batch.images)[mask])
        labels.append(np.asarray(batch.labels)[mask])
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_stream_equals_memory_for_any_number_of_workers(held, streamed, workers):
    for number in (1, 2):
        order = batching.epoch_batches(3, number, len(held.labels), 8)
        batches = epoch(streamed, number=number, workers=workers)
        for batch, indices in zip(batches, order, strict=True):
            np.testing.assert_array_equal(batch.images, held.images[indices])
            np.testing.assert_array_equal(batch.labels, held.labels[indices])
            assert batch.mask.all()


@pytest.mark.parametrize("batch_size", [1, 7, 20, 40])
def test_batch_size_does_not_change_the_epoch(held, batch_size):
    n = len(held.labels)
    reference = flatten(epoch(held, batch_size=n))
    other = flatten(epoch(held, batch_size=batch_size))
    for one, two in zip(reference, other):
        np.testing.assert_array_equal(one, two[:n])


@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_a_stream_resumes_at_any_step(streamed, step):
    whole = list(epoch(streamed))
    rest = list(epoch(streamed, start_step=step))
    assert len(rest) == len(whole) - step
    for one, two in zip(whole[step:], rest, strict=True):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_evaluation_counts_every_sample_once(streamed, held, batch_size):
    images, labels = streamed.validation_images, streamed.validation_labels
    order = batching.padded_batches(len(labels), batch_size)
    batches = list(stream_batches(images, labels, *order))
    assert {len(batch.labels) for batch in batches} == {batch_size}, "one shape, one compilation"
    seen = flatten(batches)
    np.testing.assert_array_equal(seen[0], held.validation_images)
    np.testing.assert_array_equal(seen[1], held.validation_labels)


def test_batches_are_on_the_device(streamed):
    batch = next(epoch(streamed, batch_size=4))
    assert all(isinstance(array, jax.Array) for array in batch)
    assert batch.images.dtype == np.uint8
    assert batch.labels.dtype == np.int32
    assert batch.mask.dtype == bool


def test_a_stream_may_be_abandoned(streamed):
    for _ in range(3):
        next(epoch(streamed, batch_size=2))


def test_a_stream_needs_a_thread(streamed):
    with pytest.raises(errors.ConfigError) as caught:
        epoch(streamed, workers=0)
    assert str(caught.value) == "workers=0. Use at least 1 decoding thread."


def test_a_file_that_vanishes_is_named(tmp_path):
    for name in ("a", "b"):
        write_class(tmp_path / name, 3)
    loaded = load_dataset(tmp_path, stream=True)
    for path in tmp_path.glob("a/*"):
        path.unlink()
    with pytest.raises(errors.DataError) as caught:
        list(epoch(loaded, batch_size=2))
    path, reason = caught.value.cause.split(": ")
    assert path.startswith(str(tmp_path / "a"))
    assert reason == "No such file or directory"
    assert caught.value.remedy.endswith("Restore it, or start the run again")


def test_a_file_that_changes_is_named(tmp_path):
    """Through grain's threads, as an error of its own kind, which ends the run."""
    for name in ("a", "b"):
        write_class(tmp_path / name, 3)
    loaded = load_dataset(tmp_path, stream=True)
    assert len(list(epoch(loaded, batch_size=2))) == 2
    write_class(tmp_path / "a", 3, size=(10, 12))
    with pytest.raises(errors.ChangedDataError) as caught:
        list(epoch(loaded, batch_size=2))
    assert caught.value.cause.startswith(str(tmp_path / "a"))
    assert caught.value.cause.endswith(".png has changed since the run began")


@pytest.mark.slow
@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="accelerators reorder the sums of a gradient"
)
def test_training_does_not_notice(digit_files):
    """Fine-tuning from memory and from a stream: the same losses to the last bit."""
    from ncap_jax import rank_models
    from ncap_jax.options import DataConfig, RankConfig

    losses = []
    for streaming in (False, True):
        ranking = rank_models(
            ["tiny_inverted"],
            digit_files,
            RankConfig(epochs=2, batch_size=16),
            data_config=DataConfig(stream=streaming),
            show_progress=False,
        )
        records = ranking.trajectories[0].records
        losses.append(
            [
                (r.train_loss, r.running_loss, r.validation_loss, r.validation_counts)
                for r in records
            ]
        )
    assert losses[0] == losses[1]
