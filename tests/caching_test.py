"""The cache folder of compiled programs: on by default, the user's own choice respected."""

from __future__ import annotations

import jax
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
