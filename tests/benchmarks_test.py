"""What the figures of the benchmarks rest on beside clocks, and that they still run."""

from __future__ import annotations

import collections
import itertools
import json
import pathlib
import time

import pytest

from benchmarks import __main__ as runner
from benchmarks import bridge, compile_effort, steps, steps_torch, timing, zoo_profile, zoo_rivals
from ncap_jax.ops import effort
from ncap_jax.zoo import MODELS
from tests.support import package_use
from tests.support.small import deep_spec, small_config, small_spec
from tests.support.tables import rows

FOLDER = pathlib.Path(runner.__file__).parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_fit_the_package(path):
    """They run by hand only: every name and call is checked without running them."""
    assert package_use.problems(path.read_text()) == []


def test_every_committed_result_belongs_to_a_benchmark():
    # A section of zoo, and parts of first_answer, in files of their own.
    parts = ("beside", "epochs", "race", "six", "six_again", "six_race")
    named = {"zoo_start", *(f"first_answer_{part}" for part in parts)}
    known = {*runner.names(), *named, "accelerator"}
    assert {path.stem.rpartition("_")[0] for path in FOLDER.glob("results/*.json")} <= known


def test_unknown_benchmarks_are_refused(capsys):
    assert runner.main(["dta"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("unknown: dta. Known: batch_norm, beta_eff, bridge, compile_effort, ")


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


def costs(compile_s, run_ms):
    """The times of an effort; wall times are ten times as long."""
    cpu = {"compile_cpu_s": compile_s, "cpu_ms": run_ms}
    return {**cpu, "compile_wall_s": 10 * compile_s, "median_ms": 100 * run_ms}


def test_an_effort_pays_once_it_beats_every_lesser_one():
    rows = {"least": costs(1, 100), "some": costs(3, 50), "full": costs(6, 40)}
    # 2 s at 50 ms a run; 3 s at 10 ms a run, which is more than 5 s at 60 ms.
    assert compile_effort.pays_from(rows) == {"least": 0, "some": 40, "full": 300}
    assert compile_effort.pays_from(rows, on_cpu=False) == {"least": 0, "some": 4, "full": 30}


@pytest.mark.parametrize(
    ("full", "runs"),
    [(costs(2, 100), None), (costs(1, 100), 0), (costs(1, 99), 0), (costs(0.5, 101), None)],
    ids=["dearer and not faster", "the same", "faster for nothing", "slower"],
)
def test_an_effort_that_gains_nothing_never_pays(full, runs):
    assert compile_effort.pays_from({"least": costs(1, 100), "full": full})["full"] == runs


PROGRAMS = ["training step", "features", "beta_eff"]


@pytest.fixture
def plain_flags(monkeypatch):
    """No flags of the user's, which would stay as they are."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    effort.compiler_options.cache_clear()
    yield
    effort.compiler_options.cache_clear()


@pytest.mark.usefixtures("plain_flags")
def test_every_program_of_a_model_is_compiled_and_run_at_every_effort():
    config = small_config(head="linear", beta_eff="every_epoch")
    found = compile_effort.measure_model(deep_spec(), config, repeats=2)
    assert [*found] == PROGRAMS
    for result in found.values():
        assert [*result["efforts"]] == [*result["pays_from"]] == ["least", "some", "full"]
        for times in result["efforts"].values():
            assert all(seconds > 0 for seconds in times.values())
    lines = compile_effort.table({"deep": found}).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| `deep`", p] for p in PROGRAMS]
    assert {line.count("|") for line in lines} == {2 + 3 + 2 + 1}


def test_a_backend_without_options_has_one_column(monkeypatch):
    monkeypatch.setattr(compile_effort, "compiler_options", lambda effort: {})
    config = small_config(head="probe", epochs=1)
    found = compile_effort.measure_model(small_spec(), config, repeats=1)
    assert [*found] == PROGRAMS[:2]  # without a whole network's beta_eff
    assert all(result["pays_from"] == {"full": 0} for result in found.values())
    assert {line.count("|") for line in compile_effort.table({"small": found}).splitlines()} == {4}


def test_models_are_named_with_the_side_of_their_input():
    found = compile_effort.parse(["tiny_plain", "mobilenetv2@64"])
    assert [(spec.name, size) for spec, size in found.values()] == [
        ("tiny_plain", None),
        ("mobilenetv2", 64),
    ]


def test_a_step_and_an_evaluation_are_timed():
    found = steps.measure("tiny_depthwise", 32, 1)
    assert found["effort"] == "some"
    assert all(found[name]["wall_ms"] > 0 for name in ("compile", "step", "evaluate"))
    assert found["step"]["wall_ms"] < found["compile"]["wall_ms"]


def test_the_page_of_training_steps_holds_the_tables_of_its_result():
    result = json.loads((FOLDER / "results" / "steps_cpu.json").read_text(encoding="utf-8"))
    page = (FOLDER.parent / "docs" / "results" / "training-step.md").read_text(encoding="utf-8")
    for what, kind in itertools.product(("step", "evaluate"), ("cpu_ms", "wall_ms")):
        printed = rows(steps.table(result["networks"], what, kind))
        assert len(printed) > 5
        assert set(printed[2:]) <= set(rows(page))


def test_ours_is_compared_with_pytorch_as_it_comes():
    sides = {name: {"step": {"cpu_ms": ms}} for name, ms in zip(steps.SIDES, (100, 120, 150, 200))}
    assert (
        rows(steps.table({"net": sides}, "step"))[-1] == "| `net` | 100 | 120 | 150 | 200 | 0.50 |"
    )


def test_of_several_runs_the_fastest_counts():
    pauses = iter([0.05, 0.01])
    assert 10 <= steps_torch.best_of(lambda: time.sleep(next(pauses)), 2)["wall_ms"] < 50


def test_the_middle_of_several_processes_counts():
    rounds = [{"step": {"cpu_ms": x}, "effort": "full", "peak_mb": x} for x in (3.0, 1.0, 7.0)]
    assert bridge.middle(rounds) == {"step": {"cpu_ms": 3.0}, "effort": "full", "peak_mb": 3.0}


def test_the_bridges_page_holds_the_tables_of_its_result():
    result = json.loads((FOLDER / "results" / "bridge_cpu.json").read_text(encoding="utf-8"))
    assert result["networks"].keys() <= bridge.FAMILIES.keys()
    assert all({"bridge", "PyTorch"} <= ways.keys() for ways in result["networks"].values())
    page = FOLDER.parent / "docs" / "results" / "timm-steps.md"
    printed = f"{bridge.table(result['networks'])}\n\n{bridge.ratio_table(result['networks'])}"
    assert set(rows(printed)) <= set(rows(page.read_text(encoding="utf-8")))
