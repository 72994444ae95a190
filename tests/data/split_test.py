import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncap_jax import errors
from ncap_jax.data import split

labels_strategy = st.lists(st.integers(0, 6), min_size=2, max_size=80).map(np.array)


@settings(max_examples=100, deadline=None)
@given(labels=labels_strategy, data=st.data())
def test_subset_is_exact_distinct_and_stratified(labels, data):
    size = data.draw(st.integers(1, len(labels)))
    chosen = split.stratified_subset(labels, size, seed=3)
    assert chosen.dtype == np.int32
    assert len(np.unique(chosen)) == size
    assert (np.diff(chosen) > 0).all()
    counts = np.bincount(labels)
    shares = np.bincount(labels[chosen], minlength=len(counts))
    assert (shares <= counts).all()
    if size >= np.count_nonzero(counts):
        assert (shares[counts > 0] >= 1).all()
    else:
        # Without the guarantee of one of each, the largest remainder is within one of the ideal.
        assert (np.abs(shares - size * counts / len(labels)) < 1).all()


@settings(max_examples=100, deadline=None)
@given(labels=labels_strategy, data=st.data())
def test_split_partitions_and_keeps_every_class(labels, data):
    room = len(labels) - len(np.unique(labels))
    if room < 1:
        with pytest.raises(errors.ConfigError) as caught:
            split.stratified_split(labels, 1, seed=0)
        assert caught.value.remedy == "Give more samples, so that every class stays in training"
        return
    size = data.draw(st.integers(1, room))
    left, split_off = split.stratified_split(labels, size, seed=1)
    assert len(split_off) == size
    np.testing.assert_array_equal(
        np.sort(np.concatenate([left, split_off])), np.arange(len(labels))
    )
    assert set(labels[left]) == set(labels)


@settings(max_examples=50, deadline=None)
@given(labels=labels_strategy, leave=st.integers(1, 2), fraction=st.floats(0.01, 0.3))
def test_every_class_keeps_enough_of_what_is_set_aside(labels, leave, fraction):
    counts = np.bincount(labels)
    givers = np.flatnonzero(counts > leave)
    wanted = max(round(fraction * len(labels)), len(givers))
    if not 1 <= wanted <= np.maximum(counts - leave, 0).sum():
        with pytest.raises(errors.ConfigError):
            split.split_for_test(labels, fraction, 1, leave=leave)
        return
    left, test = split.split_for_test(labels, fraction, 1, leave=leave)
    np.testing.assert_array_equal(np.sort(np.concatenate([left, test])), np.arange(len(labels)))
    assert len(test) == wanted
    assert set(labels[test]) == set(givers), "no class that can give one goes without"
    assert (np.bincount(labels[left], minlength=len(counts)) >= np.minimum(counts, leave)).all()


def test_what_is_set_aside_is_another_draw_than_validation():
    labels = np.arange(400) % 4
    _, test = split.split_for_test(labels, 0.25, 7, leave=2)
    _, validation = split.stratified_split(labels, 100, 7)
    # Of 100 independent draws out of 400, 25 are expected in common, with a deviation of 4.
    assert 9 <= len(np.intersect1d(test, validation)) <= 41


def test_balanced_classes_are_split_evenly():
    labels = np.repeat(np.arange(5), 20)
    left, split_off = split.stratified_split(labels, 25, seed=0)
    assert np.bincount(labels[split_off]).tolist() == [5] * 5
    assert np.bincount(labels[left]).tolist() == [15] * 5


def test_seed_decides():
    labels = np.arange(200) % 4
    first, again, other = (split.stratified_subset(labels, 50, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_order_of_a_class_does_not_depend_on_the_other_labels():
    """Renaming the classes changes nothing: the draw looks at membership only."""
    labels = np.arange(60) % 3
    np.testing.assert_array_equal(
        split.stratified_subset(labels, 30, 0), split.stratified_subset(labels * 7 + 2, 30, 0)
    )


def test_measurement_subset_is_not_the_validation_draw():
    labels = np.arange(100) % 2
    measured = split.measurement_subset(labels, 40, seed=0)
    assert len(measured) == 40
    assert not np.array_equal(measured, split.stratified_subset(labels, 40, seed=0))
    assert len(split.measurement_subset(labels, 1000, seed=0)) == 100


@pytest.mark.parametrize("size", [0, -1])
def test_empty_subset_is_an_error(size):
    with pytest.raises(errors.ConfigError) as caught:
        split.stratified_subset(np.arange(4), size, seed=0)
    assert str(caught.value) == f"a subset cannot have {size} samples. Ask for at least 1."


def test_split_that_would_empty_a_class_is_an_error():
    with pytest.raises(errors.ConfigError) as caught:
        split.stratified_split(np.array([0, 0, 1, 1]), 3, seed=0)
    assert str(caught.value) == (
        "a validation part of 3 samples cannot be split off 4 samples of 2 classes. "
        "Between 1 and 2 samples can be split off, so that every class stays in training."
    )
