"""Streams that fail: nothing is raised, and nothing is said where nobody listens."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest

from ncap_jax import output
from tests.support import command_line


class Full(io.StringIO):
    """A stream without room, which counts how often it was tried."""

    tried = 0

    def write(self, words: str) -> int:
        self.tried += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("words", "encoding", "shown"),
    [
        ("96.7 ± 3.0 %, β_eff – 猫", "utf-8", "96.7 ± 3.0 %, β_eff – 猫"),
        ("96.7 ± 3.0 %, β_eff – 猫", "ascii", r"96.7 +- 3.0 %, beta_eff - \u732b"),
        ("é ± β", "latin-1", "é +- beta"),
        ("plain", None, "plain"),
    ],
)
def test_characters_that_an_encoding_lacks_are_spelled(words, encoding, shown):
    assert output.spelled(words, encoding) == shown


def test_a_stream_that_works_is_written_to():
    buffer = io.BytesIO()
    stream = output.SafeStream(io.TextIOWrapper(buffer, encoding="ascii"))
    assert print("a ± b", file=stream, flush=True) is None
    assert buffer.getvalue() == b"a +- b\n"
    assert (stream.encoding, stream.isatty(), stream.failure) == ("ascii", False, None)


@pytest.mark.parametrize(("make", "kind"), [(Full, OSError), (closed, ValueError)])
def test_the_first_failure_is_kept_and_the_stream_is_silent(make, kind):
    inner = make()
    stream = output.SafeStream(inner)
    for _ in range(3):
        print("words", file=stream, flush=True)
    assert isinstance(stream.failure, kind)
    assert not stream.isatty()
    assert getattr(inner, "tried", 1) == 1


def test_a_stream_that_is_not_there_takes_everything():
    stream = output.SafeStream(None)
    print("words", file=stream, flush=True)
    assert (stream.failure, stream.isatty(), stream.encoding) == (None, False, "utf-8")


SCRIPT = """
import os, sys
from ncap_jax import output
with output.protected():
    opened = os.open({path!r}, os.O_RDWR | os.O_CREAT)
    print("said" * {times})
    print("noted", file=sys.stderr)
    os.write(opened, b"content")
sys.exit(5)
"""


def shell(redirected: str, path, times: int = 1) -> tuple[int, str, str, str]:
    """Exit code, output, errors and the file's content of the script under such redirections."""
    script = SCRIPT.format(path=str(path), times=times)
    result = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirected}', sys.executable, script],
        env=command_line.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr, path.read_text()


@pytest.mark.parametrize(
    ("redirected", "out", "err"),
    [
        ("", "said\n", "noted\n"),
        (">&-", "", "noted\n"),
        ("2>&-", "said\n", ""),
        (">&- 2>&- <&-", "", ""),
        (">/dev/full", "", "noted\nwarning: standard output cannot be written: No space left on "
         "device\n"),
        ("2>/dev/full", "said\n", ""),
        (">/dev/full 2>/dev/full", "", ""),
    ],
)  # fmt: skip
def test_exit_code_and_files_are_those_of_the_work(tmp_path, redirected, out, err):
    """A file that is opened later never gets the number of a closed stream."""
    assert shell(redirected, tmp_path / "file") == (5, out, err, "content")


def test_a_reader_that_leaves_is_not_told_of(tmp_path):
    code, out, err, content = shell("| head -c 3; exit ${PIPESTATUS[0]}", tmp_path / "f", 100_000)
    assert (code, out, err, content) == (5, "sai", "noted\n", "content")
