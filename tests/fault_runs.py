"""Runs that are going to be killed: a server that forks one for every line of its input.

A line is JSON: a folder, the call to die in or null, and a file for the journal of calls or null;
the last two need `kill_at_write.c` preloaded. A call is its kind, which one of its kind, and
whether a write is done by half. Answers a line each: `pid N`, then `end STATUS`, as `waitpid` gives
it. All imports are done once, before JAX has made a thread.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
import warnings


def run(folder: str) -> None:
    """Two small models, three epochs."""
    import ncap_jax as ncap
    from tests.small import small_config, small_digits, small_spec

    pool = [small_spec("small_4", 4), small_spec("small_8", 8)]
    ncap.rank_models(pool, small_digits(), small_config(epochs=3), folder, show_progress=False)


def prepare() -> None:
    """Import everything that a run needs."""
    import jax
    import orbax.checkpoint  # noqa: F401

    from ncap_jax import api  # noqa: F401
    from ncap_jax.report import figures, html, markdown  # noqa: F401

    # Compiled programs are kept, however small: every run but the first loads them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would inherit broken threads"


def child(folder: str, call: list | None, journal: str | None) -> None:
    """The forked run; never returns."""
    code = 1
    try:
        if call or journal:
            log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if journal else -1
            kind, at, half = call or ("", 0, False)
            arm = ctypes.CDLL(None).ncap_arm
            arm(folder.encode(), kind.encode(), ctypes.c_long(at), int(half), log)
        run(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    warnings.filterwarnings("ignore", message=r"os\.fork")
    prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        folder, call, journal = json.loads(line)
        pid = os.fork()
        if not pid:
            child(folder, call, journal)
        print(f"pid {pid}", flush=True)
        print(f"end {os.waitpid(pid, 0)[1]}", flush=True)


if __name__ == "__main__":
    main()
