"""The cache folder of compiled programs: on by default, the user's own choice respected."""

from __future__ import annotations

import pathlib

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
