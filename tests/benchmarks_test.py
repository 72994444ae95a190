"""What the figures of the benchmarks rest on beside clocks, and that they still run."""

from __future__ import annotations

import collections
import json
import pathlib
import time

import pytest

from benchmarks import __main__ as runner
from benchmarks import timing, zoo_profile, zoo_rivals
from ncap_jax.zoo import MODELS
from tests.support import package_use

FOLDER = pathlib.Path(runner.__file__).parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_fit_the_package(path):
    """They run by hand only: every name and call is checked without running them."""
    assert package_use.problems(path.read_text()) == []


def test_every_committed_result_belongs_to_a_benchmark():
    known = {*runner.names(), "zoo_start"}  # a section of zoo in a file of its own
    assert {path.stem.rpartition("_")[0] for path in FOLDER.glob("results/*.json")} <= known


def test_unknown_benchmarks_are_refused(capsys):
    assert runner.main(["dta"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("unknown: dta. Known: batch_norm, beta_eff, data, ")


def test_the_fastest_call_counts_and_the_first_does_not():
    pauses = {"slow": iter([0.2, 0.03, 0.05]), "quick": iter([0.0, 0.01, 0.0])}
    calls = {name: lambda p=p: time.sleep(next(p)) for name, p in pauses.items()}
    times = timing.take_turns(calls, repeats=2)
    assert 30 <= times["slow"]["wall_ms"] <= times["slow"]["median_ms"] < 200
    assert times["quick"]["wall_ms"] < 10
    assert times["slow"]["cpu_ms"] < 20, "sleeping costs no CPU time"
    assert timing.relative(times, "slow")["slow"] == dict.fromkeys(times["slow"], 1.0)


def test_a_report_is_printed_and_written(tmp_path, capsys):
    timing.report({"figure": 1.5}, str(tmp_path / "new" / "result.json"))
    assert json.loads(capsys.readouterr().out) == {"figure": 1.5}
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == {"figure": 1.5}


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", True),
        ("nvjet_sm90_tst_64x64_64x13_2x1_v_bz_splitK_NTT", True),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_64x128>", True),
        ("void convolve_common_engine_float_NHWC<__nv_bfloat16>", True),
        ("gemm_fusion_dot_12", True),
        ("input_convert_reduce_fusion_11", False),
        ("loop_convert_fusion", False),
        ("input_scatter_fusion", False),
        ("triton_poi_fused__to_copy_convolution_relu_2", False),
        ("triton_red_fused_convolution_backward_native_batch_norm_backward_54", False),
        ("void at::native::multi_tensor_apply_kernel<FusedOptimizer>", False),
    ],
)
def test_kernels_of_libraries_are_told_from_generated_ones(name, library):
    assert zoo_profile.is_library(name) == library


def test_a_profile_adds_up():
    spent = collections.Counter({"nvjet_a": 2.0, "loop_add_fusion": 1.0, "gemm_fusion_dot": 0.5})
    found = zoo_profile.summary(spent)
    assert (found["library_ms"], found["generated_ms"], found["kernels"]) == (2.5, 1.0, 3)
    assert found["longest"][0] == ["nvjet_a", 2.0]


def test_rivals_are_models_of_the_registry():
    assert zoo_rivals.KERAS.keys() | zoo_rivals.TORCH.keys() <= MODELS.keys()
