"""One command for an accelerator: parts that fail alone, records that survive a kill, its page."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import textwrap
import time

import pytest

from benchmarks import (
    accelerator,
    accelerator_beside,
    accelerator_data,
    accelerator_device,
    accelerator_pack,
    accelerator_page,
    accelerator_parts,
    accelerator_record,
    accelerator_tables,
    beta_eff_batches,
    gpu_tests,
)
from benchmarks.accelerator_record import Record
from benchmarks.accelerator_runner import Part, Runner
from tests.support import photos

ROOT = pathlib.Path(accelerator.__file__).resolve().parents[1]
# A part that counts its calls in `calls`, and goes on from what it has written.
COUNTING = """
import json, pathlib, sys, time
result, calls, name, *rest = sys.argv[1:]
with open(calls, "a") as file:
    file.write(name + "\\n")
path = pathlib.Path(result)
done = json.loads(path.read_text()) if path.exists() else []
path.write_text(json.dumps([*done, len(done)]))
"""


def script(*words: str, end: str = "") -> tuple[str, ...]:
    """The command of a part that counts, and then does something else."""
    return (sys.executable, "-S", "-c", COUNTING + end, "{result}", *words)


class Bench:
    """A runner in a folder, and the calls that its parts have counted."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.calls_file = folder, folder / "calls"

    def part(self, name: str, end: str = "", **options) -> Part:
        command = script(str(self.calls_file), name, end=end)
        return Part(name, command, **{"limit": 30.0, "least": 0.0, **options})

    def record(self) -> Record:
        return Record.of_device(self.folder, "Toy 1")

    def run(self, *parts: Part, seconds: float = 60.0, most: int = 0) -> dict:
        record = self.record()
        record.begin_call({"minutes": seconds / 60})
        work, environ = self.folder / "work", dict(os.environ)
        helpers = accelerator_beside.Beside(most, environ, work)
        Runner(record, work, environ, helpers, seconds).run(parts)
        return self.record().content["parts"]

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().split()


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


CRASH = "print('why'); sys.stdout.flush(); import os; os.kill(os.getpid(), 11)"


def test_a_crash_costs_one_part_which_is_tried_once_more(bench):
    parts = [bench.part("a/crash", CRASH), bench.part("a/two"), bench.part("b/three")]
    found = bench.run(*parts)
    assert {name: part["status"] for name, part in found.items()} == {
        "a/crash": "failed",
        "a/two": "done",
        "b/three": "done",
    }
    crash = found["a/crash"]
    assert (crash["why"], crash["output"], crash["attempts"]) == ("killed by signal 11", "why\n", 1)
    assert found["a/two"]["result"] == [0]
    assert shlex.split(found["a/two"]["command"])[-1] == "a/two"
    # The next call does what is not done; the third finds nothing to do.
    assert bench.run(*parts)["a/crash"]["attempts"] == 2
    assert bench.run(*parts)["a/crash"]["result"] == [0, 1]
    assert bench.calls == ["a/crash", "a/two", "b/three", "a/crash"]
    assert len(bench.record().content["calls"]) == 3


def test_what_was_never_tried_comes_before_what_failed(bench):
    bench.run(bench.part("a/fails", "sys.exit(3)"))
    found = bench.run(bench.part("a/fails"), bench.part("b/new"))
    assert bench.calls == ["a/fails", "b/new", "a/fails"]
    assert (found["a/fails"]["status"], found["a/fails"]["result"]) == ("done", [0, 1])


@pytest.mark.parametrize(
    ("options", "seconds", "status", "why", "attempts"),
    [
        ({"limit": 0.4}, 60.0, "out of time", "it took more than 0 s", 1),
        ({"limit": 30.0}, 0.4, "interrupted", "the call was over before its 30 s", 0),
    ],
)
def test_a_part_that_takes_too_long_keeps_what_it_has(
    bench, options, seconds, status, why, attempts
):
    found = bench.run(bench.part("a/slow", "time.sleep(60)", **options), seconds=seconds)["a/slow"]
    assert (found["status"], found["why"], found["attempts"]) == (status, why, attempts)
    assert found["result"] == [0]
    assert found["seconds"] < 20


def test_a_part_is_not_begun_without_the_seconds_that_it_needs(bench):
    found = bench.run(bench.part("a/long", least=100.0), bench.part("b/short"), seconds=50.0)
    assert list(found) == ["b/short"]


