import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.feeding import make_feed


def test_a_resident_set_is_one_chunk_an_epoch(held):
    feed = make_feed(held)
    (train,), (validation,) = feed.train(0, 0, 8), feed.validation(8)
    assert train.images.shape == held.images.shape
    assert train.indices.shape == (5, 8)
    assert train.mask.all()
    assert validation.images.shape == held.validation_images.shape
    again = next(iter(feed.train(0, 1, 8)))
    assert again.images is train.images, "the images are sent to the device once"


def test_an_accelerator_takes_a_subset_of_the_images_that_it_has(held, monkeypatch):
    feed, indices = make_feed(held), np.array([7, 0, 3, 7])
    on_the_cpu = feed.subset(indices)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_put", None)  # nothing is sent again
    for found, wanted, whole in zip(
        feed.subset(indices), on_the_cpu, (held.images, held.labels), strict=True
    ):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(found, np.asarray(whole)[indices])


def test_a_streamed_set_is_one_chunk_a_step(streamed):
    feed = make_feed(streamed, workers=2)
    chunks = [*feed.train(0, 0, 8), *feed.validation(8)]
    assert len(chunks) == 5 + 2
    for chunk in chunks:
        assert chunk.images.shape[0] == 8
        np.testing.assert_array_equal(chunk.indices, np.arange(8)[None])
    assert np.asarray(chunks[-1].mask).sum() == 10 - 8


def test_threads_are_checked_where_they_are_used(held, streamed):
    assert make_feed(held, workers=0).num_classes == 10
    with pytest.raises(errors.ConfigError) as caught:
        next(make_feed(streamed, workers=0).train(0, 0, 8))
    assert str(caught.value) == "workers=0. Use at least 1 decoding thread."
