import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.data.sampling import choose_samples
from ncap_jax.options import DataConfig


def choose(*labels, names=None, seed=0, info=None, **options):
    return choose_samples(labels, names, DataConfig(**options), seed=seed, info=info or {})


TEN = np.arange(300) % 10


def test_validation_is_split_off_stratified():
    choice = choose(TEN, validation_fraction=0.3, seed=1)
    train, validation = choice.train, choice.validation
    assert np.bincount(train.labels).tolist() == [21] * 10
    assert np.bincount(validation.labels).tolist() == [9] * 10
    assert (train.source, validation.source) == (0, 0), "both out of the training part"
    both = np.concatenate([train.indices, validation.indices])
    assert sorted(both.tolist()) == list(range(300))
    assert choice.info == {"validation": "90 of 300 training samples, stratified, seed 1"}


def test_labels_stay_with_their_indices():
    rng = np.random.default_rng(0)
    given = np.array(["cat", "dog", "owl"])[rng.permutation(np.arange(60) % 3)]
    choice = choose(given, given[:30], max_train=20, max_validation=10)
    assert choice.class_names == ("cat", "dog", "owl")
    for samples in (choice.train, choice.validation):
        assert samples.labels.dtype == np.int32
        assert (np.diff(samples.indices) > 0).all(), "ascending"
        found = np.array(choice.class_names)[samples.labels]
        np.testing.assert_array_equal(found, given[samples.indices])
    assert (choice.train.source, choice.validation.source) == (0, 1)


def test_a_given_validation_part_is_kept():
    choice = choose([0, 1, 0, 1], [1, 0])
    assert choice.train.indices.tolist() == [0, 1, 2, 3]
    assert choice.validation.labels.tolist() == [1, 0]
    assert choice.info == {"validation": "given"}


def test_a_test_part_is_set_aside_before_the_others():
    choice = choose(TEN, test_fraction=0.2, validation_fraction=0.25, max_train=50, seed=3)
    assert choice.info["test"] == "60 of 300 training samples, stratified, seed 3"
    assert choice.info["validation"] == "60 of 240 training samples, stratified, seed 3"
    assert choice.info["subset_of"] == {"training": 180}
    assert np.bincount(choice.test.labels).tolist() == [6] * 10
    np.testing.assert_array_equal(TEN[choice.test.indices], choice.test.labels)
    whole = choose(TEN, test_fraction=0.2, validation_fraction=0.25, seed=3)
    np.testing.assert_array_equal(whole.test.indices, choice.test.indices)
    parts = [whole.train.indices, whole.validation.indices, whole.test.indices]
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))


def test_a_set_with_a_test_part_gives_no_other():
    given = choose_samples([TEN], None, DataConfig(test_fraction=0.5), seed=0, info={}, num_test=9)
    assert given.test is None
    assert given.info["test"] == "9 images, set aside"
    plain = choose_samples([TEN], None, DataConfig(), seed=0, info={})
    np.testing.assert_array_equal(given.train.indices, plain.train.indices)
    assert "test" not in plain.info


def test_what_is_known_already_is_kept():
    known = {"source": "here", "validation": "1 of 5", "subset_of": {"training": 99}}
    choice = choose(TEN, TEN, info=known, max_validation=50)
    assert choice.info == {**known, "subset_of": {"training": 99, "validation": 300}}
    assert known["subset_of"] == {"training": 99}, "the caller's own is left alone"


def test_seed_decides_split_and_subsets():
    draws = [choose(TEN, seed=seed, max_train=50) for seed in (0, 0, 1)]
    for part in ("train", "validation"):
        first, again, other = (getattr(draw, part).indices for draw in draws)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_subsets_keep_every_class():
    choice = choose(TEN, max_train=10, max_validation=4)
    assert sorted(choice.train.labels.tolist()) == list(range(10))
    assert len(choice.validation.labels) == 4
    assert len(choice.info["classes_without_validation"]) == 6
    assert choice.info["subset_of"] == {"training": 240, "validation": 60}
    assert "subset_of" not in choose(TEN, max_train=240, max_validation=60).info


def test_fewer_training_samples_than_classes():
    with pytest.raises(errors.ConfigError) as caught:
        choose(TEN, max_train=9)
    assert str(caught.value) == (
        "max_train=9 is less than the number of classes, 10. "
        "Keep at least one training sample of each class."
    )


def test_a_small_fraction_still_validates_every_class_that_has_two():
    choice = choose([0] * 50 + [1] * 2 + [2], validation_fraction=0.01)
    assert sorted(choice.validation.labels.tolist()) == [0, 1]
    assert choice.info["classes_without_validation"] == ["2"]


def test_integers_with_gaps_are_remapped_on_request():
    assert choose([2, 4, 2, 4], [4], remap_labels=True).class_names == ("2", "4")
    with pytest.raises(errors.DataError) as caught:
        choose([2, 4, 2, 4], [4])
    assert caught.value.cause == "labels have gaps: 2 of 5 classes occur, 0 does not"
