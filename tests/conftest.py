"""Shared fixtures: strict numerics, the real data where it is present."""

from __future__ import annotations

import os
import pathlib

# Tests see the CPU unless the caller chose otherwise; set before JAX is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".pytest_cache/jax")
)

import jax
import pytest

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def strict_numerics(request):
    """Implicit promotion and rank broadcasting are errors in the kernels' tests.

    Elsewhere third-party code (optax, Flax, Keras) promotes on purpose.
    """
    if "capacitance" not in str(request.node.path):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def skip_without_accelerator(request):
    """`gpu` tests skip on the CPU, unless somebody wants to test the tests."""
    wanted = os.environ.get("NCAP_GPU_TESTS_ON_CPU") or jax.default_backend() != "cpu"
    if request.node.get_closest_marker("gpu") and not wanted:
        pytest.skip("needs an accelerator")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real images and weights that may lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data (../shared/data) is not beside this checkout")
    return SHARED_DATA
