"""How hard XLA works on a program, chosen by how often the program will run.

On a CPU most of a first run is LLVM's optimiser. A program that runs six times does not earn back
what its full optimisation takes; a training step that runs a few hundred times earns back a part.
`python -m benchmarks.compile_effort` measures what each choice costs and gains.

The choice follows from the data and from those of a run's options that never change in its folder,
not from what is left to do, nor from the number of epochs: a model that resumes, or is given more
epochs, runs the program it was started with, to the last bit.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

Effort = Literal["least", "some", "full"]

# Runs up to which the cheaper effort is worth it.
LEAST_RUNS = 16
SOME_RUNS = 250

_PLAIN_EMITTERS = {"xla_cpu_use_fusion_emitters": False}
# Backend -> effort -> XLA's options for one program. Backends that are not here, whose compilers
# have not been measured, compile everything at full effort.
OPTIONS: Mapping[str, Mapping[Effort, Mapping[str, Any]]] = {
    "cpu": {
        "least": {"xla_backend_optimization_level": "0", **_PLAIN_EMITTERS},
        "some": {"xla_backend_optimization_level": "1", **_PLAIN_EMITTERS},
        "full": {},
    },
}


def effort_for(runs: int) -> Effort:
    """The effort for a program that will run this many times."""
    if runs <= LEAST_RUNS:
        return "least"
    return "some" if runs <= SOME_RUNS else "full"


@functools.cache
def compiler_options(effort: Effort) -> dict[str, Any]:
    """XLA's options for an effort on the default backend.

    What the environment variable XLA_FLAGS sets stays as it is, and an option that this version
    of XLA does not know is left out.
    """
    wanted = OPTIONS.get(jax.default_backend(), {}).get(effort, {})
    given = os.environ.get("XLA_FLAGS", "")
    return {
        name: value for name, value in wanted.items() if name not in given and _known(name, value)
    }


def _known(name: str, value: Any) -> bool:
    """Whether XLA knows an option: it refuses a program that is compiled with any other."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


class Jitted:
    """A function under `jax.jit` whose callers say how hard its program is worth compiling.

    Args:
        function: as for `jax.jit`.
        **options: of `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._options = options
        self._by_effort: dict[Effort, Any] = {}

    def at(self, effort: Effort) -> Any:
        """The function under `jax.jit` at one effort."""
        if effort not in self._by_effort:
            jitted = jax.jit(
                self.__wrapped__,  # type: ignore[attr-defined]
                compiler_options=compiler_options(effort),
                **self._options,
            )
            # Two threads may have made one each; all must call the same, or both would compile.
            self._by_effort.setdefault(effort, jitted)
        return self._by_effort[effort]

    def __call__(self, *args: Any, effort: Effort = "full", **kwargs: Any) -> Any:
        """Call the function."""
        return self.at(effort)(*args, **kwargs)
