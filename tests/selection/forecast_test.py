"""With how many models a race within a time budget is expected to begin."""

from __future__ import annotations

import pytest

from ncap_jax.selection import forecast
from ncap_jax.selection.forecast import Taken, beginning


def later(models: int) -> int:
    """As many epochs as models."""
    return models


def test_equal_models_share_the_time():
    """Two have an epoch; n more take 10 n + 2 (2 + n) seconds."""
    seen = [Taken(1000, 10.0)] * 2, [Taken(1000, 2.0)] * 2
    for more in (1, 4, 7):
        needed = 10.0 * more + 2.0 * (2 + more)
        assert beginning(needed + 1e-6, *seen, [1000.0] * 20, later) == more
        assert beginning(needed - 1e-6, *seen, [1000.0] * 20, later) == more - 1
    assert beginning(1e6, *seen, [1000.0] * 5, later) == 5
    assert beginning(0.0, *seen, [1000.0] * 5, later) == 0
    assert beginning(1e6, *seen, [], later) == 0


def test_larger_models_take_longer_by_the_law():
    """One model of 1,000 parameters took 10 and 2 seconds; one of 32,000 is waiting."""
    seen = [Taken(1000, 10.0)], [Taken(1000, 2.0)]
    first = 10.0 * 32**forecast.FIRST_POWER
    assert first == pytest.approx(20.0)
    epochs = (2.0 + 2.0 * 32**forecast.EPOCH_POWER) / 2 * 2
    assert beginning(first + epochs + 1e-6, *seen, [32000.0], later) == 1
    assert beginning(first + epochs - 1e-6, *seen, [32000.0], later) == 0


def test_what_models_took_is_averaged_as_if_they_had_one_size():
    """A model 32 times as large, which took twice as long, says the same as the small one."""
    small = [Taken(1000, 10.0)], [Taken(1000, 2.0)]
    both = (
        [*small[0], Taken(32000, 20.0)],
        [*small[1], Taken(32000, 2.0 * 32**forecast.EPOCH_POWER)],
    )
    for left in (15.0, 33.0, 80.0, 200.0):
        known = beginning(left, *small, [1000.0] * 20, lambda models: 0)
        assert beginning(left, *both, [1000.0] * 20, lambda models: 0) == known


def test_the_waiting_ones_are_taken_in_their_order():
    """The next is too large, although one behind it would fit."""
    seen = [Taken(1000, 10.0)], [Taken(1000, 1.0)]
    assert beginning(15.0, *seen, [1000.0, 1e9], later) == 1
    assert beginning(15.0, *seen, [1e9, 1000.0], later) == 0


def test_an_unknown_number_of_parameters_is_that_of_the_largest():
    assert forecast.sizes([5, None, 7, 0]) == [5.0, 7.0, 7.0, 7.0]
    assert forecast.sizes([None]) == [1.0]
    assert forecast.sizes([]) == []
