"""The command asks for huge pages where that changes anything, and stays the same process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ncap_jax import huge_pages

ASKED = "glibc.malloc.hugetlb=1"
# Python runs it whenever it starts: a line with the process, what it was told, and its arguments.
NOTE = """
import os, sys
with open({path!r}, "a") as file:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.orig_argv[1:], file=file)
"""


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """Sets what the kernel offers, and a C library that knows the setting."""
    monkeypatch.setattr(huge_pages, "glibc", lambda: (2, 36))

    def offers(words: str | None) -> None:
        file = tmp_path / "enabled"
        if words is not None:
            file.write_text(words)
        monkeypatch.setattr(huge_pages, "CHOICE", str(file))

    return offers


@pytest.mark.parametrize(
    ("offered", "told", "wanted"),
    [
        ("always [madvise] never", "", ASKED),
        ("always [madvise] never", "glibc.malloc.check=1", f"glibc.malloc.check=1:{ASKED}"),
        ("always [madvise] never", ASKED, None),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", None),
        ("[always] madvise never", "", None),
        ("always madvise [never]", "", None),
        (None, "", None),
    ],
)
def test_asks_where_it_helps_and_nobody_decided_otherwise(kernel, offered, told, wanted):
    kernel(offered)
    found = huge_pages.environment({"GLIBC_TUNABLES": told} if told else {})
    assert found == ({} if wanted is None else {"GLIBC_TUNABLES": wanted})


@pytest.mark.parametrize("version", [(2, 34), (0,)])
def test_asks_no_library_that_does_not_know_the_setting(kernel, monkeypatch, version):
    kernel("always [madvise] never")
    monkeypatch.setattr(huge_pages, "glibc", lambda: version)
    assert huge_pages.environment({}) == {}


@pytest.mark.parametrize(
    ("answer", "version"), [("glibc 2.36", (2, 36)), ("musl", (0,)), (None, (0,))]
)
def test_the_version_of_the_c_library(monkeypatch, answer, version):
    monkeypatch.setattr(os, "confstr", lambda name: answer)
    assert huge_pages.glibc() == version


def test_a_python_that_cannot_be_started_again_goes_on(kernel, monkeypatch):
    kernel("always [madvise] never")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    huge_pages.use()


@pytest.mark.parametrize("way", ["module", "script"])
def test_the_command_starts_again_as_the_same_process(tmp_path, way):
    told = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    told.pop("GLIBC_TUNABLES", None)
    if not huge_pages.environment(told):
        pytest.skip("this kernel gives huge pages to all or to none, or glibc is older than 2.35")
    notes = tmp_path / "notes"
    (tmp_path / "sitecustomize.py").write_text(NOTE.format(path=str(notes)))
    script = tmp_path / "ncap_jax"
    script.write_text("from ncap_jax.__main__ import console\nconsole()\n")
    how = ["-m", "ncap_jax"] if way == "module" else [str(script)]
    command = [sys.executable, *how, "no such word"]
    with subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.startswith("error: unexpected argument 'no such word'")
    arguments = " ".join(command[1:])
    assert notes.read_text().splitlines() == [
        f"{process.pid} None {arguments}",
        f"{process.pid} {ASKED} {arguments}",
    ]


def test_a_library_leaves_the_process_alone():
    code = "import ncap_jax.__main__, os; print(os.environ.get('GLIBC_TUNABLES'))"
    told = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
    assert done.stdout == "None\n"
