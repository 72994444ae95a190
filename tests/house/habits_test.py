"""Habits that a tool can count: mirrored tests, types, short functions, plain English."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.support import syntax

TESTS = syntax.ROOT / "tests"
# What a technical editor would not print.
PHRASES = re.compile(
    r"\b(?:is|are|was|were) no (?!longer|more|less|different|better|worse|effect|need)\w+"
    r"|\bgo(?:es)? on with\b|\bgone on with\b|\bat all\b(?=[.;)])|\bso many\b|\b[Mm]end(?:ed)?\b"
    r"|\bcannot be had\b|\bto be had\b|\bis said\b|\b(?:growth|epochs?) (?:still )?to come\b"
)
DOCUMENTS = (
    *syntax.MODULES,
    syntax.ROOT / "README.md",
    *sorted((syntax.ROOT / "docs").rglob("*.md")),
)


def test_every_module_has_a_test_of_its_own() -> None:
    modules = [p for p in syntax.MODULES if p.name not in ("__init__.py", "_version.py")]
    mirrors = {
        p: TESTS / p.relative_to(syntax.PACKAGE).with_name(f"{p.stem}_test.py") for p in modules
    }
    bare = [
        str(module.relative_to(syntax.ROOT))
        for module, test in mirrors.items()
        if not test.is_file()
    ]
    assert bare == []


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS))
)
def test_no_test_imports_another(path: pathlib.Path) -> None:
    assert [n for n in syntax.imported(syntax.tree(path)) if re.search(r"_test(\.|$)", n)] == []


@pytest.mark.parametrize("path", syntax.MODULES, ids=syntax.module_name)
def test_arguments_have_types_and_functions_are_short(path: pathlib.Path) -> None:
    for function in syntax.functions(path):
        arguments = function.args
        named = [
            a for a in (*arguments.args, *arguments.kwonlyargs) if a.arg not in ("self", "cls")
        ]
        untyped = [a.arg for a in named if a.annotation is None]
        assert untyped == [], f"{function.name} (line {function.lineno})"
        assert syntax.body_lines(function) <= 40, f"{function.name} (line {function.lineno})"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(syntax.ROOT)))
def test_plain_english(path: pathlib.Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [f"{n}: {m[0]}" for n, line in enumerate(lines, 1) if (m := PHRASES.search(line))] == []
