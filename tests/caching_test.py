"""The cache folder: the user's own choice respected, and what becomes of one without a home."""

from __future__ import annotations

import atexit
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest

from ncap_jax import caching


@pytest.fixture
def options(monkeypatch, tmp_path):
    monkeypatch.setenv("NCAP_CACHE", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_folder(options):
    jax.config.update("jax_compilation_cache_dir", None)
    assert caching.keep_compiled_programs() == options / "xla"
    assert jax.config.jax_compilation_cache_dir == str(options / "xla")


def test_a_folder_chosen_already_is_left_alone(options):
    jax.config.update("jax_compilation_cache_dir", str(options / "mine"))
    assert caching.keep_compiled_programs() == options / "mine"


def test_a_cache_switched_off_stays_off(options):
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert caching.keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False), ("No", False)]
)
def test_offline_switch(value, offline, monkeypatch):
    monkeypatch.setenv("NCAP_OFFLINE", value)
    assert caching.offline() is offline


def test_the_folder_is_the_users_choice_or_their_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NCAP_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caching.folder() == tmp_path / "mine"
    monkeypatch.setenv("NCAP_CACHE", "")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/cache/{name}")
    assert caching.folder() == pathlib.Path("/cache/ncap_jax")


NO_HOME = (
    "this user has no home folder: weights and compiled programs are kept in a temporary one and "
    "removed at the end. Set HOME or NCAP_CACHE to a folder to keep them"
)


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user whom the system does not know, and without HOME."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    ends: list[tuple] = []
    monkeypatch.setenv("HOME", "")  # what is set in its place is to be undone as well
    for name in ("HOME", "NCAP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(atexit, "register", lambda *call, **options: ends.append(call))
    return ends


def test_a_user_without_a_home_gets_one_for_the_time_of_the_process(homeless, tmp_path):
    with pytest.warns(UserWarning, match=f"^{re.escape(NO_HOME)}$"):
        folder = caching.folder()
    (home,) = tmp_path.iterdir()
    assert os.environ["HOME"] == str(home)  # workers and other packages find it
    assert folder.is_relative_to(home)
    assert homeless == [(shutil.rmtree, str(home))]
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_cache_outside_the_home_needs_no_home(homeless, monkeypatch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert caching.folder() == tmp_path / "ncap_jax"
        monkeypatch.setenv("NCAP_CACHE", "/elsewhere")
        assert caching.folder() == pathlib.Path("/elsewhere")


UNKNOWN_USER = """
import json, pwd
from ncap_jax import caching
try:
    pwd.getpwuid(54321)
except KeyError:
    print(json.dumps([str(caching.folder()), str(caching.expanded("~/mine"))]))
"""


def test_the_cache_of_a_user_whom_the_system_does_not_know(tmp_path):
    """Really another user, as in a container that runs under a number."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.getuid() != 0:
        pytest.skip("only root, with setpriv, can become somebody else")
    # This interpreter may lie where only root reads.
    reads = [f"--{kind}-caps=+dac_override" for kind in ("inh", "ambient")]
    user = ["--reuid=54321", "--regid=54321", "--clear-groups", *reads]
    root = str(pathlib.Path(caching.__file__).parents[1])
    result = subprocess.run(
        [setpriv, *user, sys.executable, "-c", UNKNOWN_USER],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert NO_HOME in result.stderr
    folder, mine = map(pathlib.Path, json.loads(result.stdout))
    home = mine.parent
    assert folder == home / ".cache" / "ncap_jax"
    assert home.name.startswith("ncap_jax-home-")
    assert not home.exists()  # it went with the process


def test_forgotten_programs_are_traced_again():
    traced = []

    @jax.jit
    def double(x):
        traced.append(x)
        return 2 * x

    one = jnp.ones(())
    assert double(one) == double(one) == 2
    assert len(traced) == 1
    caching.forget_compiled_programs()
    assert double(one) == 2
    assert len(traced) == 2


def test_where_compiled_programs_come_from_is_told(tmp_path):
    """As a person reads it before a run: from nowhere, an empty folder, a full one, a bucket."""
    tell, folder = caching.describe_programs, tmp_path / "xla"
    assert tell(None).endswith("the cache is switched off, so all are compiled in this run.")
    empty = f"Compiled programs: {folder} has none yet, so all are compiled in this run, and kept."
    assert tell(folder) == empty
    folder.mkdir()
    assert tell(folder) == empty
    for name in ("jit_a-cache", "jit_a-atime", "jit_b-cache"):
        (folder / name).touch()
    assert tell(folder) == f"Compiled programs: taken from {folder} where it has them (2 in all)."
    bucket = pathlib.Path("gs://bucket/xla")
    assert tell(bucket) == f"Compiled programs: taken from {bucket} where it has them."
    assert "where it has them." in tell(folder / "jit_a-cache")  # not a folder
