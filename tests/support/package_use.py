"""Whether code uses the package as it is: names that exist, calls that its signatures accept.

The code is read, not run, so that branches which only run elsewhere (a GPU, a download) count too.
What is found out is limited to names reached from an import of the package.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from ncap_jax.options import DataConfig

PACKAGE = "ncap_jax"
# Functions that take the options of a record by keyword.
OPTIONS = {"load_dataset": DataConfig, "load_test_split": DataConfig}


def problems(code: str) -> list[str]:
    """What in some Python code does not fit the package: one line each, empty if all does."""
    tree = ast.parse(code)
    found: list[str] = []
    names = dict(_imports(tree, found))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(node, names, found)
        elif isinstance(node, ast.Call):
            function = _resolve(node.func, names, [])
            if callable(function):
                found += _misfits(node, function)
    return sorted(set(found))


def _imports(tree: ast.Module, found: list[str]) -> Iterator[tuple[str, Any]]:
    """Name -> object, for everything that is imported from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    module = importlib.import_module(alias.name)
                    yield (
                        (alias.asname, module)
                        if alias.asname
                        else (
                            PACKAGE,
                            importlib.import_module(PACKAGE),
                        )
                    )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                try:
                    yield alias.asname or alias.name, _member(str(node.module), alias.name)
                except ImportError:
                    found.append(f"line {node.lineno}: {node.module} has no {alias.name}")


def _member(module: str, name: str) -> Any:
    """What `from module import name` gives."""
    owner = importlib.import_module(module)
    return (
        getattr(owner, name)
        if hasattr(owner, name)
        else importlib.import_module(f"{module}.{name}")
    )


def _resolve(node: ast.expr, names: dict[str, Any], found: list[str]) -> Any:
    """The object of the package that an expression names, or None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _resolve(node.value, names, found)
    if owner is None:
        return None
    try:
        return getattr(owner, node.attr)
    except AttributeError:
        found.append(f"line {node.lineno}: {ast.unparse(node.value)} has no {node.attr}")
        return None


def _signature(function: Any) -> inspect.Signature:
    """What a call of a function or class takes; Flax's metaclass hides a module's `__init__`."""
    if isinstance(function, type) and type(function) is not type:
        own = inspect.signature(function.__init__)
        return own.replace(parameters=list(own.parameters.values())[1:])
    return inspect.signature(function)


def _misfits(call: ast.Call, function: Any) -> Iterator[str]:
    """Why a call does not fit a function's signature."""
    try:
        signature = _signature(function)
    except ValueError:  # not written in Python
        return
    where = f"line {call.lineno}: {ast.unparse(call.func)}"
    keywords = [keyword.arg for keyword in call.keywords if keyword.arg is not None]
    open_ended = len(keywords) < len(call.keywords) or any(
        isinstance(argument, ast.Starred) for argument in call.args
    )
    positional = [a for a in call.args if not isinstance(a, ast.Starred)]
    bind = signature.bind_partial if open_ended else signature.bind
    try:
        bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        yield f"{where}: {error}"
    if record := OPTIONS.get(getattr(function, "__name__", "")):
        known = {field.name for field in dataclasses.fields(record)} | set(signature.parameters)
        yield from (f"{where}: no option {name}" for name in keywords if name not in known)
