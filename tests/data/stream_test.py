"""Streaming, memory, batch size and threads must not change what is seen, or in which order."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from ncap_jax import errors
from ncap_jax.data import batching, load_dataset, stream
from ncap_jax.data.feed import make_feed
from ncap_jax.data.images import gather


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """50 real digits as JPEG files of different sizes, in ten classes."""
    root = tmp_path_factory.mktemp("digits")
    digits = datasets.load_digits()
    for number in range(50):
        path = root / str(digits.target[number]) / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray((digits.images[number] * 15).astype(np.uint8))
        image.resize((16 + number % 5, 20)).save(path)
    return root


@pytest.fixture(scope="module")
def held(folder):
    return load_dataset(folder, stream=False)


@pytest.fixture(scope="module")
def streamed(folder):
    return load_dataset(folder, stream=True)


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
    for epoch in (1, 2):
        order = batching.epoch_batches(3, epoch, len(held.labels), 8)
        batches = stream.train_stream(
            streamed.images, streamed.labels, seed=3, epoch=epoch, batch_size=8, workers=workers
        )
        count = 0
        for batch, indices in zip(batches, order, strict=True):
            np.testing.assert_array_equal(batch.images, held.images[indices])
            np.testing.assert_array_equal(batch.labels, held.labels[indices])
            assert batch.mask.all()
            count += 1
        assert count == len(order)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 40])
def test_batch_size_does_not_change_the_epoch(held, batch_size):
    n = len(held.labels)
    arguments = {"seed": 0, "epoch": 4}
    reference = flatten(stream.train_stream(held.images, held.labels, batch_size=n, **arguments))
    other = flatten(
        stream.train_stream(held.images, held.labels, batch_size=batch_size, **arguments)
    )
    for one, two in zip(reference, other):
        np.testing.assert_array_equal(one, two[:n])


def test_resuming_gives_the_rest_of_the_epoch(streamed):
    arguments = {"seed": 1, "epoch": 2, "batch_size": 8}
    whole = list(stream.train_stream(streamed.images, streamed.labels, **arguments))
    for step in (0, 1, 3, len(whole)):
        rest = list(
            stream.train_stream(streamed.images, streamed.labels, start_step=step, **arguments)
        )
        assert len(rest) == len(whole) - step
        for one, two in zip(whole[step:], rest, strict=True):
            np.testing.assert_array_equal(one.images, two.images)
            np.testing.assert_array_equal(one.labels, two.labels)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_evaluation_counts_every_sample_once(streamed, held, batch_size):
    images, labels = streamed.validation_images, streamed.validation_labels
    batches = list(stream.evaluation_stream(images, labels, batch_size=batch_size))
    assert {len(batch.labels) for batch in batches} == {batch_size}, "one shape, one compilation"
    seen = flatten(batches)
    np.testing.assert_array_equal(seen[0], held.validation_images)
    np.testing.assert_array_equal(seen[1], held.validation_labels)


def test_batches_are_on_the_device(streamed):
    batch = next(stream.evaluation_stream(streamed.images, streamed.labels, batch_size=4))
    assert all(isinstance(array, jax.Array) for array in batch)
    assert batch.images.dtype == np.uint8
    assert batch.labels.dtype == np.int32


def test_a_stream_may_be_abandoned(streamed):
    for _ in range(3):
        next(stream.train_stream(streamed.images, streamed.labels, seed=0, epoch=0, batch_size=2))


def test_impossible_streams(streamed):
    arguments = {"seed": 0, "epoch": 0, "batch_size": 8}
    with pytest.raises(errors.ConfigError, match="0 decoding threads"):
        next(stream.train_stream(streamed.images, streamed.labels, workers=0, **arguments))
    for step in (-1, 99):
        with pytest.raises(errors.ConfigError, match="start_step"):
            stream.train_stream(streamed.images, streamed.labels, start_step=step, **arguments)


def test_a_file_that_vanishes_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    loaded = load_dataset(tmp_path, stream=True)
    (tmp_path / "a" / "0.png").unlink()
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(errors.DataError, match=r"png: No such file"):
        list(stream.train_stream(loaded.images, loaded.labels, seed=0, epoch=0, batch_size=2))


def samples(chunks):
    """What a step would see: images and labels looked up by each chunk's indices."""
    images, labels, steps = [], [], 0
    for chunk in chunks:
        for indices, mask in zip(np.asarray(chunk.indices), np.asarray(chunk.mask)):
            images.append(np.asarray(chunk.images)[indices[mask]])
            labels.append(np.asarray(chunk.labels)[indices[mask]])
            steps += 1
    return np.concatenate(images), np.concatenate(labels), steps


@pytest.mark.parametrize("start_step", [0, 2])
def test_feeds_are_interchangeable(held, streamed, start_step):
    feeds = make_feed(held), make_feed(streamed, workers=2)
    assert feeds[0].num_classes == feeds[1].num_classes == 10
    np.testing.assert_array_equal(feeds[0].labels, feeds[1].labels)
    for results in (
        [samples(feed.train(5, 1, 8, start_step)) for feed in feeds],
        [samples(feed.validation(8)) for feed in feeds],
    ):
        for one, two in zip(*results):
            np.testing.assert_array_equal(one, two)
    chosen = np.array([0, 3, 17], np.int32)
    for one, two in zip(*(feed.subset(chosen) for feed in feeds)):
        assert isinstance(one, jax.Array)
        np.testing.assert_array_equal(one, two)


def test_resident_feed_is_one_chunk(held):
    feed = make_feed(held)
    assert len(list(feed.train(0, 0, 8))) == 1
    assert list(feed.train(0, 0, 8, start_step=5)) == [], "nothing left of the epoch"


def test_gather_from_arrays_and_stores(held, streamed):
    chosen = np.array([5, 1, 1])
    np.testing.assert_array_equal(gather(streamed.images, chosen), gather(held.images, chosen))


@pytest.mark.slow
@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="accelerators reorder the sums of a gradient"
)
def test_training_does_not_notice(folder):
    """Fine-tuning from memory and from a stream: the same losses to the last bit."""
    from ncap_jax import rank_models
    from ncap_jax.types import DataConfig, RankConfig

    seen = []
    for streaming in (False, True):
        ranking = rank_models(
            ["tiny_inverted"],
            folder,
            RankConfig(epochs=2, batch_size=16),
            data_config=DataConfig(stream=streaming),
            show_progress=False,
        )
        records = ranking.trajectories[0].records
        seen.append([(r.train_loss, r.running_loss, r.validation_loss) for r in records])
    assert seen[0] == seen[1]
