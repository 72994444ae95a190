"""The model card: what a package's README.md says to people, from the facts alone."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ncap_jax.data.encoded import printable
from ncap_jax.winner.facts import ModelFacts

if TYPE_CHECKING:
    import jinja2

# Characters that Markdown, or HTML in it, would take for its own.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")
# Class names that the card lists; model.json has them all.
SHOWN_CLASSES = 50
# Longer notes are in model.json alone.
LONGEST = 300


def render(facts: ModelFacts) -> str:
    """The text of README.md."""
    return _template().render(
        facts=facts,
        classes=facts.class_names[:SHOWN_CLASSES],
        chosen=_rows(facts.chosen),
        data=_rows(facts.data),
        versions=_rows(facts.versions),
    )


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ncap_jax", "winner"),
        autoescape=False,  # Markdown: `finalize` escapes every value
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escaped,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment.get_template("card.md")


def _escaped(value: Any) -> Any:
    """A value as one line of Markdown that shows it as it is."""
    return _SPECIAL.sub(r"\\\1", printable(value)) if isinstance(value, str) else value


def _rows(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every field that is short enough to be read."""
    rows = ((key.replace("_", " "), _in_words(value)) for key, value in fields.items())
    return [(key, text) for key, text in rows if text and len(text) <= LONGEST]


def _in_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
