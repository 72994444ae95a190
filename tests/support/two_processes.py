"""Two processes of one run (`ncap_jax.distributed`), simulated: threads that meet at a barrier.

That real processes broadcast what these tell one another is tested in
tests/distributed_test.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ncap_jax import distributed

TIMEOUT = 120.0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class TwoProcesses:
    """Runs the same action in both processes; give it a patch that lasts as long as they do."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self._here = threading.local()
        self._barrier = threading.Barrier(2, timeout=TIMEOUT)
        self._told: list[Any] = [None, None]
        patch.setattr(distributed, "is_distributed", lambda: True)
        patch.setattr(distributed, "is_primary", self.is_primary)
        patch.setattr(distributed, "broadcast_json", lambda value: self._exchange(value)[0])
        patch.setattr(distributed, "broadcast_bytes", lambda value: self._exchange(value)[0])
        patch.setattr(distributed, "gather_json", self._exchange)

    def is_primary(self) -> bool:
        """Whether this thread plays the primary process."""
        return self._here.number == 0

    def _exchange(self, value: Any) -> list[Any]:
        """Both processes' values, in each."""
        self._told[self._here.number] = value
        self._barrier.wait()
        told = list(self._told)
        self._barrier.wait()
        return told

    def __call__(self, action: Callable[[], Any]) -> list[Any]:
        """What the action returned or raised, in each process."""
        outcomes: list[Any] = [None, None]

        def process(number: int) -> None:
            self._here.number = number
            try:
                outcomes[number] = action()
            except Exception as error:
                outcomes[number] = error
                if isinstance(error, threading.BrokenBarrierError):
                    raise

        threads = [threading.Thread(target=process, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes
