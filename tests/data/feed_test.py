"""What every feed keeps to, wherever its images live."""

import jax
import numpy as np
import pytest

from ncap_jax.data import batching
from ncap_jax.data.feed import Chunk
from ncap_jax.data.feeding import make_feed


@pytest.fixture(params=["held", "streamed"])
def feed(request):
    return make_feed(request.getfixturevalue(request.param))


def samples(chunks):
    """What a step would see: images and labels looked up by each chunk's indices."""
    images, labels, steps = [], [], 0
    for chunk in chunks:
        assert isinstance(chunk, Chunk)
        assert isinstance(chunk.images, jax.Array)
        assert isinstance(chunk.labels, jax.Array)
        # On the host: on the device they would be cut into steps by programs of their own.
        assert isinstance(chunk.indices, np.ndarray)
        assert isinstance(chunk.mask, np.ndarray)
        assert chunk.images.dtype == np.uint8
        assert chunk.labels.dtype == chunk.indices.dtype == np.int32
        assert chunk.mask.dtype == bool
        assert chunk.indices.shape == chunk.mask.shape
        for indices, mask in zip(np.asarray(chunk.indices), np.asarray(chunk.mask)):
            images.append(np.asarray(chunk.images)[indices[mask]])
            labels.append(np.asarray(chunk.labels)[indices[mask]])
            steps += 1
    return np.concatenate(images), np.concatenate(labels), steps


@pytest.mark.parametrize("start_step", [0, 2])
def test_an_epoch_follows_the_order_of_batching(feed, held, start_step):
    order = batching.epoch_batches(5, 1, len(held.labels), 8, start_step)
    images, labels, steps = samples(feed.train(5, 1, 8, start_step))
    assert steps == len(order)
    np.testing.assert_array_equal(images, held.images[order.ravel()])
    np.testing.assert_array_equal(labels, held.labels[order.ravel()])


def test_nothing_is_left_after_the_last_step(feed, held):
    assert list(feed.train(0, 0, 8, batching.steps_per_epoch(len(held.labels), 8))) == []


def test_validation_counts_every_sample_once(feed, held):
    images, labels, steps = samples(feed.validation(8))
    assert steps == -(-len(held.validation_labels) // 8)
    np.testing.assert_array_equal(images, held.validation_images)
    np.testing.assert_array_equal(labels, held.validation_labels)


def test_a_subset_is_on_the_device(feed, held):
    chosen = np.array([0, 3, 17], np.int32)
    images, labels = feed.subset(chosen)
    assert isinstance(images, jax.Array)
    assert isinstance(labels, jax.Array)
    np.testing.assert_array_equal(images, held.images[chosen])
    np.testing.assert_array_equal(labels, held.labels[chosen])


def test_labels_and_classes(feed, held):
    np.testing.assert_array_equal(feed.labels, held.labels)
    assert feed.num_classes == 10
