"""Shows an option in a signature by its default alone, without its help text and check.

Griffe reads the sources, where a field of an options record is `option(default, text, check)`.
"""

from __future__ import annotations

import griffe


class OptionDefaults(griffe.Extension):
    """Replaces the call of `option` by its first argument."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_) -> None:
        """Called by Griffe with every attribute, before it makes the signatures of dataclasses."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "option":
            attr.value = call.arguments[0]
