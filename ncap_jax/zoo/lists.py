"""Lists of timm's models, each under one name that stands where several models may stand.

The file lists.json holds them; `experiments.model_lists` makes it from published figures.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping

FILE = pathlib.Path(__file__).with_name("lists.json")


@functools.cache
def lists() -> Mapping[str, tuple[str, ...]]:
    """Name of a list -> the names of its models, each with `timm:` before it."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: tuple(f"timm:{model['name']}" for model in entry["models"])
        for name, entry in content["lists"].items()
    }
