"""Threads that decode: Pillow releases Python's lock while it decodes and resizes."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

WORKERS = min(8, os.cpu_count() or 1)
# Calls a thread makes before it looks for more work: handing work over costs about as much as
# decoding a small image.
_CHUNK = 16

T = TypeVar("T")


def ordered_map(function: Callable[[int], T], count: int, threads: int = WORKERS) -> Iterator[T]:
    """function(0) ... function(count - 1), in order, computed by threads a few chunks ahead.

    Args:
        function: called from several threads at once.
        count: number of calls.
        threads: number of threads; with 1, the calls are made in this thread, one when asked for.
    """
    if threads == 1:
        yield from map(function, range(count))
        return
    pending: collections.deque[concurrent.futures.Future[list[T]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            pending.append(pool.submit(_call_each, function, chunk))
            if len(pending) > 2 * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _call_each(function: Callable[[int], T], chunk: range) -> list[T]:
    return [function(index) for index in chunk]
