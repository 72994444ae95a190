"""The label contract: every stage after this one sees int32 labels 0..K-1 and K class names.

What can be mapped without guessing is mapped, and the table is recorded; all else is an error.

    integers 0..K-1           kept
    whole floats, booleans    become integers 0..K-1 (False, True -> 0, 1)
    strings                   numbered in sorted order, or by the class names where given
    one-hot (n, K)            the column's number
    integers with gaps        an error; with `remap` numbered in ascending order
    anything else             an error
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ncap_jax import errors

REMAP = "Renumber the classes 0..K-1, or set remap_labels=True (--remap_labels)"


def map_labels(
    parts: Sequence[Any],
    class_names: Sequence[str] | None = None,
    *,
    remap: bool = False,
) -> tuple[list[np.ndarray], tuple[str, ...], dict[str, Any]]:
    """Bring the labels of all parts of a data set to 0..K-1 with one common table.

    Args:
        parts: one array of n_i labels for each part, the training part first.
        class_names: K names in label order, or None.
        remap: number integer classes that have gaps, instead of refusing them.

    Returns:
        The parts as (n_i,) int32; the K class names; and what was done, for `Dataset.info`:
        `label_mapping` {original: new} where anything changed, `classes_without_validation`
        where a later part lacks classes.

    Raises:
        DataError: labels that cannot be mapped without guessing, fewer than two classes, a
            class without training samples.
    """
    names = None if class_names is None else _check_names(class_names)
    read = [_read(part) for part in parts]
    kinds, arrays = {kind for kind, _ in read}, [array for _, array in read]
    if len(kinds) > 1:
        raise errors.DataError(
            f"the parts have labels of different kinds: {', '.join(sorted(kinds))}",
            "Give all labels in one form",
        )
    kind = kinds.pop()
    if kind == "string":
        mapped, names, table = _number_strings(arrays, names)
    else:
        mapped, names, table = _number_integers(arrays, names, kind, remap=remap)
    info: dict[str, Any] = {"label_mapping": table} if table else {}
    info.update(check_parts(mapped, names))
    return [part.astype(np.int32) for part in mapped], names, info


def labels_only_in(
    labels: Any, others: Any, class_names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Names of the classes that some labels have and others lack, in order.

    Args:
        labels: (n,) in any form that `map_labels` takes.
        others: (m,) in the same form; of another kind, nothing is compared.
        class_names: K names in label order, by which numbers are called; None: they are the names.
    """
    (kind, array), (other_kind, other) = _read(labels), _read(others)
    if kind != other_kind:
        return ()
    if kind == "string":
        return sort_names({_text(label) for label in array} - {_text(label) for label in other})
    names = class_names or ()
    unknown = sorted({int(v) for v in np.unique(array)} - {int(v) for v in np.unique(other)})
    return tuple(names[v] if 0 <= v < len(names) else str(v) for v in unknown)


def _read(labels: Any) -> tuple[str, np.ndarray]:
    """Labels as one array (n,), and their kind.

    Raises:
        DataError: wrong shape, no labels, mixed types, or numbers that are not whole.
    """
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise errors.DataError(
            f"labels do not form one array: {error}", "Give one label per sample"
        ) from None
    if array.ndim == 2 and array.shape[1] > 1:
        return "one-hot", _columns(array)
    if array.ndim != 1:
        raise errors.DataError(
            f"labels have shape {array.shape}",
            "Give one label per sample, shape (n,); labels.ravel() makes that of a single column",
        )
    if len(array) == 0:
        raise errors.DataError("the labels are empty", "Give at least one sample of each class")
    return _kind(array), array


def _columns(array: np.ndarray) -> np.ndarray:
    """One-hot rows (n, K) -> the column numbers (n,)."""
    numeric = array.dtype.kind in "biuf"
    if not numeric or not (((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
        raise errors.DataError(
            f"labels have shape {array.shape} and are not one-hot",
            "Give one label per sample, shape (n,), or rows with a single 1; soft or multiple "
            "labels are not supported",
        )
    return np.argmax(array, axis=1)


def _kind(array: np.ndarray) -> str:
    """`integer`, `float`, `boolean` or `string`."""
    if array.dtype.kind in "iu":
        return "integer"
    if array.dtype.kind == "b":
        return "boolean"
    if array.dtype.kind in "UST":
        return "string"
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array):
        return "string"
    if array.dtype.kind == "f":
        bad = array[~np.isfinite(array) | (array != np.floor(array))]
        if len(bad) == 0:
            return "float"
        raise errors.DataError(
            f"labels contain {bad[0]}", "Give class numbers 0..K-1; regression is not supported"
        )
    raise errors.DataError(
        f"labels have type {array.dtype} (the first is {array[0]!r})",
        "Give integers 0..K-1 or strings",
    )


def _number_strings(
    arrays: list[np.ndarray], names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...], dict[str, int]]:
    texts = [[_text(label) for label in array] for array in arrays]
    found = sort_names({text for part in texts for text in part})
    check_text(found, "label")
    if names is None:
        names = found
    elif unknown := [text for text in found if text not in names]:
        raise errors.DataError(*errors.unknown_name("class", unknown[0], names))
    if len(names) < 2:
        _refuse_single(names[0])
    table = {name: number for number, name in enumerate(names)}
    return [np.array([table[text] for text in part]) for part in texts], names, table


def _text(label: Any) -> str:
    return label.decode("utf-8", "backslashreplace") if isinstance(label, bytes) else str(label)


def check_text(value: Any, what: str) -> None:
    """Refuse text with lone surrogates, which Python makes of file names that are not UTF-8.

    No report can be written with it, which would be found out only after all training.

    Args:
        value: text, or a mapping, list or tuple of it; other values pass.
        what: its name, for the message.

    Raises:
        DataError: it cannot be encoded.
    """
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            check_text(item, what)
    elif isinstance(value, str) and not is_text(value):
        raise errors.DataError(
            f"the {what} {value!r} cannot be written as UTF-8",
            "Replace what is not text in it: text.encode('utf-8', 'backslashreplace').decode()",
        )


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: one with lone surrogates cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def sort_names(names: set[str]) -> tuple[str, ...]:
    """Class names in order: as numbers where all are, else by code point."""
    numeric = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name), name) if numeric else (0, name)))


