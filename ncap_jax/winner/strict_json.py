"""Records from JSON that somebody else may have written: nothing unknown, nothing missing.

A record is read by the types of its fields. What does not fit is refused with the field's name, so
that whoever reads the message finds the place: `metrics.test.classes[3].support`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ncap_jax.options import shown

Record = TypeVar("Record")

_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def read_record(kind: type[Record], value: Any, name: str = "") -> Record:
    """A frozen dataclass from what `ncap_jax.files.to_json` and `json.loads` made of it.

    Args:
        kind: the dataclass. Its fields are of the types bool, int, float, str, None, Literal,
            tuple, Mapping with text as keys, dataclasses, and unions of these; `Any` takes
            everything.
        value: from `json.loads`.
        name: of the value in its file, for messages.

    Returns:
        The record. A field that is left out has its default; one without a default is missing.

    Raises:
        ValueError: a field is missing, unknown or of another type; its name comes first.
    """
    where = name or "the document"
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {shown(value)}, not an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise ValueError(f"{_joined(name, key)} is unknown")
    hints, found = _hints(typing.cast(Any, kind)), {}
    for key, field in fields.items():
        if key in value:
            found[key] = _read(hints[key], value[key], _joined(name, key))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_joined(name, key)} is missing")
    return kind(**found)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a record's fields; a file may hold thousands of such records."""
    return typing.get_type_hints(kind)


def _joined(name: str, key: Any) -> str:
    text = key if isinstance(key, str) and key.isidentifier() else shown(key)
    return f"{name}.{text}" if name else text


def _read(hint: Any, value: Any, name: str) -> Any:
    """A value of any type that a record's field may have."""
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(type, hint), value, name)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(typing.get_args(hint), value, name)
    if origin is typing.Literal:
        return _read_literal(typing.get_args(hint), value, name)
    if origin is tuple:
        return _read_tuple(typing.get_args(hint), value, name)
    if origin is not None:  # Mapping[str, ...]
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is {shown(value)}, not an object")
        item = typing.get_args(hint)[1]
        return {key: _read(item, part, _joined(name, key)) for key, part in value.items()}
    return _read_plain(hint, value, name)


def _read_plain(hint: type, value: Any, name: str) -> Any:
    # A bool is not a number, though Python says so.
    if hint is float and type(value) is int:
        value = float(value) if abs(value) <= 2**53 else value
    finite = math.isfinite(value) if isinstance(value, float) else True
    if type(value) is hint and finite:
        return value
    raise ValueError(f"{name} is {shown(value)}, not {_WORDS[hint]}")


def _read_literal(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    if type(value) in map(type, choices) and value in choices:
        return value
    raise ValueError(f"{name} is {shown(value)}, not {' or '.join(map(repr, choices))}")


def _read_union(hints: tuple[Any, ...], value: Any, name: str) -> Any:
    """The one type of a union that the value can have: None is told apart from the others."""
    others = [hint for hint in hints if hint is not type(None)]
    if value is None and len(others) < len(hints):
        return None
    for hint in others[:-1]:
        try:
            return _read(hint, value, name)
        except ValueError:
            continue
    return _read(others[-1], value, name)


def _read_tuple(hints: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {shown(value)}, not a list")
    if hints[-1] is Ellipsis:
        if hints[0] in (int, str) and {*map(type, value)} <= {hints[0]}:
            return tuple(value)  # a million counts need not be read one by one
        return tuple(_read(hints[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if len(value) != len(hints):
        raise ValueError(f"{name} has {len(value)} items, not {len(hints)}")
    parts = enumerate(zip(hints, value))
    return tuple(_read(hint, item, f"{name}[{i}]") for i, (hint, item) in parts)
