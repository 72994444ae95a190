"""Runs that are going to be killed: a server that forks one for every line of its input.

    python -m tests.support.fault_runs [fake]

A line is JSON: a folder, the call to die in or null, a file for the journal of calls or null, and
whether a ranking in the folder is finished. The call and the journal need `kill_at_write.c`
preloaded. A call is its kind, which one of its kind, and whether a write is done by half. Answers a
line each: `pid N`, then `end STATUS`, as `waitpid` gives it. All imports are done once, before JAX
has made a thread. With `fake` the models' training is that of `tests.support.fake_training`; all
files are as real ones, and a finish is real.
"""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import sys
import traceback
import warnings
from typing import Any

MODELS = ("small_4", "small_8")
EPOCHS = 3
FAKES: list[Any] = []  # what is in place of the models' training


def run(folder: str, *, finish: bool) -> None:
    """Two small models, three epochs; or the finish of a ranking."""
    import ncap_jax as ncap
    from tests.support import finishing

    if finish:
        for patch in FAKES:
            patch.undo()
        finishing.finish(pathlib.Path(folder))
        return
    from tests.support.small import small_config, small_digits, small_spec

    pool = [small_spec(name, int(name.rpartition("_")[2])) for name in MODELS]
    head = "linear" if "fake" in sys.argv else "trainable_probe"
    config = small_config(epochs=EPOCHS, head=head)
    ncap.rank_models(pool, small_digits(), config, folder, show_progress=False)


def prepare() -> None:
    """Import everything that a run needs."""
    import jax
    import orbax.checkpoint  # noqa: F401

    from ncap_jax.report import figures, html, markdown  # noqa: F401
    from ncap_jax.run import finishing, pipeline  # noqa: F401

    # Compiled programs are kept, however small: every run but the first loads them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if "fake" in sys.argv:
        import pytest

        from tests.support import fake_training

        FAKES.append(pytest.MonkeyPatch())
        fake_training.install(FAKES[0])
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would inherit broken threads"


def child(folder: str, call: list[Any] | None, journal: str | None, *, finish: bool) -> None:
    """The forked run; never returns."""
    code = 1
    try:
        if call or journal:
            log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if journal else -1
            kind, at, half = call or ("", 0, False)
            arm = ctypes.CDLL(None).ncap_arm
            arm(folder.encode(), kind.encode(), ctypes.c_long(at), int(half), log)
        run(folder, finish=finish)
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
        folder, call, journal, finish = json.loads(line)
        pid = os.fork()
        if not pid:
            child(folder, call, journal, finish=finish)
        print(f"pid {pid}", flush=True)
        print(f"end {os.waitpid(pid, 0)[1]}", flush=True)


if __name__ == "__main__":
    main()
