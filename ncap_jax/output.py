"""Text streams that never end a run: closed, full, cut off by `head`, or of few characters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

# What a terminal without Unicode gets instead.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("─━–—−╸╺", "-"),
        "±": "+-",
        "×": "x",
        "β": "beta",
        "σ": "sigma",
        "…": "...",
        "’": "'",
    }
)


def spelled(words: str, encoding: str | None) -> str:
    """Words in characters that an encoding has: ± as +-, β as beta, the rest as escapes."""
    encoding = encoding or "utf-8"
    try:
        words.encode(encoding)
    except UnicodeEncodeError:
        plain = words.translate(_PLAIN)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return words


class SafeStream:
    """A text stream whose first failure is kept, not raised; from then on it is silent.

    Args:
        stream: that is written to; None, as Python has it for a closed one: nothing is written.

    Attributes:
        failure: what the stream raised, or None.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        """Of the stream; UTF-8 where it has none."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and bool(self._stream.isatty())
        return False

    def write(self, words: str) -> int:
        """Write, if that is possible; characters that the stream lacks are spelled out."""
        self._attempt(lambda: self._stream.write(spelled(words, self.encoding)))
        return len(words)

    def flush(self) -> None:
        """Flush, if that is possible."""
        self._attempt(lambda: self._stream.flush())

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._stream is None or self.failure is not None:
            return
        try:
            action()
        except (OSError, ValueError) as error:  # a closed file is a ValueError
            self.failure = error


@contextlib.contextmanager
def protected() -> Iterator[None]:
    """Inside, no failure of standard output or standard error is raised.

    At the end a full device is told on standard error. A reader that has seen enough, such as
    `head`, is not.
    """
    _occupy_standard_streams()
    before: tuple[Any, Any] = sys.stdout, sys.stderr
    out, err = map(SafeStream, before)
    put: Any = sys  # whose streams need not be files, whatever their type says
    put.stdout, put.stderr = out, err
    try:
        yield
    finally:
        out.flush()
        if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
            reason = getattr(out.failure, "strerror", None) or out.failure
            err.write(f"warning: standard output cannot be written: {reason}\n")
        err.flush()
        for number, stream in ((1, out), (2, err)):
            if stream.failure is not None:
                _discard(number)


def _occupy_standard_streams() -> None:
    # A file that is opened later must not get the number of a closed stream: whatever a library
    # prints there would go into it.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _discard(number: int) -> None:
    """Let what is still in a broken stream's buffer go nowhere: Python flushes it at its end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