def test_what_cannot_run_is_skipped_with_its_reason(bench):
    nothing = "print('it is not here'); sys.stdout.flush(); sys.exit(77)"
    parts = bench.part("a/torch", skip="no PyTorch"), bench.part("a/warm", nothing)
    found = bench.run(*parts)
    assert [(p["status"], p["why"]) for p in found.values()] == [
        ("skipped", "no PyTorch"),
        ("skipped", "it is not here"),
    ]


def test_a_part_without_a_result_has_failed(bench):
    empty = Part("a/empty", (sys.executable, "-S", "-c", "pass"), least=0.0)
    assert bench.run(empty)["a/empty"]["why"] == "it wrote no result"


# Writes the time 20 times a second until it is ended; then, or after a number of lines, it ends.
TICKS = """
import pathlib, sys, time
for _ in range(int(sys.argv[2])):
    with open(sys.argv[1], "a") as file:
        file.write(f"{time.monotonic()}\\n")
    time.sleep(0.05)
"""


def test_later_parts_are_compiled_beside_but_not_while_times_are_measured(bench):
    ticks = bench.folder / "ticks"
    compile_ = (sys.executable, "-S", "-c", TICKS, str(ticks), "24")
    times = "path.write_text(json.dumps([time.monotonic(), time.sleep(0.6), time.monotonic()]))"
    found = bench.run(
        bench.part("a/tests", "time.sleep(0.4)", quiet=False),
        bench.part("b/times", times),
        bench.part("c/compiled", times, compile=compile_),
        most=1,
    )
    written = [float(line) for line in ticks.read_text().split()]
    assert len(written) == 24
    quiet, compiled = found["b/times"]["result"], found["c/compiled"]["result"]
    assert written[0] < quiet[0]
    assert not [time for time in written if quiet[0] + 0.1 < time < quiet[2]]
    assert written[-1] < compiled[0], "a part waits for its programs"


def test_what_compiles_too_long_is_ended(tmp_path):
    helpers = accelerator_beside.Beside(1, dict(os.environ), tmp_path, limit=0.2)
    commands = [(name, ("sleep", "60")) for name in ("one", "two")]
    helpers.expect(commands)
    assert helpers.is_busy("one")
    assert not helpers.is_busy("two")
    time.sleep(0.3)
    assert not helpers.is_busy("one")
    helpers.expect(commands)
    assert helpers.is_busy("two")
    helpers.close()
    assert helpers.ended == {"one": -signal.SIGTERM, "two": -signal.SIGTERM}


def test_nothing_outlives_a_call_through_a_process_in_between(tmp_path):
    """As in `first_answer`, whose runs are processes of a part's process."""
    mark = tmp_path / "number"
    inner = ["sh", "-c", f"echo $$ > {mark}.new; mv {mark}.new {mark}; sleep 60"]
    code = f"import subprocess; subprocess.run({accelerator_beside.following(inner)!r})"
    process = subprocess.Popen([sys.executable, "-S", "-c", code])
    deadline = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    while pathlib.Path(f"/proc/{mark.read_text().strip()}").exists():
        assert time.monotonic() < deadline, "it outlives its caller"
        time.sleep(0.02)


PROGRAM = """
import os, pathlib, signal, sys
from benchmarks import accelerator, accelerator_beside
from benchmarks.accelerator_record import Record
from benchmarks.accelerator_runner import Part, Runner
signal.signal(signal.SIGTERM, accelerator.leave)
folder = pathlib.Path(sys.argv[1])
parts = [Part(name, tuple(command), 60.0, 0.0) for name, command in {parts!r}]
record = Record.of_device(folder, "Toy 1")
record.begin_call(dict())
helpers = accelerator_beside.Beside(0, dict(os.environ), folder)
Runner(record, folder / "work", dict(os.environ), helpers, 60.0).run(parts)
"""
# Writes its process's number, and waits as long as that file is there.
HANGS = """
import os
mark = pathlib.Path(rest[0])
if mark.exists():
    mark.write_text(str(os.getpid()))
    time.sleep(60)
"""


