"""How files are written and read back: whole or not at all, strict JSON, damage told from sense.

Everything that a run or a cache keeps goes through here, so that a kill at any moment leaves
either the old file, the whole new one, or one torn last line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

from ncap_jax import errors

# How the names of files end while they are being written.
TEMPORARY = ".tmp"
# What reading a line that is damaged, or was never ours, can raise.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name only when it is whole and on the disk.

    Args:
        path: of the file; its folder is made if it is not there.

    Raises:
        OSError: the folder cannot be made or written. Nothing is left behind then, nor after any
            exception inside the context.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomically(path: pathlib.Path, data: str | bytes) -> None:
    """Write a file so that readers see the old one or the whole new one.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        with atomic_file(path) as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
    except OSError as error:
        raise errors.OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "Free space, or choose an output folder that you may write to",
        ) from error


@contextlib.contextmanager
def atomic_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Fill a folder that appears under its name only when it is whole and on the disk.

    A kill leaves the folder under its name as it was, the new one, or none. What an earlier kill
    left beside it is removed.

    Args:
        path: of the folder, whose own folder is made if it is not there. A folder that is there
            is replaced.

    Yields:
        The folder to fill, with files alone.

    Raises:
        OutputError: it cannot be written. Nothing is left behind then, nor after any exception
            inside the context.
    """
    path = path.resolve()
    hidden = f".{path.name}.{os.getpid()}"
    filled, replaced = (path.with_name(hidden + end) for end in (TEMPORARY, f".old{TEMPORARY}"))
    try:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
            shutil.rmtree(leftover, ignore_errors=True)
        filled.mkdir(parents=True)
        yield filled
        for each in (*filled.iterdir(), filled):
            _flush(each)
        if path.exists():
            os.replace(path, replaced)
        os.replace(filled, path)
        _flush(path.parent)
    except OSError as error:
        raise errors.OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "Free space, or choose a folder that you may write to",
        ) from error
    finally:
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        for leftover in (filled, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _flush(path: pathlib.Path) -> None:
    """Bring a file, or the list of a folder's files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: str | os.PathLike[str], text: str) -> None:
    """Append a line to a file and flush it to the disk, closing a torn one before it.

    Args:
        path: of the file; made if it is not there.
        text: of the line, without its end.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(f"{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise errors.OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "Free space, or choose an output folder that you may write to",
        ) from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file; bytes that are not UTF-8 come back as replacement characters.

    Raises:
        OSError: the file cannot be read.
    """
    return pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def remove_temporary(folder: pathlib.Path) -> None:
    """Remove the half-written files that a kill left in a folder; only for its sole writer."""
    for file in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            file.unlink()


def strict(value: Any) -> Any:
    """A value made of JSON's types alone: non-finite floats become None, records dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return strict({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if {*map(type, value)} <= {int, str}:  # as the rows of large matrices are
            return list(value)
        return [strict(item) for item in value]
    if hasattr(value, "item"):  # NumPy scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as strict JSON: no NaN, no infinity; see `strict`."""
    return json.dumps(strict(value), indent=indent, allow_nan=False)


def number(value: float | None) -> float:
    """A number that was read from strict JSON, where null stands for NaN."""
    return math.nan if value is None else float(value)
