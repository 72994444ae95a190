"""How hard a program is compiled: by its runs, never against the user's own flags."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.ops import effort
from ncap_jax.ops.effort import Jitted
from tests.support.compilations import compilations


@pytest.fixture
def fresh(monkeypatch):
    """No options in use yet, and no flags of the user's."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    effort.compiler_options.cache_clear()
    yield monkeypatch
    effort.compiler_options.cache_clear()


@pytest.mark.parametrize(
    ("runs", "expected"),
    [(1, "least"), (16, "least"), (17, "some"), (250, "some"), (251, "full")],
)
def test_what_runs_more_often_is_compiled_harder(runs, expected):
    assert effort.effort_for(runs) == expected


def test_every_effort_compiles_on_this_backend_and_gives_the_same_numbers(fresh):
    x = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    product = Jitted(lambda a: jnp.tanh(a @ a.T).sum(axis=0))
    results = [np.asarray(product(x, effort=level)) for level in ("least", "some", "full")]
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], rtol=1e-5)


def test_the_cheaper_efforts_ask_for_less_on_a_cpu(fresh):
    least, some = effort.compiler_options("least"), effort.compiler_options("some")
    assert least["xla_backend_optimization_level"] == "0"
    assert some["xla_backend_optimization_level"] == "1"
    assert effort.compiler_options("full") == {}


def test_what_the_user_sets_stays(fresh):
    fresh.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert "xla_backend_optimization_level" not in effort.compiler_options("least")


def test_an_option_that_xla_does_not_know_is_left_out(fresh):
    known = {"xla_backend_optimization_level": "0"}
    table = {"cpu": {"least": {**known, "xla_no_such_option": True}}}
    fresh.setattr(effort, "OPTIONS", table)
    assert effort.compiler_options("least") == known


def test_a_backend_that_was_not_measured_compiles_in_full(fresh):
    fresh.setattr(effort.jax, "default_backend", lambda: "tpu")
    assert effort.compiler_options("least") == {}


def test_one_effort_is_one_program():
    def double(a):
        return 2 * a

    jitted = Jitted(double)
    x = np.ones(3, np.float32)
    with compilations() as programs:
        for _ in range(2):
            jitted(x, effort="least")
            jitted.at("least")(x)
    assert programs.count("jit(double)") == 1
    assert jitted.__name__ == "double"
