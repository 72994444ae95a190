"""From command to ranking: seconds by stage add up, and a second run reads what was compiled."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections import Counter

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import first_answer_recorder as recorder
from benchmarks import first_answer_runs as runs
from benchmarks import first_answer_torch as rival
from benchmarks.first_answer_stages import (
    COMPILE,
    STAGES,
    TRACE,
    Piece,
    Sample,
    Threads,
    flatten,
    seconds_by_stage,
    table,
)
from ncap_jax.data import batching
from ncap_jax.zoo import MODELS
from tests.support import tables, toy_runs


@pytest.fixture
def empty_cache(tmp_path):
    """A folder of compiled programs that has none yet, instead of the tests' own."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(tmp_path / "xla"))
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def rank():
    return runs.ours(toy_runs.POOL[:1], toy_runs.digits(), toy_runs.CONFIG)


def test_a_second_run_reads_what_the_first_compiled(empty_cache):
    cold = rank()
    jax.clear_caches()
    warm = rank()
    assert cold["programs"]["read"] == 0 < cold["programs"]["compiled"]
    assert warm["programs"]["compiled"] == 0 < warm["programs"]["read"]
    assert cold["stages"]["compile"]["cpu"] > 0 == warm["stages"]["compile"]["wall"]
    assert cold["stages"]["read cache"]["wall"] == 0 < warm["stages"]["read cache"]["wall"]
    for run in (cold, warm):
        assert list(run["stages"]) == list(STAGES)
        for kind in ("cpu", "wall"):
            whole = sum(row[kind] for row in run["stages"].values())
            assert whole == pytest.approx(run["total"][kind], abs=0.02)
        for stage in (*STAGES[1:3], TRACE, "train", "evaluate", "measure", "report"):
            assert run["stages"][stage]["wall"] > 0, stage
        assert 0 <= run["stages"]["other"]["wall"] < run["total"]["wall"] / 2
        assert 0 < run["beta_eff"]["cpu"] < run["total"]["cpu"]
        ((name, model),) = run["models"].items()
        assert (name, model["status"]) == ("toy_1", "ok")
        assert 0 < model["first_step_s"] < run["total"]["wall"]
        assert run["peak_mb"] > 100
    # Found without the recorder, to which the package's functions do not belong for good.
    assert all(not hasattr(vars(owner)[name], "__wrapped__") for _, owner, name in recorder.CALLS)


def test_nested_calls_belong_to_the_innermost():
    calls = [
        Piece(5.0, 6.0, COMPILE),
        Piece(0.0, 10.0, "evaluate"),
        Piece(4.0, 7.0, "measure"),
        Piece(4.5, 4.75, TRACE),
    ]
    assert flatten(calls) == [
        Piece(0.0, 4.0, "evaluate"),
        Piece(4.0, 4.5, "measure", True),
        Piece(4.5, 4.75, TRACE, True),
        Piece(4.75, 5.0, "measure", True),
        Piece(5.0, 6.0, COMPILE, True),
        Piece(6.0, 7.0, "measure", True),
        Piece(7.0, 10.0, "evaluate"),
    ]


def test_cpu_time_belongs_to_the_stage_of_its_thread():
    """While 1 trains, 2 compiles; 8 executes XLA's programs, 9 helps whoever compiles."""
    threads = Threads(
        main=1,
        pieces={
            1: [Piece(0.0, 4.0, "train"), Piece(4.0, 6.0, "evaluate")],
            2: [Piece(0.0, 1.0, TRACE), Piece(1.0, 4.0, COMPILE, True)],
        },
        names={1: "python", 2: "python", 8: "tf_XLAEigen", 9: "python"},
        samples=[
            Sample(0.0, {}),
            Sample(4.0, {1: 1.0, 2: 4.0, 8: 2.0, 9: 3.0}),
            Sample(6.0, {1: 2.0, 2: 4.0, 8: 2.5, 9: 3.0}),
        ],
    )
    found = seconds_by_stage(threads, wall=7.0, cpu=13.0)
    stages = {name: row for name, row in found["stages"].items() if any(row.values())}
    assert stages == {
        TRACE: {"cpu": 1.0, "wall": 0.0, "beside": 1.0},
        COMPILE: {"cpu": 6.0, "wall": 0.0, "beside": 3.0},
        "train": {"cpu": 3.0, "wall": 4.0, "beside": 0.0},
        "evaluate": {"cpu": 1.5, "wall": 2.0, "beside": 0.0},
        "other": {"cpu": 1.5, "wall": 1.0, "beside": 0.0},
    }
    assert found["total"] == {"cpu": 13.0, "wall": 7.0, "beside": 4.0}
    assert found["beta_eff"] == {"cpu": 6.0, "wall": 0.0, "beside": 3.0}


