"""The race, replayed: the table is what the study prints."""

from __future__ import annotations

from collections import defaultdict

import pytest

from experiments import finish_replay as replay
from experiments import finish_study, race_study
from experiments.tasks import POOLS, priors_without_each
from ncap_jax.predictor import growth
from tests.support.tables import committed, rows, without_intervals

# Of these rules nothing is fitted, and they are replayed in a moment.
PLAIN = [name for name in race_study.WAYS if not name.startswith("halving")]


@pytest.fixture(scope="module")
def sets():
    return [runs for pool in POOLS for runs in replay.read_pool(pool, large=True)]


def test_rows_that_read_no_constants_are_those_of_the_table(sets, monkeypatch):
    monkeypatch.setattr(finish_study, "DRAWS", 1)
    priors = defaultdict(lambda: growth.PRIORS)
    ways = {name: race_study.WAYS[name] for name in PLAIN}
    found = {name: race_study.replay_all(way, sets, priors) for name, way in ways.items()}
    tables = [race_study.table(found, range(len(sets)))]
    tables.append(race_study.sets_table(found, [runs.name for runs in sets]))
    left = iter(without_intervals(committed("race_study")))
    assert [line for line in without_intervals(rows("\n".join(tables))) if line not in left] == []


def test_the_race_keeps_its_target(sets):
    """Two fifths of the epochs, at a regret that is at most 0.1 points higher on average."""
    priors = defaultdict(lambda: growth.PRIORS)
    full, raced = (race_study.replay_all(race_study.WAYS[name], sets, priors) for name in PLAIN[:2])
    epochs = [column.mean() for column in race_study.column(raced, "epochs")]
    assert sum(epochs) / len(epochs) <= 0.6
    lost = [
        sum(column.mean() for column in race_study.column(found, "lost")) / len(sets)
        for found in (full, raced)
    ]
    assert lost[1] - lost[0] <= 0.1


def test_prices_of_epochs(sets):
    """Cold: as recorded, compilation in the first; warm: each at the price of a later one."""
    run = sets[0].early["known"][0][0]
    cold, warm = race_study.recorded_seconds(run), race_study.later_seconds(run)
    assert cold == [record.seconds for record in run.records]
    assert len(set(warm)) == 1
    assert len(warm) == len(cold)
    assert sum(warm) < sum(cold)
    assert race_study.share([run], [len(cold) - 1], race_study.recorded_seconds) == 1.0
    assert race_study.share([run, run], [1, 1], race_study.later_seconds) == pytest.approx(
        2 / len(cold)
    )


@pytest.mark.slow
def test_what_is_stated_after_a_race_is_that_of_the_table(sets):
    found = race_study.finalists_table(sets, priors_without_each(runs.name for runs in sets))
    assert [line for line in rows(found) if line not in committed("race_study")] == []


def test_a_race_states_more_once_it_is_known_how_much_it_narrowed_the_pool(sets):
    """Of the sets of the embedded pool, after two epochs; the full run is left as it is."""
    some = [runs for runs in sets if runs.name.endswith("embedded")][:2]
    priors = defaultdict(lambda: growth.PRIORS)
    lines = race_study.finalists_table(some, priors).splitlines()
    stated = {cells[1].strip(): float(cells[4]) for cells in (x.split("|") for x in lines[2:])}
    name = "race: the product's, 2 epochs"
    assert stated[name] > 1.1 * stated[f"{name}, without (A2)"]
    assert "full, without (A2)" not in stated
