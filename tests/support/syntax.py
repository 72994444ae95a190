"""The package as syntax trees: what imports what, and how long things are."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ncap_jax"
MODULES = tuple(sorted(PACKAGE.rglob("*.py")))


def module_name(path: pathlib.Path) -> str:
    """`ncap_jax/run/job.py` -> `ncap_jax.run.job`; a package is named without `__init__`."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _for_type_checkers(root: ast.AST) -> set[int]:
    """Nodes below `if TYPE_CHECKING:`, which never run."""
    return {
        id(inner)
        for node in ast.walk(root)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }


def imported(root: ast.AST) -> set[str]:
    """Dotted names of everything that is imported at run time, inside functions too.

    `from a import b` counts as `a.b`: whether b is a module is for the caller to know.
    """
    unreal, names = _for_type_checkers(root), set[str]()
    for node in ast.walk(root):
        if id(node) in unreal:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def at_import(root: ast.Module) -> ast.Module:
    """The tree without what functions hold: what runs when the module is imported."""
    kept = [n for n in root.body if not isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return ast.Module(body=kept, type_ignores=[])


def imports(root: ast.AST, *packages: str) -> bool:
    """Whether anything of one of these packages is imported."""
    return any(
        name == package or name.startswith(f"{package}.")
        for name in imported(root)
        for package in packages
    )


@functools.cache
def graph(*, at_import_only: bool = False) -> Mapping[str, frozenset[str]]:
    """Module -> modules of the package that it imports, itself and the package's root left out."""
    known = {module_name(path) for path in MODULES}

    def nearest(name: str) -> str:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    found = {}
    for path in MODULES:
        root = at_import(tree(path)) if at_import_only else tree(path)
        targets = {nearest(name) for name in imported(root)}
        found[module_name(path)] = frozenset(targets - {"", "ncap_jax", module_name(path)})
    return found


def functions(path: pathlib.Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
