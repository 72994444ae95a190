"""An HTML page taken apart, and facts of a run that fill every part of the report."""

from __future__ import annotations

import html.parser
from typing import Any

from ncap_jax.types import RunInfo

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Page(html.parser.HTMLParser):
    """Collects elements and checks that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def whole_info(**changes: Any) -> RunInfo:
    """Facts for every part of the report that shows some."""
    facts: dict[str, Any] = {
        "command": "python -m ncap_jax --dataset=digits",
        "seconds": 70.0,
        "device": "CPU",
        "versions": {"jax": "0.10.2"},
        "data": {"training images": 500},
        "class_names": ("zero", "one"),
        "contact_sheet_png": b"\x89PNG",
    }
    return RunInfo(**{**facts, **changes})