def result(train: float, compile_: float, **more):
    row = {"cpu": train, "wall": train}
    stages = {"train": row, "compile": {"cpu": compile_, "wall": compile_}}
    total = {"cpu": train + compile_, "wall": train + compile_}
    return {"stages": stages, "total": total, "models": {}, "peak_mb": 1234.5, **more}


def test_the_table_says_what_follows():
    ours = {
        "beta_eff": {"cpu": 2.0, "wall": 1.0},
        "programs": {"compiled": 7, "read": 2},
        "models": {
            "vgg16": {"status": "failed", "validation_accuracy": []},
            "xception": {"status": "ok", "validation_accuracy": [0.1, 0.2, 0.3]},
            "resnet50": {"status": "ok", "validation_accuracy": [0.1, 0.2]},
        },
    }
    found = {
        "models": ["vgg16", "xception"],
        "PyTorch again": result(8.0, 0.0),
        "cold": result(10.0, 20.0, **ours),
        "PyTorch": result(10.0, 1.0),
    }
    text = table(found)
    assert tables.rows(text)[0] == (
        "| seconds | cold: CPU | cold: wall | PyTorch: CPU | PyTorch: wall | PyTorch again: CPU "
        "| PyTorch again: wall |"
    )
    assert "| compile | 20.0 | 20.0 | 1.0 | 1.0 | 0.0 | 0.0 |" in tables.rows(text)
    assert "| of that for β_eff | 2.0 | 1.0 |  |  |  |  |" in tables.rows(text)
    assert text.splitlines()[-3:] == [
        "- cold: 3 epochs of training; overhead 2.00 × training in CPU seconds; "
        "β_eff 6.7% of the CPU seconds; "
        "7 programs compiled; 2 read; 3.75 × PyTorch's wall seconds; peak memory 1,234 MB; "
        "not finished: vgg16.",
        "- PyTorch: 0 epochs of training; overhead 0.10 × training in CPU seconds; "
        "peak memory 1,234 MB.",
        "- PyTorch again: 0 epochs of training; overhead 0.00 × training in CPU seconds; "
        "peak memory 1,234 MB.",
    ]


class Processes:
    """Stands in for the runs' processes; the one of this number is interrupted."""

    def __init__(self, patch: pytest.MonkeyPatch, interrupted: int = 0):
        self.commands: list[str] = []
        self.requests: list[dict] = []
        self.interrupted = interrupted
        patch.setattr(runs, "run", self)
        patch.setattr(runs, "import_untimed", lambda *_: None)
        patch.setattr(runs, "make_data", lambda path, shared: None)

    def __call__(self, command, request, environ):
        self.commands.append(pathlib.Path(command[-1]).stem)
        self.requests.append(request)
        if len(self.commands) == self.interrupted:
            raise KeyboardInterrupt
        if "first_answer_torch" not in command[-1]:
            assert "JAX_COMPILATION_CACHE_DIR" not in environ
            (pathlib.Path(environ["NCAP_CACHE"]) / "xla").mkdir(parents=True, exist_ok=True)
        return {"total": {"cpu": 1.0, "wall": 1.0}}


ZOO = runs.Settings("zoo", ("vgg16",), epochs=1, torch_python="python-with-torch")
OURS, THEIRS = "benchmarks", "first_answer_torch"


