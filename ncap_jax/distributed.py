"""Several processes that run the same program (`jax.distributed`): who reads and writes.

Every process computes the same on the same data. Only the primary one reads and writes the run's
folder; it tells the others what it finds there and what goes wrong, so that all take the same
decisions. With a single process everything here is a plain call.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from ncap_jax import errors, peers

T = TypeVar("T")
# A broadcast is compiled for every length: messages are padded to multiples of MESSAGE_BYTES, and
# long arrays are sent in pieces, which also bounds the memory that they take on the devices.
MESSAGE_BYTES = 1 << 10
PIECE_BYTES = 16 << 20
_watch: peers.Watch | None = None


def join() -> None:
    """Join the other processes of a run; call it before anything else is done with JAX.

    `jax.distributed.initialize` recognises Slurm, Open MPI, Kubernetes and Cloud TPU by itself;
    elsewhere set `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
    From then on this process ends, with exit code 4, when another one fails (`ncap_jax.peers`); end
    it with `leave`.

    Raises:
        ConfigError: the variables are missing, or the other processes do not answer.
    """
    import jax

    try:
        count, index = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
        jax.distributed.initialize(num_processes=count, process_id=index)
    except (ValueError, RuntimeError) as error:
        raise errors.ConfigError(
            f"this process cannot join the others: {error}",
            "Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each of them",
        ) from error
    global _watch
    store = peers.store()
    if store is not None and jax.process_count() > 1:
        _watch = peers.Watch(store, jax.process_index(), jax.process_count())


def leave(code: int) -> None:
    """End a process that has joined others, once these know; returns if it has not.

    Args:
        code: exit code; any but 0, 3 and 5 ends the others as well.
    """
    if _watch is not None:
        _watch.leave(code)


def failed(kind: str, what: str) -> None:
    """Say that training has failed in this process; after it all processes have failed alike.

    Args:
        kind: the exception's; what follows depends on it.
        what: of the model and the exception, for the message.

    Raises:
        ProcessError: the others have not failed, or in another way.
    """
    if _watch is not None:
        try:
            _watch.failed(kind, what)
        except peers.FailedAloneError as error:
            raise errors.ProcessError(str(error), peers.REMEDY) from error


@contextlib.contextmanager
def _named_failure() -> Iterator[None]:
    """Around a collective operation: what it raises because another process is gone, by name.

    Raises:
        ProcessError: in place of the transport's errors.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        cause = f"another process of this run is gone: {line}"
        raise errors.ProcessError(cause, peers.REMEDY) from error


def is_distributed() -> bool:
    """Whether this is one of several processes that run the same program."""
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_primary() -> bool:
    """Whether this process is the one that reads and writes."""
    import jax

    return not is_distributed() or jax.process_index() == 0


def broadcast_json(value: Any) -> Any:
    """The primary process's value (of JSON's types), in every process."""
    if not is_distributed():
        return value
    from jax.experimental import multihost_utils

    text = json.dumps(value if is_primary() else None).encode()
    text = text.ljust(-(-len(text) // MESSAGE_BYTES) * MESSAGE_BYTES)
    with _named_failure():
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # Of the others' content only the size matters.
    return json.loads(broadcast_bytes(np.resize(np.frombuffer(text, np.uint8), size)).tobytes())


def broadcast_bytes(data: np.ndarray) -> np.ndarray:
    """The primary process's bytes, in every process; (n,) uint8.

    Args:
        data: (n,) uint8; in the other processes only its length matters.
    """
    if not is_distributed():
        return data
    from jax.experimental import multihost_utils

    with _named_failure():
        pieces = [
            np.asarray(
                multihost_utils.broadcast_one_to_all(data[start : start + PIECE_BYTES]), np.uint8
            )
            for start in range(0, data.size, PIECE_BYTES)
        ]
    return np.concatenate([data[:0], *pieces])


def gather_json(value: Any) -> list[Any]:
    """Every process's value (of JSON's types), in the order of the processes, in each of them."""
    if not is_distributed():
        return [value]
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode()
    with _named_failure():
        sizes = multihost_utils.process_allgather(np.int32(len(text)))
        longest = -(-int(np.max(sizes)) // MESSAGE_BYTES) * MESSAGE_BYTES
        padded = np.frombuffer(text.ljust(longest), np.uint8)
        rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    return [json.loads(row.tobytes()) for row in rows]


def on_primary(action: Callable[[], T]) -> T:
    """Call an action in the primary process only; all wait for it and share its outcome.

    What it raises there is raised everywhere: a process that went on without the others would wait
    for them for ever.

    Args:
        action: returns a value of JSON's types.

    Raises:
        NcapError: of the same kind and with the same text as the action's.
        RuntimeError: for any other exception of the action, if there are several processes.
    """
    if not is_distributed():
        return action()
    value, cause = None, None
    if is_primary():
        try:
            value = action()
        except Exception as error:
            cause = error
    told = broadcast_json([value, None if cause is None else _in_words(cause)])
    if told[1] is not None:
        raise _from_words(*told[1]) from cause
    return told[0]


def on_every(action: Callable[[], T]) -> T:
    """Call an action in every process, such as reading weights: it succeeds in all or in none.

    Raises:
        NcapError, RuntimeError: of the first process that failed, in every process; see
            `on_primary`. With a single process, whatever the action raises.
    """
    if not is_distributed():
        return action()
    value, cause = None, None
    try:
        value = action()
    except Exception as error:
        cause = error
    failures = [f for f in gather_json(None if cause is None else _in_words(cause)) if f]
    if failures:
        raise _from_words(*failures[0]) from cause
    assert value is not None, "an action that returns nothing needs no agreement"
    return value


def _in_words(error: Exception) -> list[str]:
    """Kind, cause and remedy of an error; the kind is empty unless it is one of ours."""
    if isinstance(error, errors.NcapError):
        return [type(error).__name__, error.cause, error.remedy]
    return ["", f"{type(error).__name__}: {error}", ""]


def _from_words(kind: str, cause: str, remedy: str) -> Exception:
    return getattr(errors, kind)(cause, remedy) if kind else RuntimeError(cause)
