"""What the `config.json` of a repository may say: strangers write it, so each field is checked."""

from __future__ import annotations

import json
import pathlib
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ncap_jax import errors
from ncap_jax.options import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE

CONFIG = "config.json"
# timm's have two thousand bytes.
LARGEST = 1 << 20
# Of the numbers that normalise pixels; they lie between 0 and 1.
BOUND = 1000


class Rule(NamedTuple):
    """What a field may hold."""

    admits: Callable[[Any], bool]
    allowed: str


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that arithmetic can bear; True is not."""
    return type(value) in (int, float) and -BOUND <= value <= BOUND


def three(admits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a list of three that all satisfy a condition."""
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(admits, value))


def is_square(value: Any) -> bool:
    """Whether a value is [3, side, side], the size of a colour image."""
    if not three(lambda n: type(n) is int)(value):
        return False
    channels, height, width = value
    return channels == 3 and height == width and MIN_IMAGE_SIZE <= width <= MAX_IMAGE_SIZE


# Every field that is read, by its path. None (null) is as good as leaving a field out.
RULES = {
    ("architecture",): Rule(lambda value: isinstance(value, str), "text"),
    ("pretrained_cfg",): Rule(lambda value: isinstance(value, dict), "an object"),
    ("pretrained_cfg", "input_size"): Rule(
        is_square,
        f"[3, side, side] with a side from {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels",
    ),
    ("pretrained_cfg", "mean"): Rule(
        three(is_number), f"a list of three numbers from {-BOUND} to {BOUND}"
    ),
    ("pretrained_cfg", "std"): Rule(
        three(lambda value: is_number(value) and value > 0),
        f"a list of three positive numbers up to {BOUND}",
    ),
}


def read(path: pathlib.Path, name: str) -> dict[str, Any]:
    """A repository's configuration, checked; fields that are null are left out.

    Args:
        path: of the file.
        name: of the repository, for the errors.

    Raises:
        WeightsError: the file is too large, or is not JSON.
        ModelError: a field holds what it may not.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise errors.WeightsError(
            f"{CONFIG} of {name} has {size} bytes, and at most {LARGEST} are read",
            "Choose another repository",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise errors.WeightsError(
            f"{CONFIG} of {name} is not valid JSON: {error}", "Download the repository again"
        ) from error
    return check(config, name)


def check(config: Any, name: str) -> dict[str, Any]:
    """The fields of a configuration that are read, without those that are null; see `read`.

    Raises:
        ModelError: a field holds what it may not: names it, its value and what is allowed.
    """
    if not isinstance(config, dict):
        raise _refusal(name, "the whole file", config, "an object")
    return _checked(config, (), name)


def _checked(fields: dict[str, Any], above: tuple[str, ...], name: str) -> dict[str, Any]:
    found = {}
    for path, rule in RULES.items():
        value = fields.get(path[-1])
        if path[:-1] != above or value is None:
            continue
        if not rule.admits(value):
            raise _refusal(name, ".".join(path), value, rule.allowed)
        found[path[-1]] = _checked(value, path, name) if isinstance(value, dict) else value
    return found


def _refusal(name: str, field: str, value: Any, allowed: str) -> errors.ModelError:
    return errors.ModelError(
        f"{CONFIG} of {name}: {field} is {reprlib.repr(value)}, not {allowed}",
        "Choose another repository, or give a ModelSpec of your own",
    )