def test_both_sides_take_turns_and_an_interrupted_part_continues(monkeypatch, tmp_path):
    found, saved = {}, []
    first = Processes(monkeypatch, interrupted=3)
    with pytest.raises(KeyboardInterrupt):
        runs.measure(ZOO, found, tmp_path, lambda: saved.append(list(found)))
    assert first.commands == [OURS, THEIRS, OURS]
    assert saved == [["cold"], ["cold", "PyTorch"]]
    second = Processes(monkeypatch)
    runs.measure(ZOO, found, tmp_path, lambda: None)
    assert second.commands == [OURS, THEIRS]
    assert list(found) == ["cold", "PyTorch", "warm", "PyTorch again"]
    assert len({json.dumps(request) for request in first.requests + second.requests}) == 1
    third = Processes(monkeypatch)
    runs.measure(ZOO, found, tmp_path, lambda: None)
    assert third.commands == []


def test_without_its_programs_a_cold_run_is_made_again(monkeypatch, tmp_path):
    found = {"cold": {}}
    processes = Processes(monkeypatch)
    settings = runs.Settings("embedded", ("tiny_*",), epochs=5, torch_python="unused")
    runs.measure(settings, found, tmp_path, lambda: None)
    assert processes.commands == [OURS, OURS]
    assert list(found) == ["cold", "warm"]


@pytest.mark.parametrize("beside", [None, 0, 2])
def test_how_many_models_are_prepared_beside_the_training(monkeypatch, beside):
    usual = runs.ahead.threads
    monkeypatch.setattr(runs.ahead, "threads", usual)
    seen = []
    monkeypatch.setattr(runs, "ours", lambda *_: seen.append(runs.ahead.threads()))
    settings = runs.Settings("embedded", ("tiny_*",), epochs=1, beside=beside)
    assert settings.about()["beside"] == beside
    runs.one_run(
        {"models": ["tiny_plain"], "epochs": 1, "batch": 4, "started": 0.0, "beside": beside}
    )
    assert seen == [usual() if beside is None else beside]


@pytest.mark.parametrize("strategy", [None, "full"])
def test_who_trains_how_long(monkeypatch, strategy):
    seen = []
    monkeypatch.setattr(runs, "ours", lambda models, data, config, start: seen.append(config))
    runs.one_run(
        {"models": ["tiny_plain"], "epochs": 1, "batch": 4, "started": 0.0, "strategy": strategy}
    )
    assert [config.strategy for config in seen] == [strategy or "auto"]


@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        (ZOO, "full"),
        (dataclasses.replace(ZOO, strategy="auto"), "auto"),
        (dataclasses.replace(ZOO, torch_python=None), None),
        (dataclasses.replace(ZOO, part="embedded"), None),
    ],
)
def test_beside_a_rival_that_trains_every_network_to_the_end_so_do_we(settings, strategy):
    assert settings.training == strategy
    assert settings.about()["strategy"] == strategy


def test_both_sides_get_the_same_images(tmp_path):
    file = tmp_path / "zoo.npz"
    runs.make_data(file, shared=None)
    data = runs.read_data(str(file))
    assert data.images.shape == (400, 96, 96, 3)
    assert data.validation_images.shape == (100, 96, 96, 3)
    assert data.images.dtype == "uint8"
    assert set(Counter(data.labels)) == set(range(10))


@pytest.mark.parametrize("n", [20, 96, 100])
def test_the_rival_trains_on_the_same_batches(n):
    for epoch in (1, 2):
        wanted = batching.epoch_batches(0, epoch, n, 32)
        assert rival.batches(epoch, n, 32).tolist() == wanted.tolist()


def test_the_rival_has_networks_of_the_registry():
    assert rival.NAMES.keys() <= MODELS.keys()


def test_modules_are_compiled_before_the_first_run(monkeypatch, tmp_path):
    (tmp_path / "fresh.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    runs.import_untimed(sys.executable, "fresh")
    assert len(list(tmp_path.glob("__pycache__/fresh.*.pyc"))) == 1


def test_a_failed_run_ends_the_benchmark(capfd):
    with pytest.raises(RuntimeError, match=r"failed: see above$"):
        runs.run(["sh", "-c", "echo why >&2; exit 3"], {}, {})
    assert capfd.readouterr().err == "why\n"
