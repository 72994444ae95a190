"""Flags from options and back, and the reading of a command's words."""

from __future__ import annotations

import pytest
from absl import flags

from ncap_jax import errors
from ncap_jax.commands import flagging
from ncap_jax.options import Recipe, options_of


@pytest.fixture
def values() -> flags.FlagValues:
    """The flags of a command that takes a recipe."""
    found = flags.FlagValues()
    for option in options_of(Recipe):
        flagging.define(option, found)
    return found


def test_words_and_flags_in_any_order(values):
    words = ["here", "--epochs=3", "there", "--probe_widths=8,7,6", "--learning_rate=0.5"]
    assert flagging.parse(values, words, "") == ["here", "there"]
    expected = Recipe(epochs=3, probe_widths=(8, 7, 6), learning_rate=0.5)
    assert flagging.record(Recipe, values) == expected


def test_without_flags_the_record_is_the_default(values):
    assert flagging.parse(values, [], "") == []
    assert flagging.record(Recipe, values) == Recipe()


def test_an_unknown_flag_is_refused_with_what_is_near(values):
    with pytest.raises(errors.ConfigError) as refused:
        flagging.parse(values, ["--epoch=3"], "")
    assert refused.value.cause == "Unknown command line flag 'epoch'. Did you mean: epochs ?"
    assert refused.value.remedy == "--help lists the flags"


def test_help_prints_the_manual_and_the_flags(values, capsys):
    with pytest.raises(SystemExit) as end:
        flagging.parse(values, ["here", "--help"], "\nMakes something of something.\n")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Makes something of something.\n\n")
    assert "--epochs: Fine-tuning epochs per model" in shown
