"""What each thread of a ranking does when, and what CPU time it takes.

The package's functions say in which stage a thread is (`CALLS`), and JAX says when it traces,
compiles or reads a compiled program (`jax.monitoring`). CPU times are those of /proc (Linux), read
for every thread 20 times a second. `benchmarks.first_answer_stages` makes seconds by stage of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks import first_answer_stages as stages
from benchmarks.first_answer_stages import COMPILE, COMPILING, READ, TRACE, Piece, Sample, Threads
from ncap_jax import report
from ncap_jax.data import batching
from ncap_jax.finetune import loop
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.measure import training
from ncap_jax.run import ahead, facts, pipeline, worker

# Stage, and the function that is this stage where no other begins in it.
CALLS: tuple[tuple[str, Any, str], ...] = (
    ("data", pipeline, "prepare"),
    ("data", worker, "make_feed"),
    ("build", training, "start"),
    ("measure", training, "make_measure"),
    ("measure", training.HeadMeasure, "compile"),
    ("measure", training.HeadMeasure, "__call__"),
    ("measure", training.NetworkMeasure, "compile"),
    ("measure", training.NetworkMeasure, "__call__"),
    (TRACE, ahead, "compile_programs"),
    ("wait for threads", ahead.Ahead, "take"),
    ("train", loop, "train_epoch"),
    ("evaluate", loop, "observe"),
    ("report", facts, "run_info"),
    ("report", pipeline, "rank_trajectories"),
    ("report", report, "write"),
)
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": TRACE,
    "/jax/core/compile/jaxpr_to_mlir_module_duration": TRACE,
    "/jax/core/compile/backend_compile_duration": COMPILE,
}
CACHE_HIT = "/jax/compilation_cache/cache_hits"
INTERVAL = 0.05


class FirstEpoch(NamedTuple):
    """When a model trained for its first epoch, in how many steps."""

    start: float
    end: float
    steps: int


class Recorder:
    """What each thread of this process does when.

    Args:
        start: of this process, by `time.monotonic`; None: what it did until now does not count.
    """

    def __init__(self, start: float | None = None) -> None:
        self.main = threading.get_native_id()
        self.calls: dict[int, list[Piece]] = defaultdict(list)
        self.samples: list[Sample] = []
        self.names: dict[int, str] = {}
        if start is None:
            self.cpu = time.process_time()
            self.take_sample()
        else:
            self.cpu = 0.0
            self.samples.append(Sample(start, {}))
        self.start = self.samples[0].time
        self.compiled: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.first_epochs: dict[str, FirstEpoch] = {}
        self._hit = threading.local()

    def add(self, stage: str, start: float, end: float | None = None) -> None:
        """This thread was in a stage from `start` until now, or until `end`."""
        piece = Piece(start, time.monotonic() if end is None else end, stage)
        self.calls[threading.get_native_id()].append(piece)

    def timed(self, stage: str, function: Callable) -> Callable:
        """The function, which notes when it ran."""

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(stage, start)
                if stage == "train":
                    self._note_epoch(args[0], start)

        return noted

    def _note_epoch(self, tuning: FineTuning, start: float) -> None:
        steps = batching.steps_per_epoch(len(tuning.feed.labels), tuning.config.batch_size)
        epoch = FirstEpoch(start, time.monotonic(), steps)
        self.first_epochs.setdefault(tuning.candidate.name, epoch)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note stages, JAX's events and CPU times in the block."""
        before = [(owner, name, vars(owner)[name]) for _, owner, name in CALLS]
        for stage, owner, name in CALLS:
            setattr(owner, name, self.timed(stage, vars(owner)[name]))
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        done = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(done,), daemon=True)
        sampler.start()
        try:
            yield
        finally:
            done.set()
            sampler.join()
            for owner, name, function in before:
                setattr(owner, name, function)
            with contextlib.suppress(AttributeError):  # not in every version of JAX
                jax.monitoring.unregister_event_duration_listener(self._on_duration)
                jax.monitoring.unregister_event_listener(self._on_event)

    def _on_event(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            self._hit.value = True

    def _on_duration(self, event: str, duration_secs: float, **about: str | int) -> None:
        stage, end = EVENTS.get(event), time.monotonic()
        if stage is None:
            return
        if stage == COMPILE:
            hit, self._hit.value = getattr(self._hit, "value", False), False
            (self.read if hit else self.compiled)[str(about.get("fun_name", ""))] += 1
            stage = READ if hit else COMPILE
        self.add(stage, end - duration_secs, end)

    def _sample(self, done: threading.Event) -> None:
        while not done.wait(INTERVAL):
            self.take_sample()
        self.take_sample()

    def take_sample(self) -> None:
        """Read the CPU time of every thread."""
        cpu: dict[int, float] = {}
        for task in pathlib.Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                number = int(task.name)
                self.names[number], cpu[number] = read_task(task)
        self.samples.append(Sample(time.monotonic(), cpu))

    def threads(self) -> Threads:
        """What is known; after the block."""
        pieces = {thread: stages.flatten(calls) for thread, calls in self.calls.items()}
        return Threads(self.main, pieces, self.names, self.samples)

    def account(self) -> dict[str, Any]:
        """Seconds by stage until now; see `seconds_by_stage`."""
        wall, cpu = time.monotonic() - self.start, time.process_time() - self.cpu
        return stages.seconds_by_stage(self.threads(), wall, cpu)

    def first_steps(self) -> dict[str, float]:
        """When each model's first training step was done, in seconds after the start.

        Whatever an epoch traces, compiles or reads comes before its first step; the rest is
        divided evenly over its steps.
        """
        pieces, found = stages.flatten(self.calls[self.main]), {}
        for model, (start, end, steps) in self.first_epochs.items():
            inside = stages.overlap(pieces, start, end)
            before = sum(s for (stage, _), s in inside.items() if stage in COMPILING)
            found[model] = start + before + (end - start - before) / steps - self.start
        return found


def read_task(task: pathlib.Path) -> tuple[str, float]:
    """Name and CPU seconds, user and system, of a thread."""
    name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
