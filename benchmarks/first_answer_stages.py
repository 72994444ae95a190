"""Seconds by stage, of what `benchmarks.first_answer_recorder` has noted.

A thread is in one stage at a time. The next models are prepared in threads while one trains, so
wall time is counted twice: in the main thread, where the stages add up to the whole, and beside it.
CPU time belongs to the stage that its thread is in. XLA has threads of its own: those that execute
work for the main thread's stage, all others for whoever compiles.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

TRACE, COMPILE, READ = COMPILING = "trace and lower", "compile", "read cache"
STAGES = (
    *("import", "data", "build", *COMPILING, "train", "evaluate", "measure", "report"),
    *("wait for threads", "other"),
)
# What is no overhead: the answer needs it whoever computes it.
ANSWER = ("train", "evaluate", "measure")
# The runs of a part, in order; both sides by turns.
OURS, RIVAL = ("cold", "warm"), ("PyTorch", "PyTorch again")
TURNS = ("cold", "PyTorch", "warm", "PyTorch again")
# Part of the names of XLA's threads that execute programs on the CPU.
EXECUTES = "Eigen"


class Piece(NamedTuple):
    """A time in which a thread is in one stage.

    Attributes:
        start: seconds of `time.monotonic`.
        end: likewise.
        stage: one of `STAGES`.
        measures: whether it is spent on beta_eff: its compilation counts here too.
    """

    start: float
    end: float
    stage: str
    measures: bool = False


class Sample(NamedTuple):
    """CPU seconds of each thread so far, at a time."""

    time: float
    cpu: Mapping[int, float]


# (stage, whether for beta_eff) -> seconds, or shares of them.
Times = dict[tuple[str, bool], float]


class Threads(NamedTuple):
    """What is known of a process's threads.

    Attributes:
        main: number of the main thread.
        pieces: thread -> its stages in order, for threads of Python.
        names: thread -> its name for the system.
        samples: CPU times, in order.
    """

    main: int
    pieces: Mapping[int, Sequence[Piece]]
    names: Mapping[int, str]
    samples: Sequence[Sample]


def flatten(calls: Iterable[Piece]) -> list[Piece]:
    """The calls of one thread, which lie in one another, as pieces of the innermost stage each."""
    pieces: list[Piece] = []
    stack: list[Piece] = []
    now = 0.0

    def advance(to: float) -> None:
        nonlocal now
        if stack and to > now:
            measures = any(call.stage == "measure" for call in stack)
            pieces.append(Piece(now, to, stack[-1].stage, measures))
        now = max(now, to)

    for call in sorted(calls, key=lambda call: (call.start, -call.end)):
        while stack and stack[-1].end <= call.start:
            advance(stack[-1].end)
            stack.pop()
        advance(call.start)
        stack.append(call)
    while stack:
        advance(stack[-1].end)
        stack.pop()
    return pieces


def overlap(pieces: Sequence[Piece], start: float, end: float) -> Times:
    """Seconds of a time by stage, for the pieces of one thread in order."""
    seconds: Times = defaultdict(float)
    first = bisect_right(pieces, start, key=lambda piece: piece.start) - 1
    for number in range(max(0, first), len(pieces)):
        piece = pieces[number]
        if piece.start >= end:
            break
        if piece.end > start:
            within = min(piece.end, end) - max(piece.start, start)
            seconds[piece.stage, piece.measures] += within
    return seconds


def seconds_by_stage(threads: Threads, wall: float, cpu: float) -> dict[str, Any]:
    """The table of a run.

    Args:
        threads: what they did.
        wall: seconds of the run.
        cpu: seconds of the whole process, of threads too that have ended unseen.

    Returns:
        `stages`: stage -> {"cpu", "wall", "beside"}: CPU seconds of all threads; wall seconds of
        the main thread, and of the threads beside it, added. `total`: the sums of the stages; of
        the first two they are the arguments. `beta_eff`: the same for all that is spent on it.
    """
    spent = {"cpu": cpu_times(threads), **wall_times(threads)}
    for kind, whole in (("cpu", cpu), ("wall", wall)):
        spent[kind]["other", False] += whole - sum(spent[kind].values())

    return {
        "stages": {stage: added(spent, stage=stage) for stage in STAGES},
        "total": added(spent),
        "beta_eff": added(spent, for_beta_eff=True),
    }


def added(
    spent: Mapping[str, Times], stage: str | None = None, *, for_beta_eff: bool = False
) -> dict[str, float]:
    """Seconds of one stage or of all; of all that is done, or for beta_eff alone."""
    return {
        kind: round(
            sum(
                seconds
                for (name, measures), seconds in times.items()
                if stage in (None, name) and (measures or not for_beta_eff)
            ),
            3,
        )
        for kind, times in spent.items()
    }


def wall_times(threads: Threads) -> dict[str, Times]:
    """Seconds of the main thread, and of the others."""
    spent: dict[str, Times] = {"wall": defaultdict(float), "beside": defaultdict(float)}
    for thread, pieces in threads.pieces.items():
        kind = "wall" if thread == threads.main else "beside"
        for piece in pieces:
            spent[kind][piece.stage, piece.measures] += piece.end - piece.start
    return spent


def cpu_times(threads: Threads) -> Times:
    """CPU seconds of all threads, as far as they were seen in a stage."""
    spent: Times = defaultdict(float)
    for before, after in itertools.pairwise(threads.samples):
        for thread, seconds in after.cpu.items():
            used = seconds - before.cpu.get(thread, 0.0)
            if used > 0:
                for stage, share in shares(threads, thread, before.time, after.time).items():
                    spent[stage] += used * share
    return spent


def shares(threads: Threads, thread: int, start: float, end: float) -> Times:
    """The stages to which a thread's CPU time belongs in an interval, as shares of it.

    A thread of Python works for its own stage; what is missing to 1 belongs to none.
    """
    if thread in threads.pieces:
        own = overlap(threads.pieces[thread], start, end)
        return {stage: seconds / (end - start) for stage, seconds in own.items()}
    found: Times = defaultdict(float)
    if EXECUTES not in threads.names[thread]:
        for pieces in threads.pieces.values():
            for stage, seconds in overlap(pieces, start, end).items():
                if stage[0] == COMPILE:
                    found[stage] += seconds
    if not found:
        found = overlap(threads.pieces.get(threads.main, ()), start, end)
    whole = sum(found.values())
    return {stage: seconds / whole for stage, seconds in found.items()}


def table(found: Mapping[str, Any]) -> str:
    """A part's runs in Markdown: seconds by stage, and what follows from them.

    Args:
        found: turn -> result of the run; other keys are left out.
    """
    runs = [(turn, found[turn]) for turn in TURNS if turn in found]
    columns = [
        (f"{turn}: {name}", run, kind)
        for turn, run in runs
        for kind, name in (("cpu", "CPU"), ("wall", "wall"), ("beside", "beside"))
        if kind in run["total"]
    ]
    rows = {stage: [run["stages"].get(stage) for _, run, _ in columns] for stage in STAGES}
    rows["in all"] = [run["total"] for _, run, _ in columns]
    rows["of that for β_eff"] = [run.get("beta_eff") for _, run, _ in columns]
    lines = [["seconds", *(name for name, _, _ in columns)], ["---"] * (len(columns) + 1)]
    for name, cells in rows.items():
        numbers = (f"{c[kind]:.1f}" if c else "" for c, (_, _, kind) in zip(cells, columns))
        lines.append([name, *numbers])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([text, "", *(f"- {turn}: {in_words(found, turn)}." for turn, _ in runs)])


def in_words(found: Mapping[str, Any], turn: str) -> str:
    """What follows from a run's seconds."""
    run = found[turn]
    cpu = {stage: row["cpu"] for stage, row in run["stages"].items()}
    overhead = run["total"]["cpu"] - sum(cpu.get(stage, 0.0) for stage in ANSWER)
    curves = [row.get("validation_accuracy", ()) for row in run["models"].values()]
    epochs = sum(max(0, len(curve) - 1) for curve in curves)  # the first is before training
    said = [
        f"{epochs} epochs of training",
        f"overhead {overhead / cpu['train']:.2f} × training in CPU seconds",
    ]
    if turn in OURS:
        said.append(f"β_eff {run['beta_eff']['cpu'] / run['total']['cpu']:.1%} of the CPU seconds")
        said.append(f"{run['programs']['compiled']} programs compiled")
        said.append(f"{run['programs']['read']} read")
        rivals = [found[rival]["total"]["wall"] for rival in RIVAL if rival in found]
        if rivals:
            said.append(f"{run['total']['wall'] / min(rivals):.2f} × PyTorch's wall seconds")
    said.append(f"peak memory {run['peak_mb']:,.0f} MB")
    unfinished = [name for name, row in run["models"].items() if row.get("status", "ok") != "ok"]
    if unfinished:
        said.append(f"not finished: {', '.join(unfinished)}")
    return "; ".join(said)
