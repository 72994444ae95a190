"""The next models are built and compiled in threads while one trains.

XLA releases Python's lock while it compiles, and compiling is most of a first run. What a thread
makes is what the worker would have made: the numbers are the same. A model that cannot be built or
compiled is tried again when its turn comes, and fails alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for

from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.finetune.programs import compile_programs
from ncap_jax.finetune.steps import Deadline

# Models that wait at a time: each holds its weights and its optimizer's state.
MOST = 3
# Seconds between two looks at the deadline while a model is waited for.
PATIENCE = 0.2


# Name of the threads.
THREAD = "ncap_jax: prepares the next model"


def leave(code: int) -> None:
    """End the process without waiting for a compiler that is still at work; else return.

    For the command, once all results are written and printed: the end of a run, by a budget or by
    Ctrl-C, must not wait for a model that nobody will train.

    Args:
        code: exit code.
    """
    if any(thread.name == THREAD for thread in threading.enumerate()):
        os._exit(code)


def wait() -> None:
    """Return once no thread builds or compiles a model any more."""
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join()


def threads() -> int:
    """How many models are prepared beside the one that trains: one for each further core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST, (cores or 1) - 1)


class Ahead:
    """Models under preparation.

    Args:
        start: makes a candidate by its name, with its weights and what measures it.
        most: how many are prepared at a time; 0: none.
    """

    def __init__(self, start: Callable[[str], FineTuning], most: int):
        self._start, self._most = start, most
        self._under_way: dict[str, Future[FineTuning]] = {}

    def expect(self, names: Iterable[str], until: int) -> None:
        """Say who comes next, in order; as many as there are threads for are prepared.

        Args:
            names: of the models.
            until: the epoch up to which they will train.
        """
        for name in names:
            if len(self._under_way) >= self._most:
                return
            if name not in self._under_way:
                future: Future[FineTuning] = Future()
                self._under_way[name] = future
                # Not a daemon: Python's end while XLA compiles in a thread aborts the process.
                arguments = name, until, future
                threading.Thread(target=self._prepare, args=arguments, name=THREAD).start()

    def take(self, name: str, deadline: Deadline | None = None) -> FineTuning | None:
        """The model once it is prepared; None if it was not expected, or could not be prepared.

        An exception that `deadline` raises ends the waiting.
        """
        future = self._under_way.pop(name, None)
        while future is not None and deadline is not None and not future.done():
            deadline()
            wait_for([future], PATIENCE)
        return None if future is None or future.exception() is not None else future.result()

    def clear(self) -> None:
        """Forget all models, to free their memory; a compiler that is at work comes to its end."""
        self._under_way.clear()

    def _prepare(self, name: str, until: int, future: Future[FineTuning]) -> None:
        try:
            tuning = self._start(name)
            compile_programs(tuning, until)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(tuning)
