"""Flags made of options records, and records made of flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from ncap_jax import errors, options
from ncap_jax.options import Option

Record = TypeVar("Record")
# A flag belongs to the module that asks for it: `--help` shows it there.
flags.disclaim_key_flags()


def define(option: Option, values: flags.FlagValues) -> None:
    """Define the flag of one option: `--name`, of the option's type, default and help."""
    name, default, text = option.name, option.default, option.text
    if next(options.iter_kinds(option.hint), None) is not None:
        words = None if default is None else list(map(str, default))
        flags.DEFINE_list(name, words, text, values)
    elif options.admits(option.hint, True):
        flags.DEFINE_bool(name, default, text, values)
    elif options.admits(option.hint, "text"):
        flags.DEFINE_string(name, default, text, values)
    elif options.admits(option.hint, 0.5):
        flags.DEFINE_float(name, default, text, flag_values=values)
    else:
        flags.DEFINE_integer(name, default, text, flag_values=values)


def record(kind: type[Record], values: flags.FlagValues) -> Record:
    """An options record with the values of the flags.

    Raises:
        ConfigError: a list with a word that is not a number.
    """
    fields: dict[str, Any] = {}
    for option in options.options_of(kind):
        value = values[option.name].value
        if isinstance(value, list):
            value = options.parse_list(option, value)
        fields[option.name] = value
    return kind(**fields)


def parse(values: flags.FlagValues, words: Sequence[str], manual: str) -> list[str]:
    """Read a command's flags; returns its other words. `--help` prints the manual and exits.

    Args:
        values: the command's flags, defined.
        words: those after the command's name.
        manual: what the command does and how it is written.

    Raises:
        ConfigError: a flag is unknown, or its value of the wrong type.
    """
    if "--help" in words:
        print(f"{manual.strip()}\n\n{values.get_help()}")
        sys.exit(0)
    try:
        return list(values(["ncap_jax", *words])[1:])
    except flags.Error as error:
        raise errors.ConfigError(str(error), "--help lists the flags") from None
