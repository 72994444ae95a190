"""After which epochs beta_eff is measured: as asked, and by price where nothing is asked."""

from __future__ import annotations

import pytest

from ncap_jax.measure import epochs
from ncap_jax.options import Recipe

ALL = frozenset(range(6))
END = frozenset({5})


@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
@pytest.mark.parametrize("num_train", [100, 100_000])
def test_what_is_asked_is_done_under_every_head(head, num_train):
    asked = {"off": frozenset(), "every_epoch": ALL}
    for choice, expected in asked.items():
        recipe = Recipe(head=head, beta_eff=choice)
        assert epochs.measured_epochs(recipe, num_train) == expected


@pytest.mark.parametrize("head", ["probe", "trainable_probe"])
def test_a_probe_is_cheap(head):
    assert epochs.measured_epochs(Recipe(head=head), 100) == ALL


@pytest.mark.parametrize(
    ("num_train", "expected"), [(100, END), (500, END), (5_000, END), (75_000, ALL)]
)
def test_a_network_is_measured_after_every_epoch_where_that_takes_a_tenth(num_train, expected):
    assert epochs.measured_epochs(Recipe(), num_train) == expected


def test_where_the_end_alone_is_measured_one_strength_is():
    assert epochs.network_strengths(Recipe(), 100) == ("signed",)
    assert epochs.network_strengths(Recipe(beta_eff="every_epoch"), 100) == ("signed", "absolute")
    assert epochs.network_strengths(Recipe(measure_size=32), 20_000) == ("signed", "absolute")


def test_the_end_of_one_epoch_is_measured():
    assert epochs.measured_epochs(Recipe(epochs=1), 100) == {1}


def test_fewer_samples_make_room_for_every_epoch():
    assert epochs.measured_epochs(Recipe(measure_size=32), 20_000) == ALL
    assert epochs.measured_epochs(Recipe(), 20_000) == END


@pytest.mark.parametrize("head", ["probe", "linear"])
@pytest.mark.parametrize("num_train", [500, 5_000, 75_000])
def test_a_run_that_grows_is_measured_as_it_was_begun(head, num_train):
    """The end apart, which moves; its programs stay the same."""
    for choice in ("auto", "every_epoch", "off"):
        recipes = [Recipe(epochs=count, head=head, beta_eff=choice) for count in (2, 5, 50)]
        found = [epochs.measured_epochs(recipe, num_train) for recipe in recipes]
        inner = [sorted(f - {r.epochs})[:1] for f, r in zip(found, recipes)]
        assert inner[0] == inner[1] == inner[2]
        runs = {epochs.usual_measurements(recipe, num_train) for recipe in recipes}
        assert runs == {len(found[1])}


def test_the_price_of_every_epoch_is_at_most_the_share_where_it_is_paid():
    """And never lower than that of one measurement, whatever effort each is compiled at."""
    for num_train in (32, 500, 2_000, 10_000, 40_000, 160_000):
        recipe = Recipe()
        samples = epochs.network_samples(num_train, recipe.measure_size)
        every, end = (epochs.price(count, samples) for count in (6, 1))
        run = epochs.START + epochs.TRAINING * 5 * num_train / 32
        fits = epochs.measured_epochs(recipe, num_train) == ALL
        assert fits == (every <= 0.1 * run)
        assert end < every


@pytest.mark.parametrize(
    ("num_train", "measure_size", "samples"),
    [(10, 2048, 10), (500, 2048, 32), (10_000, 2048, 250), (90_000, 2048, 2048)],
)
def test_how_many_samples_measure_a_network(num_train, measure_size, samples):
    assert epochs.network_samples(num_train, measure_size) == samples


@pytest.mark.parametrize(
    ("measurements", "samples", "runs"), [(1, 10, 1), (6, 32, 6), (2, 64, 4), (2, 65, 8)]
)
def test_runs_count_what_a_padded_batch_adds(measurements, samples, runs):
    assert epochs.network_runs(measurements, samples) == runs
