"""The command line, as a process of its own or in this one."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl.testing import flagsaver

from ncap_jax import __main__ as command

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Said(NamedTuple):
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def in_process(*arguments: str, cwd: pathlib.Path, python: Sequence[str] = ()) -> Said:
    """Run the command in a process of its own, with these options of Python's."""
    result = subprocess.run(
        [sys.executable, *python, "-m", "ncap_jax", *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return Said(result.returncode, result.stdout, result.stderr)


def environment() -> dict[str, str]:
    """This process's variables, for the same package in another folder.

    Compiled programs of any size are kept where the tests keep theirs.
    """
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def here(*arguments: str, cwd: pathlib.Path) -> Said:
    """Run the command in this process: flags, output, exit code and folder are put back after."""
    out, err = io.StringIO(), io.StringIO()
    with (
        flagsaver.flagsaver(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = command.main(command.parse(["ncap_jax", *arguments]))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Said(code, out.getvalue(), err.getvalue())
