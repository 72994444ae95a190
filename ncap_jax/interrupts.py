"""Ctrl-C ends the command with one line and exit code 130, whatever the moment.

Imported before anything that takes long, so it imports little itself. Inside a job the first Ctrl-C
is a KeyboardInterrupt: workers and files are closed. Outside, and from the second one on, the
process ends at once: every file of a run is safe against that.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 130  # 128 + SIGINT, as shells have it

_pressed = 0  # how often, as far as the handler was told
_hint: Callable[[], str] | None = None  # of the job that runs
_leaving = threading.Lock()


def is_command(name: str, script: str) -> bool:
    """Whether a module runs as the command: not in a worker, not as a library.

    Args:
        name: of the module.
        script: what Python was started with.
    """
    runs = name == "__main__" or os.path.basename(script).removesuffix(".exe") == "ncap_jax"
    return runs and "multiprocessing.spawn" not in sys.modules


def install() -> None:
    """Handle Ctrl-C from here on; where it is ignored, as under `nohup`, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    # While Python itself is taken down there is nothing left to handle it.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


@contextlib.contextmanager
def job(hint: Callable[[], str]) -> Iterator[None]:
    """Inside, the first Ctrl-C raises KeyboardInterrupt.

    Args:
        hint: gives the words after "interrupted", such as how to resume.
    """
    global _hint
    _hint = hint
    try:
        yield
    finally:
        _hint = None


def announce(words: str) -> None:
    """Write a line to standard error, past the `^C` that a terminal shows, if that is possible."""
    with contextlib.suppress(OSError, ValueError):
        # A live view hides the cursor, and may not have come to showing it again.
        start = "\x1b[?25h\n" if os.isatty(2) else ""
        os.write(2, f"{start}{words}\n".encode(errors="backslashreplace"))


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _pressed
    _pressed += 1
    # Python and many libraries lose an exception that is raised while they import.
    if _pressed == 1 and _hint is not None and not _importing(frame):
        raise KeyboardInterrupt
    _leave("stopping now" if _pressed > 1 else "interrupted" + (_hint() if _hint else ""))


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _watch(reader: int) -> None:
    """Leave at the second Ctrl-C, though a long call outside Python (a compilation) runs.

    Handlers in Python wait until such a call returns; this thread does not.
    """
    pressed = 0
    while got := os.read(reader, 1):
        pressed += got[0] == signal.SIGINT
        if pressed > 1:
            _leave("stopping now")


def _leave(words: str) -> None:
    if not _leaving.acquire(blocking=False):
        return  # the other thread is about to
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    announce(words)
    os._exit(EXIT_CODE)
