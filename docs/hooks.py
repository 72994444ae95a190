"""What is made when the site is built: equations as MathML, and the tables of options.

The pages stay readable without network, scripts or fonts.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

from ncap_jax import options

# What pymdownx.arithmatex leaves: \( ... \) in a span, \[ ... \] in a div.
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
TAG = re.compile(r"\\tag\{(\w+)\}")
ROW = (
    '<div style="display:flex;align-items:center;overflow:auto hidden;padding:.5em 0">'
    "{}<span>{}</span></div>"
)


# A comment in a page that stands for the table of an options record.
OPTIONS = re.compile(r"<!-- options of (\w+) -->")


def on_page_markdown(markdown: str, **_) -> str:
    """Called by MkDocs with the text of every page."""
    return OPTIONS.sub(lambda match: options_table(match[1]), markdown)


def options_table(name: str) -> str:
    """The options of a record as a Markdown table: name, values, default, meaning."""
    rows = [
        f"| `{o.name}` | {options.described(o.hint)} | `{o.default!r}` | {o.text} |"
        for o in options.options_of(getattr(options, name))
    ]
    return "\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows])


def on_page_content(content: str, **_) -> str:
    """Called by MkDocs with the HTML of every page."""
    content = INLINE.sub(lambda match: mathml(match[1], "inline"), content)
    return DISPLAY.sub(lambda match: display(match[1]), content)


def display(tex: str) -> str:
    """A displayed equation with its number, if it has one, at the right."""
    number = TAG.search(tex)
    equation = mathml(TAG.sub("", tex), "block").replace("<math ", '<math style="flex:1" ', 1)
    return ROW.format(equation, f"({number[1]})" if number else "")


def mathml(tex: str, kind: str) -> str:
    """MathML of what Markdown left of a formula."""
    # Browsers know no mathvariant="bold" any more; Unicode has the digit.
    bold_one = '<mn mathvariant="bold">1</mn>'
    return convert(html.unescape(tex).strip(), display=kind).replace(bold_one, "<mn>𝟏</mn>")
