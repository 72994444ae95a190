"""The other processes of a run: one that fails or falls silent does not leave the rest waiting.

A process that waits for another in a collective operation waits for ever, and nothing in Python can
interrupt it. So a thread of every process tells the others each second that it lives, through the
store of `jax.distributed`, and ends its own process once another has failed or has been silent for
`LIMIT_SECONDS`. When the first process is killed, which holds the store, JAX itself ends the others
at once, with its own message and exit code 134.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from typing import Any

# How long a process may be silent, and how much later than another it may fail for the same reason.
LIMIT_SECONDS = 60.0
PERIOD_SECONDS = 1.0
# In which a process that hears of a failure may find the same one itself, and say it better.
GRACE_SECONDS = 5.0
FAILED = 4  # exit code of a process that another one left alone
SUCCESS = ("0", "3", "5")  # exit codes of those that came to the end
REMEDY = "See what each process printed, then repeat the same command on every machine: it resumes"
PREFIX = "ncap_jax"


def store() -> Any:
    """The key-value store of `jax.distributed`; None without one."""
    from jax._src import distributed  # JAX has no public name for it

    return getattr(getattr(distributed, "global_state", None), "client", None)


class FailedAloneError(Exception):
    """Training failed in this process, and in the others it did not, or in another way."""


class Watch:
    """Tells the other processes that this one lives, and ends it when one of them does not.

    Args:
        store: see `store`.
        index: of this process.
        count: of all.
    """

    def __init__(self, store: Any, index: int, count: int):
        self._store, self._index, self._count = store, index, count
        self._leaving = threading.Event()
        now = time.monotonic()
        self._beats: dict[int, str] = {}
        self._heard = dict.fromkeys(range(count), now)
        self._left: dict[int, tuple[str, float]] = {}
        self._meetings = 0
        # Two threads: a store that does not answer must not keep the other from noticing.
        for target in (self._talk, self._judge):
            threading.Thread(target=target, daemon=True, name=f"ncap_jax {target.__name__}").start()

    def _talk(self) -> None:
        beat = 0
        while not self._leaving.wait(PERIOD_SECONDS):
            beat += 1
            with contextlib.suppress(ValueError, RuntimeError):  # silence is judged elsewhere
                self._put(f"alive/{self._index}", str(beat), allow_overwrite=True)
                for number, value in self._all("alive/").items():
                    if self._beats.get(number) != value:
                        self._beats[number], self._heard[number] = value, time.monotonic()
                for number, code in self._all("left/").items():
                    self._left.setdefault(number, (code, time.monotonic()))

    def _judge(self) -> None:
        while not self._leaving.wait(PERIOD_SECONDS):
            found = self._failure(time.monotonic())
            if found:
                number, cause = found
                print(f"error: {cause}. {REMEDY}.", file=sys.stderr, flush=True)
                if number == 0:
                    _end(FAILED)  # its store may not answer any more
                self.leave(FAILED)

    def _failure(self, now: float) -> tuple[int, str] | None:
        """Which other process is lost, and why."""
        for number in set(range(self._count)) - {self._index}:
            code, since = self._left.get(number, ("", now))
            who = f"process {number} of {self._count}"
            if code and code not in SUCCESS and now - since > GRACE_SECONDS:
                return number, f"{who} ended with exit code {code} while this one waited for it"
            if not code and now - self._heard[number] > LIMIT_SECONDS:
                return number, f"{who} has given no sign of life for {LIMIT_SECONDS:g} seconds"
        return None

    def failed(self, kind: str, what: str) -> None:
        """Every process that failed in its training calls this: did all of them, in the same way?

        Args:
            kind: of the exception.
            what: failed, for the message.

        Raises:
            FailedAloneError: the others went on, and wait for this one in their next operation.
        """
        self._meetings += 1
        place = f"failed/{self._meetings}"
        self._put(f"{place}/{self._index}", kind)
        # A process that died is found silent first: what failed here is then only what followed.
        end = time.monotonic() + LIMIT_SECONDS + 3 * PERIOD_SECONDS
        for number in range(self._count):
            if self._wait_for(f"{place}/{number}", end) != kind:
                who = f"process {self._index} of {self._count}"
                raise FailedAloneError(f"{who} failed where others did not: {what}")

    def leave(self, code: int) -> None:
        """End this process, once the others know; never returns.

        Args:
            code: exit code.
        """
        self._leaving.set()
        with contextlib.suppress(ValueError, RuntimeError):
            self._put(f"left/{self._index}", str(code))
        # The first process still writes the report when the others have come to the end.
        notice = GRACE_SECONDS + 4 * PERIOD_SECONDS
        reporting = self._index != 0 and str(code) in SUCCESS
        end = time.monotonic() + (LIMIT_SECONDS if reporting else notice)
        for number in range(self._count):
            self._wait_for(f"left/{number}", end)
        if self._index == 0:
            time.sleep(PERIOD_SECONDS)  # the store ends with this process
        _end(code)

    def _put(self, key: str, value: str, **options: Any) -> None:
        self._store.key_value_set(f"{PREFIX}/{key}", value, **options)

    def _all(self, key: str) -> dict[int, str]:
        found = self._store.key_value_dir_get(f"{PREFIX}/{key}")
        return {int(name.rpartition("/")[2]): value for name, value in found}

    def _wait_for(self, key: str, end: float) -> str | None:
        left = max(1, int(1000 * (end - time.monotonic())))
        with contextlib.suppress(ValueError, RuntimeError):
            return str(self._store.blocking_key_value_get(f"{PREFIX}/{key}", left))
        return None


def _end(code: int) -> None:
    """End the process without the ordinary end, in which Gloo's threads may abort it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    logging.shutdown()
    os._exit(code)
