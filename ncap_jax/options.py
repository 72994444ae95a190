"""Whether the fields of a configuration hold values of the types that they declare."""

from __future__ import annotations

import dataclasses
import numbers
import os
import types
import typing
from typing import Any

from ncap_jax import errors

# type -> what it admits, and what that is called. A bool is no number, though Python says so.
ADMITTED: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "None"),
}
# Paths may be given as such.
PATHS = ("weights_dir", "data_dir")


def check_types(record: Any) -> None:
    """Refuse a RankConfig or DataConfig with a field of another type than declared.

    Raises:
        ConfigError: names the field, its value and what it may be.
    """
    hints = typing.get_type_hints(type(record))
    for field in dataclasses.fields(record):
        value, hint = getattr(record, field.name), hints[field.name]
        if field.name in PATHS and isinstance(value, os.PathLike):
            continue
        if not admits(hint, value):
            raise errors.ConfigError(
                f"{field.name}={_short(value)} is not {described(hint)}",
                f"The default is {field.default!r}",
            )


def admits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type: of `ADMITTED`, a union, a literal, or a tuple of one kind."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(admits(part, value) for part in parts)
    if origin is typing.Literal:
        return isinstance(value, str)  # which text is right, says the field's own check
    if origin is tuple:
        return isinstance(value, tuple | list) and all(admits(parts[0], item) for item in value)
    kinds, _ = ADMITTED[hint]
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def described(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(part) for part in parts)
    if origin is typing.Literal:
        return "text"
    if origin is tuple:
        return f"several of {described(parts[0])}"
    return ADMITTED[hint][1]


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
