"""The ledger: what was entered is read; a damaged line is left out, and said."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import pytest

from ncap_jax import errors
from ncap_jax.run import ledger
from ncap_jax.run.ledger import Entry

END = Entry("a", "ok", "", 1.5, records=4)
AGAIN = Entry("b", "out_of_memory", "halved", 0.0, records=0, half_batch=True)


def test_entries_come_back_in_order(tmp_path):
    assert ledger.read(tmp_path) == []
    for entry in (END, AGAIN, END):
        ledger.append(tmp_path, entry)
    assert ledger.read(tmp_path) == [END, AGAIN, END]
    lines = (tmp_path / ledger.FILE).read_text().splitlines()
    assert json.loads(lines[1]) == {
        "model": "b",
        "status": "out_of_memory",
        "message": "halved",
        "seconds": 0.0,
        "records": 0,
        "half_batch": True,
    }


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"model": "b", "status": "o',
        b"\xff\xfe",
        b"[]",
        b'{"model": "b"}',
        b'{"model": 3, "status": "ok", "message": "", "seconds": 1.0, "records": 1}',
        b'{"model": "b", "status": "ok", "message": "", "seconds": 1.0, "records": "1"}',
        b'{"model": "b", "status": "ok", "message": "", "seconds": null, "records": 1}',
        b'{"model": "b", "status": "ok", "message": "", "seconds": 1.0, "records": 1, "more": 1}',
    ],
)
def test_a_damaged_line_is_left_out_and_said(tmp_path, damaged):
    ledger.append(tmp_path, END)
    with (tmp_path / ledger.FILE).open("ab") as file:
        file.write(damaged + b"\n")
    ledger.append(tmp_path, AGAIN)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert ledger.read(tmp_path) == [END, AGAIN]
    (warning,) = caught
    assert str(warning.message) == (
        f"{tmp_path / ledger.FILE}, line 2 is damaged and left out: if a model's end stood there, "
        "what follows its last checkpoint is repeated"
    )


def test_a_torn_line_does_not_take_the_next_one_along(tmp_path):
    ledger.append(tmp_path, END)
    file = tmp_path / ledger.FILE
    file.write_bytes(file.read_bytes()[:-10])
    ledger.append(tmp_path, AGAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert ledger.read(tmp_path) == [AGAIN]


def test_a_trajectory_is_as_long_as_at_the_best_of_its_ends():
    """Unless the model has started again since."""
    ends = [dataclasses.replace(END, records=records) for records in (6, 3)]
    other = dataclasses.replace(END, model="other", records=1)
    assert ledger.whole([*ends, other]) == {END.model: 6, "other": 1}
    again = dataclasses.replace(END, records=0, half_batch=True)
    assert ledger.whole([*ends, again]) == {END.model: 0}
    assert ledger.whole([*ends, again, ends[1]]) == {END.model: 3}


def test_seconds_are_a_number(tmp_path):
    parsed = ledger.parse(
        '{"model": "a", "status": "ok", "message": "", "seconds": 2, "records": 1}'
    )
    assert isinstance(parsed.seconds, float)
    assert math.isfinite(parsed.seconds)
    assert parsed.half_batch is False


def test_a_ledger_that_cannot_be_written_is_a_named_error(tmp_path):
    (tmp_path / ledger.FILE).mkdir()
    with pytest.raises(errors.OutputError) as error:
        ledger.append(tmp_path, END)
    assert error.value.cause == f"cannot write {tmp_path / ledger.FILE}: Is a directory"
    assert error.value.remedy == "Free space, or choose an output folder that you may write to"
