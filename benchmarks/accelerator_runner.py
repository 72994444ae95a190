"""Runs parts one after the other, each in a process of its own, and records how they end."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import accelerator_beside as beside
from benchmarks.accelerator_record import ATTEMPTS, DONE, KEPT, Record
from ncap_jax import files

# With this exit code a part says that it has nothing to measure; its last line says why.
NOTHING_TO_DO = 77
# Seconds between two looks at a process.
PATIENCE = 0.05


@dataclasses.dataclass(frozen=True)
class Part:
    """A measurement that stands alone.

    Attributes:
        name: `<section>/<what>`.
        command: what is run; `{result}` stands for the file that it writes, `{seconds}` for the
            seconds that it may take. If the file is there, it goes on where the file ends.
        limit: seconds that it may take.
        least: seconds without which it is not begun.
        quiet: whether nothing else may run beside it, because it measures times.
        compile: a command that compiles what it will run; empty: none.
        skip: why it cannot run here; empty: it can.
    """

    name: str
    command: tuple[str, ...]
    limit: float = 120.0
    least: float = 15.0
    quiet: bool = True
    compile: tuple[str, ...] = ()
    skip: str = ""


class Runner:
    """Runs parts.

    Args:
        record: receives the results.
        work: folder of results under way and logs.
        environ: of the parts' processes.
        helpers: compiles beside them.
        seconds: that all parts may take together.
    """

    def __init__(
        self,
        record: Record,
        work: pathlib.Path,
        environ: Mapping[str, str],
        helpers: beside.Beside,
        seconds: float,
    ) -> None:
        self.record, self.work, self.environ, self.helpers = record, work, environ, helpers
        self.end = time.monotonic() + seconds
        self.tried: set[str] = set()

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def run(self, parts: Sequence[Part]) -> None:
        """Run what is not done yet, as long as there is time for anything."""
        try:
            while (part := self.choose(parts)) is not None:
                self.tried.add(part.name)
                self.run_part(part, parts)
        finally:
            self.helpers.close()

    def open_parts(self, parts: Sequence[Part]) -> list[Part]:
        """What this call can still do: first what was never tried, each in the given order."""
        found = [
            part
            for part in parts
            if part.name not in self.tried
            and not self.record.is_done(part.name)
            and self.record.attempts(part.name) < ATTEMPTS
        ]
        return sorted(found, key=lambda part: self.record.attempts(part.name))

    def choose(self, parts: Sequence[Part]) -> Part | None:
        """The first part for which there is time, once its programs are compiled.

        A part of less value in the meantime would only stop the compilation, or come too late.
        """
        while True:
            open_parts = self.open_parts(parts)
            fitting = [p for p in open_parts if p.skip or p.least <= self.left()]
            if not fitting or not self.helpers.is_busy(fitting[0].name):
                return fitting[0] if fitting else None
            self.compile_for(open_parts)
            time.sleep(PATIENCE)

    def compile_for(self, parts: Sequence[Part]) -> None:
        """Have later parts compiled as far as there is room for it."""
        unused = self.work / "unused.json"
        self.helpers.expect([(p.name, filled(p.compile, unused, 0)) for p in parts if not p.skip])

    def run_part(self, part: Part, parts: Sequence[Part]) -> None:
        """Run one part and record how it ended."""
        if part.skip:
            self.note(part, "skipped", part.skip, 0.0)
            return
        result = self.restored(part)
        seconds = min(part.limit, self.left())
        command = filled(part.command, result, seconds)
        print(f"== {part.name}, at most {seconds:.0f} s", flush=True)
        start, log = time.monotonic(), self.file(part, ".log")
        with open(log, "wb") as output:
            process = beside.start(command, self.environ, output)
            try:
                self.wait(process, part, parts, start + seconds)
                status, why = self.ending(process, part, seconds)
            except BaseException:
                beside.end(process)
                self.note(part, "interrupted", "the call was ended", time.monotonic() - start)
                raise
            finally:
                beside.end(process)
        self.note(part, status, why, time.monotonic() - start, command)

    def wait(
        self, process: subprocess.Popen[bytes], part: Part, parts: Sequence[Part], until: float
    ) -> None:
        """Wait for a part's end or the end of its time; others are compiled if it is not quiet."""
        if part.quiet:
            self.helpers.stop()
        while process.poll() is None and time.monotonic() < until:
            if not part.quiet:
                self.compile_for(self.open_parts(parts))
            time.sleep(PATIENCE)
        if part.quiet:
            self.helpers.go_on()

    def ending(
        self, process: subprocess.Popen[bytes], part: Part, seconds: float
    ) -> tuple[str, str]:
        """Status and reason, of a part that had some seconds."""
        code = process.poll()
        if code is None and seconds < part.limit:
            return "interrupted", f"the call was over before its {part.limit:.0f} s"
        if code is None:
            return "out of time", f"it took more than {part.limit:.0f} s"
        if code == NOTHING_TO_DO:
            return "skipped", (tail(self.file(part, ".log")).splitlines() or [""])[-1]
        if code == 0 and self.file(part, ".json").exists():
            return DONE, ""
        if code == 0:
            return "failed", "it wrote no result"
        return "failed", f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def note(
        self, part: Part, status: str, why: str, seconds: float, command: Sequence[str] = ()
    ) -> None:
        """Record how a part ended, with what it has written."""
        failed = status in ("failed", "out of time")
        self.record.put(
            part.name,
            status=status,
            why=why,
            attempts=self.record.attempts(part.name) + failed,
            seconds=round(seconds, 2),
            command=shlex.join(command or part.command),
            output=tail(self.file(part, ".log")),
            result=self.written(part),
        )
        if status == DONE:
            self.file(part, ".json").unlink()
        print(f"   {status} after {seconds:.0f} s{f': {why}' if why else ''}", flush=True)

    def file(self, part: Part, ending: str) -> pathlib.Path:
        """A part's file in the work folder."""
        self.work.mkdir(parents=True, exist_ok=True)
        return self.work / f"{part.name.replace('/', '_')}{ending}"

    def written(self, part: Part) -> Any:
        """What a part has written so far, or None."""
        try:
            return json.loads(self.file(part, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def restored(self, part: Part) -> pathlib.Path:
        """The file that a part writes: what an earlier call has of it is put there first."""
        path, before = self.file(part, ".json"), self.record.part(part.name).get("result")
        if before is not None and self.written(part) is None:
            files.write_atomically(path, files.to_json(before))
        return path


def filled(command: Sequence[str], result: pathlib.Path, seconds: float) -> list[str]:
    """A command with the file and the seconds in their places."""
    values = {"{result}": str(result), "{seconds}": f"{seconds:.0f}"}
    found = list(command)
    for place, value in values.items():
        found = [word.replace(place, value) for word in found]
    return found


def tail(log: pathlib.Path) -> str:
    """The end of a log; empty if there is none."""
    try:
        return log.read_bytes()[-KEPT:].decode("utf-8", "replace")
    except OSError:
        return ""