def start_and_end(bench: Bench, kind: int) -> tuple[subprocess.Popen, int]:
    """Run three parts in a process that gets a signal during the second; the part's id too."""
    mark = bench.folder / "mark"
    mark.touch()
    parts = [(p.name, p.command) for p in (bench.part("a/one"), hanging(bench), bench.part("c/3"))]
    program = PROGRAM.format(parts=parts)
    command = [sys.executable, "-c", program, str(bench.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not mark.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(kind)
    process.wait(30)
    number = int(mark.read_text())
    mark.unlink()
    return process, number


def hanging(bench: Bench) -> Part:
    command = script(str(bench.calls_file), "b/two", str(bench.folder / "mark"), end=HANGS)
    return Part("b/two", command, 60.0, 0.0)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_kill_the_next_call_goes_on_where_it_stopped(bench, kind):
    process, number = start_and_end(bench, kind)
    assert process.returncode == (-kind if kind == signal.SIGKILL else 128 + kind)
    before = bench.record().content["parts"]
    assert before.pop("a/one")["status"] == "done"
    if kind == signal.SIGTERM:
        assert (before["b/two"]["status"], before["b/two"]["result"]) == ("interrupted", [0])
    else:
        assert before == {}
    deadline = time.monotonic() + 10
    while pathlib.Path(f"/proc/{number}").exists():
        assert time.monotonic() < deadline, "the part outlives the call"
        time.sleep(0.02)
    found = bench.run(bench.part("a/one"), hanging(bench), bench.part("c/3"))
    assert [part["status"] for part in found.values()] == ["done"] * 3
    assert found["b/two"]["result"] == [0, 1], "it goes on from what it had written"
    assert bench.calls == ["a/one", "b/two", "b/two", "c/3"]


def test_another_folder_goes_on_from_the_record_alone(bench, tmp_path):
    """As on a machine that starts bare: the record came back, the work folder did not."""
    bench.run(bench.part("a/fails", "sys.exit(1)"))
    for file in (bench.folder / "work").iterdir():
        file.unlink()
    assert bench.run(bench.part("a/fails"))["a/fails"]["result"] == [0, 1]


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "accelerator_toy-1.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="is not a record of") as caught:
        Record.of_device(tmp_path, "Toy 1")
    assert str(caught.value) == f"{path} is not a record of benchmarks.accelerator. Move it away."


def entry(status: str, call: int = 0, result: object = None) -> dict:
    return {"status": status, "call": call, "result": result, "why": ""}


def content(calls: list, **parts: dict) -> dict:
    return {"schema": 1, "device": "NVIDIA H200", "calls": calls, "parts": parts}


def test_of_two_records_the_better_result_of_each_part_stays():
    first = content(["x"], a=entry("done", 0, 1), b=entry("failed", 0), c=entry("done", 0, 3))
    second = content(["x", "y"], a=entry("failed", 1), b=entry("done", 1, 2), c=entry("done", 1, 4))
    merged = accelerator_record.merge([first, second])
    assert merged["calls"] == ["x", "y"]
    kept = {name: (part["call"], part["result"]) for name, part in merged["parts"].items()}
    assert kept == {"a": (0, 1), "b": (1, 2), "c": (1, 4)}
    assert accelerator_record.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def setups(*, pretend: bool) -> list[accelerator_parts.Setup]:
    pythons = (None, sys.executable, "/another/python")
    return [accelerator_parts.Setup(pretend, "d", "w", {}, python) for python in pythons]


@pytest.mark.parametrize("pretend", [True, False])
def test_every_command_has_the_flags_that_it_is_given(pretend):
    for setup in setups(pretend=pretend):
        parts = accelerator_parts.parts(setup)
        names = [part.name for part in parts]
        assert len(names) == len(set(names))
        assert {name.split("/")[0] for name in names} == accelerator_parts.SECTIONS.keys()
        for part in parts:
            assert part.least <= part.limit
            for command in filter(None, (part.command, part.compile)):
                module = command[2].removeprefix("benchmarks.")
                source = (ROOT / "benchmarks" / f"{module}.py").read_text()
                known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
                given = {word[2:].partition("=")[0] for word in command[3:]}
                assert given <= known, part.name
                assert module in accelerator_parts_modules()


def accelerator_parts_modules() -> set[str]:
    return {path.stem for path in (ROOT / "benchmarks").glob("*.py")}


def test_what_pretends_and_what_measures_are_the_same_sections_and_benchmarks():
    def modules(pretend: bool) -> set[tuple[str, str]]:
        (_, here, _) = setups(pretend=pretend)
        return {(p.name.split("/")[0], p.command[2]) for p in accelerator_parts.parts(here)}

    assert modules(True) == modules(False)


def test_pytorch_s_parts_are_skipped_with_a_reason_where_it_is_absent():
    without, here, elsewhere = (
        {part.name: part.skip for part in accelerator_parts.parts(setup)}
        for setup in setups(pretend=False)
    )
    assert {name: why for name, why in here.items() if why} == {}
    rivals = {name for name in here if "torch" in name}
    assert {name: why for name, why in without.items() if name in rivals} == dict.fromkeys(
        rivals, accelerator_parts.NO_RIVAL
    )
    graphs = {name for name in here if "CUDA graphs" in name}
    for found in (without, elsewhere):
        assert {found[name] for name in graphs} == {accelerator_parts.NO_TORCH}
    assert not any(elsewhere[name] for name in rivals)


def test_parts_without_their_data_are_skipped_with_a_reason():
    setup = accelerator_parts.Setup(False, "d", "w", {"birds525": "d has no birds525"})
    skipped = {p.name: p.skip for p in accelerator_parts.parts(setup) if "birds525" in p.name}
    assert skipped == dict.fromkeys(
        [f"ranking/birds525, seed {seed}" for seed in range(3)], "d has no birds525"
    )


def test_unknown_parts_are_refused_and_chosen_ones_keep_their_order():
    parts = [Part(name, ()) for name in ("tests/pytest", "kernels/a", "kernels/b", "answer/a")]
    chosen = accelerator.chosen(parts, ["answer", "kernels/b"])
    assert [part.name for part in chosen] == ["kernels/b", "answer/a"]
    with pytest.raises(accelerator.app.UsageError) as caught:
        accelerator.chosen(parts, ["kernel"])
    assert str(caught.value).startswith("unknown: kernel. Known: answer, answer/a, kernels, ")


@pytest.mark.parametrize(
    ("status", "measuring", "pretending"),
    [("done", 0, 0), ("skipped", 0, 0), ("failed", 1, 1), ("interrupted", 0, 1), (None, 0, 1)],
)
def test_what_pretends_must_come_to_its_end(tmp_path, status, measuring, pretending):
    record, parts = Record.of_device(tmp_path, "Toy"), [Part("a/b", ())]
    record.begin_call({})
    if status:
        record.put("a/b", status=status, why="it did")
    assert accelerator.exit_code(record, parts, pretend=False) == measuring
    assert accelerator.exit_code(record, parts, pretend=True) == pretending
    lines = accelerator.summary(record, parts).splitlines()
    assert lines[0] == f"{int(status == 'done')} of 1 parts are done: {record.path}"
    if status != "done":
        assert lines[1] == (f"  a/b: {status}: it did" if status else "  a/b: not begun")


def test_what_travels_is_chosen_by_value_and_by_size(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    for part in ("train", "test"):
        photos.write_class(source / "birds" / "birds525" / part / "Wren", 2)
    (source / "weights").mkdir(parents=True)
    large, small = "squeezenet_v1.1.safetensors", "cifar10_resnet20.safetensors"
    (source / "weights" / large).write_bytes(os.urandom(20_000))
    (source / "weights" / small).write_bytes(os.urandom(2_000))
    (source / "weights" / "of_nobody.safetensors").touch()
    monkeypatch.setattr(accelerator_pack, "tree_bytes", lambda: 1_000_000)
    room = 1_000_000 + accelerator_pack.MARGIN + 15_000
    monkeypatch.setattr(accelerator_pack, "LIMIT", room)
    said = accelerator_pack.pack(source, target).splitlines()
    assert [line.split(" MB  ")[1] for line in said[:-1]] == [
        "the working tree",
        "birds525",
        small,
        f"{large} STAYS BEHIND",
    ]
    packed = {path.name: path.stat().st_size for path in target.iterdir()}
    assert packed.keys() == {"birds525.tar.xz", f"{small}.tar.xz"}
    assert sum(packed.values()) <= 15_000
    # There, the folder of archives is unpacked once, and serves as the folder of all data.
    data = accelerator_data.unpacked(target, tmp_path / "data")
    assert (data / "weights" / small).stat().st_size == 2_000
    assert len(list((data / "birds525" / "train" / "Wren").iterdir())) == 2
    assert len(list((data / "birds525" / "val" / "Wren").iterdir())) == 2
    assert accelerator_data.place("birds525", data)[0] == str(data / "birds525")
    assert accelerator_data.missing(data, ["digits", "birds525", "cifar10"]) == {
        "cifar10": f"{data} has no cifar10"
    }
    (data / "weights" / small).unlink()
    assert accelerator_data.unpacked(target, tmp_path / "data") == data
    assert not (data / "weights" / small).exists(), "what is unpacked is not unpacked again"
    assert accelerator_data.unpacked(source, tmp_path / "other") == source


def test_an_archive_writes_nowhere_else(tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    raw.seek(0)
    with pytest.raises(tarfile.OutsideDestinationError):
        accelerator_data.unpack(raw, tmp_path / "inside")
    assert not (tmp_path / "outside").exists()


def test_the_tree_that_travels_is_counted():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    assert 1 << 20 < accelerator_pack.tree_bytes() < 32 << 20


def test_only_what_is_out_of_memory_ends_a_series():
    class Full(Exception):
        pass

    assert beta_eff_batches.is_out_of_memory(Full("RESOURCE_EXHAUSTED: Out of memory allocating"))
    assert not beta_eff_batches.is_out_of_memory(Full("INTERNAL: illegal address"))


def test_a_junit_report_is_read(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        textwrap.dedent("""\
            <testsuites><testsuite>
            <testcase name="a" time="1.5"/>
            <testcase name="b" time="0.5"><failure message="assert 1 == 2">long</failure></testcase>
            <testcase name="c" time="0"><skipped message="needs an accelerator"/></testcase>
            </testsuite></testsuites>
            """)
    )
    found = gpu_tests.outcomes(report)
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["tests"]["b"] == {
        "outcome": "failed",
        "seconds": 0.5,
        "message": "assert 1 == 2",
    }


def test_missing_packages_are_named(monkeypatch):
    assert accelerator_device.not_installed() == []
    monkeypatch.setattr(accelerator_device, "version", lambda name: None)
    assert {"jax", "flax", "absl-py", "scikit-learn"} <= {*accelerator_device.not_installed()}


def test_the_page_is_the_one_that_the_records_make():
    wanted = accelerator_page.page(accelerator_page.committed())
    assert accelerator_page.PAGE.read_text(encoding="utf-8") == wanted, (
        "run python -m benchmarks.accelerator_page"
    )


def times(*milliseconds: float) -> dict:
    return {"wall_ms": milliseconds[0], "median_ms": milliseconds[-1], "cpu_ms": 0.0}


STEP = {
    "ours": times(10.0, 11.0),
    "torch": times(12.0, 13.0),
    "images_per_s": {"ours": 6400.0, "torch": 5333.3},
    "ratio_wall": 1.2,
    "ratio_median": 1.18,
    "compile_s": 31.25,
    "profile": {
        "ours": {"library_ms": 4.0, "generated_ms": 5.0},
        "torch": {"library_ms": 4.0, "generated_ms": 4.5},
    },
}
SERIES = {"m": [0.1, 0.5, 0.8], "n": [0.1, 0.6, 0.7]}
MODELS = {
    name: {"status": "ok", "seconds": 1.0, "validation_accuracy": series}
    for name, series in SERIES.items()
}
RESULTS = {
    "tests/pytest": {"tests": {}, "counts": {"passed": 17, "failed": 1}},
    "kernels/limits": {"gb_per_s": 4000.0, "tflop_per_s": {"float32": 50.0, "bfloat16": 700.0}},
    "kernels/probe": {
        "probe": {
            "times": {"gradient": times(1.0), "signed": times(0.25, 0.3)},
            "per_gradient": {"gradient": times(1.0), "signed": times(0.25)},
            "work": {"gflop": 5.0, "mb": 20.0},
        }
    },
    "kernels/network m": {
        "network": {
            "m": {
                "times": {"gradient": times(8.0), "signed": times(16.0)},
                "per_gradient": {"gradient": times(1.0), "signed": times(2.0)},
                "assigned": {k: {"temporary_mb": 1234.0} for k in ("gradient", "signed")},
                "work": {k: {"gflop": 80.0, "gb": 32.0} for k in ("gradient", "signed")},
            }
        }
    },
    "kernels/probes": {
        "probes": {
            "probes": 64,
            "times": {"gradient": times(4.0), "vmapped": times(2.0)},
            "per_gradient": {"gradient": times(1.0), "vmapped": times(0.5)},
        }
    },
    "kernels/batches m": {
        "batches": {
            "m": {
                "signed": {"batches": [{"batch": 64, **times(32.0)}], "largest": 64, "full": True}
            }
        }
    },
    "answer/one process, cold": {
        "models": {**MODELS, "k": {"status": "failed", "validation_accuracy": []}},
        "asked": ["k", "m", "n"],
        "total": {"wall": 512.3},
        "device_peak_mb": 20_000.0,
    },
    "ranking/cifar10, seed 0": {
        "models": MODELS,
        "compared": ["m", "n"],
        "tau_small": 0.61,
        "tau_early": {"1": -1.0, "3": None},
    },
    "throughput/m": {"throughput": {"m": STEP}},
    "options/m as it is": {"throughput": {"m": STEP}},
}
ROWS = """\
17 passed, 1 failed.
The device copies 4,000 GB/s. Products, TFLOP/s: 50 in float32, 700 in bfloat16.
| signed | 0.250 | 0.300 | 0.25 | 40 % of products |
| `m` | signed | 16.00 | 2.00 | 1,234 | 50 % of memory |
| vmapped | 2.00 | 0.50 |
| `m` | signed | 64 | 0.500 | memory |
| one process, cold | 2 of 3 | 512 | 20,000 | 10.0, 0.0 |
| cifar10, seed 0 | 2 | 0.61 | -1.00 (1) | `m` | 80.0 |
| m | 6,400 | 5,333 | 1.20 (1.18) | 9.0 | 8.5 |
| m as it is | 31.2 | 11.00 |
- `answer/torch`: skipped, no PyTorch
NVIDIA H200 (gpu), 16 cores; jax 0.11.2, torch 2.11.0."""


def test_a_record_becomes_tables(tmp_path):
    about = {"device": "NVIDIA H200 (gpu)", "cores": 16}
    about |= {"versions": {"jax": "0.11.2"}, "rivals": {"torch": "2.11.0"}}
    parts = {name: entry("done", 0, result) for name, result in RESULTS.items()}
    parts["answer/torch"] = {**entry("skipped"), "why": "no PyTorch"}
    record = content([{"environment": about}], **parts)
    came_back, results = tmp_path / "back.json", tmp_path / "results"
    came_back.write_text(json.dumps(record))
    assert accelerator_page.add(came_back, results) == results / "accelerator_nvidia-h200.json"
    accelerator_page.add(came_back, results)  # merged with itself
    (merged,) = accelerator_page.committed(results)
    assert merged == record
    page = accelerator_page.page([merged]).splitlines()
    assert [row for row in ROWS.splitlines() if row not in page] == []
    titles = [line.removeprefix("### ") for line in page if line.startswith("### ")]
    assert titles == [*accelerator_parts.SECTIONS.values(), "What did not end"]
    widths = [{line.count("|") for line in block.splitlines()} for block in blocks(page)]
    assert all(len(width) == 1 for width in widths), "every row of a table has all its columns"


def blocks(lines: list[str]) -> list[str]:
    """The tables of a page."""
    text = "\n".join(line if line.startswith("|") else "" for line in lines)
    return [block for block in text.split("\n\n") if block.strip()]


def test_regret_is_what_the_leader_of_an_epoch_loses_at_the_end():
    assert accelerator_tables.regret_by_epoch(list(SERIES.values())) == pytest.approx([0.1, 0.0])
    assert accelerator_tables.regret_by_epoch([]) == []


def call(output: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.accelerator --pretend` with everything in a folder."""
    command = [sys.executable, "-m", "benchmarks.accelerator", "--pretend", *options]
    folders = [f"--output={output}", f"--work={output}/work", f"--data={output}/none"]
    return subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True)


def test_the_command_measures_the_cheapest_part_once(tmp_path):
    first = call(tmp_path, "--only=kernels/limits")
    assert first.returncode == 0, first.stdout + first.stderr
    record = accelerator_record.read(tmp_path / "accelerator_pretend.json")
    assert record["calls"][0]["environment"]["versions"]["jax"]
    part = record["parts"]["kernels/limits"]
    assert part["status"] == "done"
    assert part["result"]["gb_per_s"] > 0
    assert first.stdout.splitlines()[-1].startswith("1 of 1 parts are done: ")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_runs_in_small_and_once(tmp_path):
    first = call(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    path = tmp_path / "accelerator_pretend.json"
    parts = accelerator_record.read(path)["parts"]
    assert {name.split("/")[0] for name in parts} == accelerator_parts.SECTIONS.keys()
    without_torch = (accelerator_parts.NO_TORCH, accelerator_parts.NO_RIVAL)
    for name, part in parts.items():
        assert part["status"] == "done" or part["why"] in without_torch, name
    second = call(tmp_path)
    assert second.returncode == 0
    assert "== " not in second.stdout, "nothing is measured again"
    done = {n: p for n, p in accelerator_record.read(path)["parts"].items() if p["result"]}
    assert {n: p["result"] for n, p in done.items()} == {
        n: p["result"] for n, p in parts.items() if p["result"]
    }
    assert accelerator_page.device(accelerator_record.read(path)).count("### ") >= 5
