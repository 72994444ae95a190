r"""Everything that only an accelerator can show, in as many minutes as there are.

    python -m benchmarks.accelerator --minutes=10 --output=FOLDER
    python -m benchmarks.accelerator --pretend --output=FOLDER

Runs its parts (`benchmarks.accelerator_parts`) in order of value, each in a process of its own with
its own time limit, so that a crash or a lack of memory costs one part. The results go into
FOLDER/accelerator_<device>.json as they come, with versions, commands and the end of each part's
output. The same command goes on where the last one stopped, also after a kill: what is done is not
done again; what failed or took too long is tried once more, after everything else.

While a part runs that measures no times, later parts are compiled in processes beside it, into the
folder of compiled programs under --work. They are stopped while times are measured.

`--pretend` runs every part in small on a CPU, so that nothing fails for a typo when the minutes are
there. `--pack=FOLDER` writes the data sets and weights that must travel to a machine without a
network (`benchmarks.accelerator_pack`); there, --data names that folder.
`python -m benchmarks.accelerator_page FILE` merges a record into docs/results/accelerator.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
from types import FrameType
from typing import Any

from absl import app, flags

from benchmarks import accelerator_beside, accelerator_data, accelerator_parts
from benchmarks.accelerator_record import Record, slug
from benchmarks.accelerator_runner import Part, Runner

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parents[1]
PRETENDED = "pretend"


def define_flags() -> None:
    """Called by the script alone: the tests import it beside other programs."""
    flags.DEFINE_float(
        "minutes", None, "Minutes that this call may take (default: 10; to pretend: 60)."
    )
    flags.DEFINE_bool("pretend", False, "Run every part in small, on a CPU.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the records.")
    flags.DEFINE_string("work", "runs/accelerator", "Folder of compiled programs, runs and logs.")
    flags.DEFINE_string(
        "data", "../shared/data", "Folder of data sets and weights, or a packed one."
    )
    flags.DEFINE_string("torch_python", sys.executable, "Python with torch, torchvision and timm.")
    flags.DEFINE_list("only", [], "Sections or parts to run (default: all).")
    flags.DEFINE_integer(
        "beside", max(1, (os.cpu_count() or 1) // 4), "Processes that compile beside a part."
    )
    flags.DEFINE_string("pack", None, "Write what must travel into this folder, and run nothing.")


def device(environ: dict[str, str]) -> dict[str, Any]:
    """What `benchmarks.accelerator_device` prints."""
    command = [sys.executable, "-m", "benchmarks.accelerator_device"]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("the device cannot be described: see above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment(work: pathlib.Path) -> dict[str, str]:
    """Of all processes: this checkout first, one folder of compiled programs, no downloads."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "NCAP_OFFLINE": "1",
        "NCAP_CACHE": str(work / "cache"),
        "JAX_COMPILATION_CACHE_DIR": str(work / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }


def setup(work: pathlib.Path) -> accelerator_parts.Setup:
    """Where the parts run; packed data are unpacked first."""
    data = accelerator_data.unpacked(pathlib.Path(FLAGS.data), work / "data")
    missing = accelerator_data.missing(data, accelerator_parts.SETS)
    python = FLAGS.torch_python if accelerator_parts.has_torch(FLAGS.torch_python) else None
    return accelerator_parts.Setup(FLAGS.pretend, str(data), str(work), missing, python)


def chosen(parts: list[Part], only: list[str]) -> list[Part]:
    """The parts of these sections, or of these names."""
    known = {part.name for part in parts} | accelerator_parts.SECTIONS.keys()
    if unknown := sorted(set(only) - known):
        raise app.UsageError(f"unknown: {', '.join(unknown)}. Known: {', '.join(sorted(known))}")
    return [p for p in parts if not only or p.name in only or p.name.split("/")[0] in only]


def summary(record: Record, parts: list[Part]) -> str:
    """One line for each part that is not done, and how many are."""
    done = [part.name for part in parts if record.is_done(part.name)]
    lines = [f"{len(done)} of {len(parts)} parts are done: {record.path}"]
    for part in parts:
        if part.name not in done:
            found = record.part(part.name)
            why = f": {found['why']}" if found.get("why") else ""
            lines.append(f"  {part.name}: {found.get('status', 'not begun')}{why}")
    return "\n".join(lines)


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the call in order: the part under way is ended and what it has written is kept."""
    raise SystemExit(128 + number)


def exit_code(record: Record, parts: list[Part], *, pretend: bool) -> int:
    """1 if a part failed or took too long; if all is pretended, also if a part is still open."""
    wrong = {"failed", "out of time"}
    if pretend:
        wrong |= {"interrupted", "not begun"}
    return int(any(record.part(p.name).get("status", "not begun") in wrong for p in parts))


def main(argv: list[str]) -> None:
    """Measure as much as the minutes allow."""
    del argv
    minutes = FLAGS.minutes or (60 if FLAGS.pretend else 10)
    if FLAGS.pack:
        from benchmarks import accelerator_pack  # it imports the whole zoo

        print(accelerator_pack.pack(pathlib.Path(FLAGS.data), pathlib.Path(FLAGS.pack)))
        return
    signal.signal(signal.SIGTERM, leave)
    output, work = pathlib.Path(FLAGS.output).absolute(), pathlib.Path(FLAGS.work).absolute()
    about = device(environment(work))
    if about["backend"] == "cpu" and not FLAGS.pretend:
        raise SystemExit(
            "JAX sees no accelerator here. Use --pretend to run every part in small on the CPU."
        )
    name = PRETENDED if FLAGS.pretend else slug(about["device_kind"])
    work /= name
    environ = environment(work)
    record = Record.of_device(output, about["device_kind"], name)
    parts = chosen(accelerator_parts.parts(setup(work)), FLAGS.only)
    record.begin_call({"minutes": minutes, "environment": about})
    helpers = accelerator_beside.Beside(
        FLAGS.beside, {**environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, work
    )
    Runner(record, work, environ, helpers, 60 * minutes).run(parts)
    print(summary(record, parts))
    sys.exit(exit_code(record, parts, pretend=FLAGS.pretend))


if __name__ == "__main__":
    define_flags()
    app.run(main)
