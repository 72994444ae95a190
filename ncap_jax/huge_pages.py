"""Large arrays in huge pages: the command starts Python again, with glibc told to ask for them.

XLA allocates a program's intermediate results at every execution, gigabytes for a network of
ImageNet's size. The kernel interrupts the program at the first touch of every page, to clear it; of
pages of 2 MiB instead of 4 KiB there are 512 times fewer (docs/results/training-step.md). glibc
reads its setting when a process starts. So the process replaces itself, before any import that
takes a while: it keeps its process ID and its arguments, and workers inherit the setting.

Only the command does so. Elsewhere, as in a notebook, set `GLIBC_TUNABLES` before Python starts.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
OLDEST = (2, 35)  # the first glibc that knows the tunable
# Holds "always", "madvise" and "never", the kernel's choice in brackets.
CHOICE = "/sys/kernel/mm/transparent_hugepage/enabled"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that asks for huge pages.

    Args:
        environ: of a process.

    Returns:
        Nothing if it would change nothing (the kernel gives huge pages to every process, or to
        none), if glibc does not know it, or if the process has been told whether to ask.
    """
    told = environ.get(VARIABLE, "")
    if TUNABLE in told or glibc() < OLDEST or not on_request():
        return {}
    return {VARIABLE: f"{told}:{TUNABLE}=1".lstrip(":")}


def glibc() -> tuple[int, ...]:
    """Its version; (0,) where another C library is used."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        return tuple(map(int, version.split("."))) if name == "glibc" else (0,)
    except (AttributeError, ValueError, OSError):  # not Linux, or not glibc
        return (0,)


def on_request() -> bool:
    """Whether the kernel gives huge pages to those who ask, and only to them."""
    try:
        with open(CHOICE) as file:
            return "[madvise]" in file.read()
    except OSError:
        return False


def use() -> None:
    """Replace this process by one with huge pages, if that helps; then it does not return."""
    more = environment(os.environ)
    if more and sys.executable:
        with contextlib.suppress(OSError):  # without them it is slower, and right
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **more})