def _number_integers(
    arrays: list[np.ndarray], names: tuple[str, ...] | None, kind: str, *, remap: bool
) -> tuple[list[np.ndarray], tuple[str, ...], dict[str, int]]:
    # Python's integers: neither unsigned numbers of 64 bits nor large floats fit into int64.
    parts = [np.unique(array, return_inverse=True) for array in arrays]
    unique = [[int(value) for value in part] for part, _ in parts]
    found = np.array(sorted({value for part in unique for value in part}), object)

    def numbered(table: Mapping[int, int]) -> list[np.ndarray]:
        return [
            np.array([table[value] for value in values], np.int32)[places]
            for values, (_, places) in zip(unique, parts)
        ]

    themselves = {value: value for value in found}
    if kind == "boolean":
        names = names or ("False", "True")
        _check_gaps(found, 2, names)
        return numbered(themselves), names, {"False": 0, "True": 1}
    if names is not None and (found[0] < 0 or found[-1] >= len(names)):
        raise errors.DataError(
            f"label {found[-1] if found[0] >= 0 else found[0]} has no name: there are "
            f"{len(names)} class names",
            "Give one name for each of the numbers 0..K-1, or no names",
        )
    if remap and len(found) > 1 and not np.array_equal(found, np.arange(len(names or found))):
        kept = tuple(names[v] if names else str(v) for v in found)
        new = {value: number for number, value in enumerate(found)}
        return numbered(new), kept, {str(value): number for value, number in new.items()}
    count = int(found[-1]) + 1 if names is None else len(names)
    _check_gaps(found, count, names)
    table = {}
    if kind == "one-hot":
        table = {f"column {value}": value for value in found}
    if kind == "float":
        table = {f"{value:.1f}": value for value in found}
    return numbered(themselves), names or tuple(str(v) for v in found), table


def _check_gaps(found: np.ndarray, count: int, names: tuple[str, ...] | None) -> None:
    """`found`, ascending and unique Python integers, must be 0..count-1, and two at least."""
    if found[0] < 0:
        raise errors.DataError(f"labels contain {found[0]}", REMAP)
    if len(found) < 2:
        _refuse_single(names[found[0]] if names else str(found[0]))
    if len(found) != count:
        # The first number that is not in its place is the first gap.
        wrong = np.flatnonzero(found != np.arange(len(found)))
        gap = int(wrong[0]) if len(wrong) else len(found)
        which = f"{gap} ({names[gap]!r})" if names else str(gap)
        raise errors.DataError(
            f"labels have gaps: {len(found)} of {count} classes occur, {which} does not", REMAP
        )


def _refuse_single(name: str) -> NoReturn:
    raise errors.DataError(
        f"all labels are {name!r}",
        "Give at least 2 classes",
    )


def _check_names(names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(str(name) for name in names)
    check_text(names, "class name")
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise errors.DataError(
            f"class name {double!r} occurs twice", "Give each class a name of its own"
        )
    return names


def check_parts(parts: list[np.ndarray], names: tuple[str, ...]) -> dict[str, Any]:
    """Make sure that every class occurs in the training part; record what later parts lack.

    Args:
        parts: (n_i,) labels 0..K-1, the training part first.
        names: of the K classes.

    Returns:
        `classes_without_validation`, names in label order, or nothing if none is lacking.

    Raises:
        DataError: a class without training samples.
    """
    counts = [np.bincount(part, minlength=len(names)) for part in parts]
    empty = np.flatnonzero(counts[0] == 0)
    if len(empty):
        others = f", nor have {len(empty) - 1} other classes" if len(empty) > 1 else ""
        raise errors.DataError(
            f"class {names[empty[0]]!r} has no training samples{others}",
            "Add some, or leave the class out of the labels and the class names",
        )
    lacking = [names[k] for later in counts[1:] for k in np.flatnonzero(later == 0)]
    return {"classes_without_validation": lacking} if lacking else {}
