"""Shared fixtures: strict numerics, cheap compilation, the real data where it is present."""

from __future__ import annotations

import gc
import os
import pathlib

from tests.support.machine import cheap_compilation, machine, resident_bytes

# All this is set before JAX is imported, and for the processes that tests start.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run their programs a few times: most of the suite's time would be LLVM's optimiser. What
# users run, at full optimisation, is what `make test-all` runs.
os.environ.setdefault("XLA_FLAGS", cheap_compilation())
# The workers of a suite compile many programs alike, and so does the next run.
ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / f"jax-{machine()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

# Of a worker of the suite, in bytes.
MEMORY = 2 << 30
SHARED_DATA = ROOT.parent / "shared" / "data"


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


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Compiled programs are freed between files once they add up: JAX keeps them for good."""
    yield
    if resident_bytes() > MEMORY:
        jax.clear_caches()
        gc.collect()


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
