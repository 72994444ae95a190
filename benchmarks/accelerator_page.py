"""Writes docs/results/accelerator.md from the records of `benchmarks.accelerator`.

    python -m benchmarks.accelerator_page [FILE ...]

Each FILE, a record that came back from a device, is merged into the one of the same device under
benchmarks/results/ first: of each part the better result stays. The page is made anew in any case.
"""

from __future__ import annotations

import pathlib
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import accelerator_tables as tables
from benchmarks.accelerator_parts import SECTIONS
from benchmarks.accelerator_record import DONE, merge, read, slug
from ncap_jax import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATE = pathlib.Path(__file__).with_suffix(".md")
PAGE = ROOT / "docs" / "results" / "accelerator.md"

MAKERS: Mapping[str, Callable[[tables.Found], str]] = {
    "tests": tables.tests,
    "kernels": tables.kernels,
    "answer": tables.answer,
    "ranking": tables.ranking,
    "throughput": tables.throughput,
    "options": tables.options,
}
NOT_YET = (
    "**Answer.** Not measured yet: none of the sections below has run on an accelerator."
    " The older figures of eight\nfamilies' training step on an H100 are in"
    " [training step](training-step.md#on-an-h100-against-pytorch)."
)
MEASURED = (
    "**Answer.** In the tables below, device by device. The older figures of eight families'"
    " training step on an\nH100 are in"
    " [training step](training-step.md#on-an-h100-against-pytorch)."
)


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        records: contents of the devices' files.
    """
    titles = {("answer_section" if n == "answer" else n): t for n, t in SECTIONS.items()}
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        titles,
        answer=MEASURED if records else NOT_YET,
        devices="".join(f"\n{device(record)}" for record in records),
    )


def device(record: Mapping[str, Any]) -> str:
    """One device's heading, environment and tables."""
    parts = record["parts"]
    found = {name: part["result"] for name, part in parts.items() if part["status"] == DONE}
    lines = [f"## {record['device']}", environment(record["calls"][-1]["environment"])]
    for name, make in MAKERS.items():
        if text := make(tables.of_section(found, name)):
            lines += [f"### {SECTIONS[name]}", text]
    left = [f"- `{n}`: {p['status']}, {p['why']}" for n, p in parts.items() if p["status"] != DONE]
    if left:
        lines += ["### What did not end", "\n".join(left)]
    return "\n\n".join(lines) + "\n"


def environment(about: Mapping[str, Any]) -> str:
    """Versions in one sentence."""
    versions = {**about["versions"], **about["rivals"]}
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{about['device']}, {about['cores']} cores; {named}."


def add(path: pathlib.Path, results: pathlib.Path) -> pathlib.Path:
    """Merge a record into the one of the same device; the file that holds it now."""
    content = read(path)
    target = results / f"accelerator_{slug(content['device'])}.json"
    both = [read(target), content] if target.exists() else [content]
    files.write_atomically(target, files.to_json(merge(both), indent=1) + "\n")
    return target


def committed(results: pathlib.Path = RESULTS) -> list[dict[str, Any]]:
    """The records of all devices."""
    return [read(path) for path in sorted(results.glob("accelerator_*.json"))]


def main(paths: Sequence[str]) -> None:
    """Merge, and write the page."""
    for path in paths:
        print(add(pathlib.Path(path), RESULTS))
    files.write_atomically(PAGE, page(committed()))
    print(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
