"""Compilation of later parts in processes beside the running one.

What such a process compiles goes into the folder of compiled programs, where the part finds it.
While a part measures times, these processes are stopped, and go on after it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

# Seconds that a process has to end by itself.
GRACE = 5.0
# Becomes the command that follows, which the system kills (9) when whoever started it has ended
# (prctl's option 1, PR_SET_PDEATHSIG). Python's own hook for that, between fork and exec, may hang
# where JAX's threads are.
FOLLOW = (
    *(sys.executable, "-S", "-c"),
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])",
)


def following(command: Sequence[str]) -> list[str]:
    """The command, which on Linux ends when whoever starts it has ended, however that was."""
    return [*FOLLOW, *command] if sys.platform == "linux" else list(command)


def start(
    command: Sequence[str], environ: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own, which ends when this process is killed."""
    return subprocess.Popen(
        following(command),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    for kind, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        send(process, signal.SIGCONT)
        send(process, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    # What the process itself left behind.
    send(process, signal.SIGKILL)


def send(process: subprocess.Popen[bytes], kind: int) -> None:
    """Send a signal to a process's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, kind)


class Beside:
    """Processes that compile for later parts.

    Args:
        most: how many at a time; 0: none.
        environ: of the processes.
        folder: of their logs.
        limit: seconds that one may take; time in which it is stopped does not count.
    """

    def __init__(
        self, most: int, environ: Mapping[str, str], folder: pathlib.Path, limit: float = 600
    ) -> None:
        self.most, self.environ, self.folder, self.limit = most, environ, folder, limit
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.spent: dict[str, float] = {}
        self.ended: dict[str, int] = {}
        self._since = time.monotonic()
        self._stopped = False

    def expect(self, commands: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Start what is not started yet, in this order, as far as there is room."""
        self.look()
        for name, command in commands:
            if len(self.running) >= self.most:
                return
            if command and name not in self.running and name not in self.ended:
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(self.folder / f"compile_{name.replace('/', '_')}.log", "wb") as log:
                    self.running[name] = start(command, self.environ, log)
                self.spent[name] = 0.0
                if self._stopped:
                    send(self.running[name], signal.SIGSTOP)

    def look(self) -> None:
        """Notice which processes have ended, and end those that take too long."""
        now = time.monotonic()
        passed = 0.0 if self._stopped else now - self._since
        self._since = now
        for name, process in list(self.running.items()):
            self.spent[name] += passed
            if process.poll() is None and self.spent[name] > self.limit:
                end(process)
            if process.poll() is not None:
                self.ended[name] = int(process.returncode)
                del self.running[name]

    def is_busy(self, name: str) -> bool:
        """Whether a part's programs are being compiled."""
        self.look()
        return name in self.running

    def stop(self) -> None:
        """Stop all processes for a while."""
        self.look()
        self._stopped = True
        for process in self.running.values():
            send(process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        self.look()
        self._stopped = False
        for process in self.running.values():
            send(process, signal.SIGCONT)

    def close(self) -> None:
        """End all of them."""
        for name, process in self.running.items():
            end(process)
            self.ended[name] = int(process.returncode)
        self.running.clear()
