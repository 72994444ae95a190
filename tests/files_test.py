"""Files appear whole or not at all, lines survive torn ones, JSON stays strict."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import pathlib

import numpy as np
import pytest

from ncap_jax import errors, files


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order: `sync` for a file's content, `name` for its name."""
    events: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("name"), replace(a, b))[1])
    return events


def test_a_file_gets_its_name_once_its_content_is_on_the_disk(
    tmp_path: pathlib.Path, disk: list[str]
) -> None:
    path = tmp_path / "new" / "file"
    files.write_atomically(path, "grün")
    assert path.read_bytes() == "grün".encode()
    assert disk == ["sync", "name"]
    files.write_atomically(path, b"other")
    assert path.read_bytes() == b"other"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.OutputError) as error:
        files.write_atomically(path, "new")
    assert error.value.cause == f"cannot write {path}: No space left on device"
    assert error.value.remedy == "Free space, or choose an output folder that you may write to"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_whatever_happens_inside_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    def interrupted() -> None:
        with files.atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_readers_never_see_half_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, "old")
    with files.atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old"


def test_a_written_file_has_ordinary_permissions(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    files.write_atomically(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


def test_lines_are_appended_and_flushed(tmp_path: pathlib.Path, disk: list[str]) -> None:
    path = tmp_path / "lines"
    files.append_line(path, "one")
    files.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    assert disk == ["sync", "sync"]


def test_a_torn_line_is_closed_before_the_next(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"epoch": 1, "tra\xff')
    files.append_line(path, "two")
    torn, whole = files.read_lines(path)
    assert torn.endswith("\N{REPLACEMENT CHARACTER}")
    assert whole == "two"


def test_a_line_that_cannot_be_written_names_file_and_remedy(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "no folder" / "lines"
    with pytest.raises(errors.OutputError) as error:
        files.append_line(path, "one")
    assert error.value.cause == f"cannot write {path}: No such file or directory"
    assert error.value.remedy == "Free space, or choose an output folder that you may write to"


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / f".file.123{files.TEMPORARY}").write_text("half")
    (tmp_path / ".lock").write_text("")
    (tmp_path / f"mine{files.TEMPORARY}").write_text("a user's own")
    files.remove_temporary(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", f"mine{files.TEMPORARY}"}


@dataclasses.dataclass
class Record:
    values: tuple[float, ...]
    inner: Record | None = None


def test_json_is_strict() -> None:
    record = Record((1.5, math.nan, -math.inf), Record((np.float32(0.5), np.int64(3))))
    text = files.to_json({"record": record, 1: True, "none": None})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "record": {
            "values": [1.5, None, None],
            "inner": {"values": [0.5, 3], "inner": None},
        },
        "1": True,
        "none": None,
    }
    assert json.loads(text)["1"] is True


def test_null_stands_for_a_number_that_is_none() -> None:
    assert math.isnan(files.number(None))
    assert files.number(3) == 3.0
    with pytest.raises(files.DAMAGE):
        files.number("three")  # type: ignore[arg-type]


def fill(path: pathlib.Path, content: bytes) -> None:
    """Write a folder of two files."""
    with files.atomic_folder(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_bytes(content)


def contents(path: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_folder_gets_its_name_once_its_files_are_on_the_disk(
    tmp_path: pathlib.Path, disk: list[str]
) -> None:
    path = tmp_path / "new" / "folder"
    fill(path, b"one")
    assert contents(path) == {"a": b"one", "b": b"one"}
    assert disk == ["sync", "sync", "sync", "name", "sync"]  # files, their list, the name above
    fill(path, b"two")
    assert contents(path) == {"a": b"two", "b": b"two"}
    assert list(path.parent.iterdir()) == [path]


def test_a_link_to_a_folder_stays_one(tmp_path: pathlib.Path) -> None:
    fill(tmp_path / "real", b"one")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", b"two")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real")["a"] == b"two"


def test_what_a_kill_left_beside_a_folder_is_removed(tmp_path: pathlib.Path) -> None:
    for name in (".folder.1.tmp", ".folder.1.old.tmp", ".folder2.1.tmp", "folder.1.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    fill(tmp_path / "folder", b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".folder2.1.tmp", "folder", "folder.1.tmp")
    ]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    fill(tmp_path / "folder", b"one")
    replace, calls = os.replace, []

    def sometimes(source: pathlib.Path, target: pathlib.Path) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises(errors.OutputError) as caught:
        fill(tmp_path / "folder", b"two")
    assert caught.value.cause == f"cannot write {tmp_path / 'folder'}: Input/output error"
    assert caught.value.remedy == "Free space, or choose a folder that you may write to"
    assert contents(tmp_path / "folder") == {"a": b"one", "b": b"one"}
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
