"""How often JAX compiles, by its own account (`jax.monitoring`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import pytest

# Recorded for every program, read from the persistent cache or not.
COMPILED = "/jax/core/compile/backend_compile_duration"

_listening: list[list[str]] = []


def _listen(event: str, duration: float, **facts: Any) -> None:
    if event == COMPILED:
        for programs in _listening:
            programs.append(str(facts.get("fun_name", "")))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the programs that are compiled in the block, such as `jit(train_step)`."""
    programs: list[str] = []
    _listening.append(programs)
    try:
        yield programs
    finally:
        _listening.remove(programs)


@pytest.fixture(scope="package", autouse=True)
def cheap_programs() -> Iterator[None]:
    """XLA leaves out most of its optimizations, which take longer than small programs run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
