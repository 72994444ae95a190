from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncap_jax import errors
from ncap_jax.data import batching

sizes = st.tuples(st.integers(1, 60), st.integers(1, 20))


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_an_epoch_is_a_permutation_filled_up(sizes, seed, epoch):
    n, batch_size = sizes
    batches = batching.epoch_batches(seed, epoch, n, batch_size)
    assert batches.shape == (batching.steps_per_epoch(n, batch_size), min(batch_size, n))
    assert batches.dtype == np.int32
    flat = batches.ravel()
    assert sorted(flat[:n]) == list(range(n))
    np.testing.assert_array_equal(flat[n:], flat[: len(flat) - n])


@settings(max_examples=60, deadline=None)
@given(sizes=sizes)
def test_evaluation_counts_every_sample_once(sizes):
    n, batch_size = sizes
    indices, mask = batching.padded_batches(n, batch_size)
    assert indices.shape == mask.shape == (-(-n // batch_size), batch_size)
    assert indices.dtype == np.int32
    assert mask.dtype == bool
    assert indices[mask].tolist() == list(range(n))
    assert indices.min() >= 0
    assert indices.max() < n


def test_batch_size_does_not_change_the_order():
    orders = [batching.epoch_batches(5, 2, 120, size).ravel() for size in (1, 8, 24, 120)]
    for order in orders[1:]:
        np.testing.assert_array_equal(order, orders[0])


def test_every_epoch_and_seed_has_its_own_order():
    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    orders = {tuple(batching.epoch_batches(*key, 50, 10).ravel()) for key in keys}
    assert len(orders) == len(keys)


@pytest.mark.parametrize(("n", "batch_size"), [(0, 4), (4, 0)])
@pytest.mark.parametrize(
    "function", [batching.steps_per_epoch, batching.padded_batches, "epoch_batches"]
)
def test_impossible_sizes_are_errors(function, n, batch_size):
    if function == "epoch_batches":
        function = partial(batching.epoch_batches, 0, 0)
    with pytest.raises(errors.ConfigError) as caught:
        function(n, batch_size)
    assert str(caught.value) == (
        f"cannot make batches of {batch_size} out of {n} samples. Both must be at least 1."
    )


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_errors(seed, epoch):
    with pytest.raises(errors.ConfigError) as caught:
        batching.epoch_batches(seed, epoch, 4, 2)
    assert str(caught.value) == f"seed={seed}, epoch={epoch}. Give numbers of at least 0."


@pytest.mark.parametrize("start_step", [-1, 4])
def test_steps_outside_the_epoch_are_errors(start_step):
    assert len(batching.epoch_batches(0, 0, 9, 3, start_step=3)) == 0
    with pytest.raises(errors.ConfigError) as caught:
        batching.epoch_batches(0, 0, 9, 3, start_step)
    assert str(caught.value) == f"start_step={start_step}. Give a step from 0 to 3."


def test_resuming_gives_the_rest_of_the_epoch():
    whole = batching.epoch_batches(1, 2, 50, 8)
    for step in range(len(whole) + 1):
        rest = batching.epoch_batches(1, 2, 50, 8, start_step=step)
        np.testing.assert_array_equal(rest, whole[step:])
