"""Which of timm's architectures run, and do they give PyTorch's numbers?

    python -m experiments.timm_sweep            # about two hours on two cores; resumes
    python -m experiments.timm_sweep --show     # the tables of what is there, in a second

Four architectures of every family (a file of timm's), of several kinds where it holds several, and
those of the named lists; those of the fewest layers first, for XLA's compiling takes most of the
time and grows with their number. Weights are random, and no parameter stays a constant.
`experiments.torch_parity` compares output, output in training mode, running statistics and gradient
in float32, and in float64 where float32 differs. One line a model is appended to
experiments/tables/timm_sweep.jsonl as it ends; processes of a few models each keep memory bounded.
Needs the extra `timm`.

Expected result: experiments/tables/timm_sweep.md; what follows: docs/results/timm.md.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from absl import app, flags

from experiments import model_lists, torch_parity
from ncap_jax import errors
from ncap_jax.zoo.lists import lists

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "tables" / "timm_sweep.jsonl"
# Relative. Sums in another order, amplified by norms over few pixels; where that is more in
# float32, float64 tells rounding from a mistake.
SINGLE, DOUBLE = 1e-4, 1e-8
MOST = 100.0  # million parameters
KINDS, LEAST = 3, 4  # of a family: kinds at most, architectures at least
# Sides of images to try: norms over a single pixel say nothing.
SIDES = (64, 96, 128, 160, 192, 224, 240, 256)
BATCH = 4
IN_A_PROCESS = 10
SECONDS = 900  # of wall time, for one model

Line = dict[str, Any]


def plan(catalogue: pathlib.Path) -> list[Line]:
    """Architectures with family and millions of parameters, those of the fewest layers first.

    Args:
        catalogue: folder with the tables that timm publishes, for sizes.
    """
    import timm
    from timm.models import _registry

    known = set(timm.list_models(exclude_filters="test_*"))
    families: dict[str, list[Line]] = {}
    for row in model_lists.table(catalogue / model_lists.COST):
        name, size = row["model"].split(".")[0], model_lists.number(row["param_count"])
        if name in known and size <= MOST:
            known.remove(name)
            family = _registry._model_to_module[name]
            line = {"architecture": name, "family": family, "millions": size}
            families.setdefault(family, []).append(line)
    chosen = [chosen_of(family) for family in families.values()]
    named = {name.removeprefix("timm:").split(".")[0] for part in lists().values() for name in part}
    listed = [[line for line in f if line["architecture"] in named] for f in families.values()]
    lines = {line["architecture"]: line for line in itertools.chain(*chosen, *listed)}
    return sorted(lines.values(), key=lambda line: layers(line["architecture"]))


def layers(architecture: str) -> int:
    """The number of modules in a network, containers included."""
    import torch

    from ncap_jax.zoo import timm_networks

    with torch.device("meta"):  # no memory, no drawing
        return len(list(timm_networks.create(architecture).modules()))


def chosen_of(family: Sequence[Line]) -> list[Line]:
    """Of one family: the smallest of each kind, then the smallest, until there are enough."""
    ordered = sorted(family, key=lambda line: (line["millions"], line["architecture"]))
    kinds: dict[str, Line] = {}
    for line in ordered:
        kinds.setdefault(kind_of(line["architecture"]), line)
    chosen = list(kinds.values())[:KINDS]
    rest = [line for line in ordered if line not in chosen]
    return chosen + rest[: max(LEAST - len(chosen), 0)]


def kind_of(architecture: str) -> str:
    """The first word of a name, and the version in it: resnet50 -> resnet, eva02_tiny -> eva02."""
    word = architecture.split("_")[0]
    return re.sub(r"(?<![v0])\d{2,}[a-z]*$", "", word) if not word.startswith("eva") else word


def build(architecture: str) -> Any:
    """A module whose training mode draws nothing and none of whose parameters is a constant."""
    import torch

    from ncap_jax.zoo import timm_networks

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = timm_networks.create(architecture)
        for part in module.modules():
            for chance in ("p", "drop_prob", "drop_rate", "attn_drop_rate"):
                if isinstance(getattr(part, chance, None), float):
                    setattr(part, chance, 0.0)
        for leaf in module.parameters():
            # Scales of 1e-6 or 0 would hide whole branches.
            if leaf.is_floating_point() and leaf.min() == leaf.max():
                leaf.add_(0.1 * torch.randn_like(leaf))
    return module


def smallest_side(module: Any) -> int:
    """Side of the smallest images that PyTorch itself takes.

    Raises:
        ModelError: none of them.
    """
    import torch

    own = module.pretrained_cfg["input_size"][1]
    refused = "no size was tried"
    for side in (*(side for side in SIDES if side < own), own):
        try:
            with torch.no_grad():
                module.eval()(torch.zeros(2, 3, side, side))
        except Exception as error:
            refused = first_line(error)
        else:
            return side
    raise errors.ModelError(f"PyTorch itself takes no image: {refused}", "Choose another model")


def measure(line: Line) -> Line:
    """One architecture's line."""
    start = time.process_time()
    found: Line = {**line, "status": "fails", "reason": ""}
    try:
        module = build(line["architecture"])
        found["side"] = smallest_side(module)
        found["float32"] = agreement(module, found["side"])
        worst = max(found["float32"].values())
        if not worst <= SINGLE:
            with jax.enable_x64(True):
                found["float64"] = agreement(build(line["architecture"]).double(), found["side"])
            worst = max(found["float64"].values()) * SINGLE / DOUBLE
        found["status"] = "works" if worst <= SINGLE else "fails"
        found["reason"] = "" if worst <= SINGLE else "its numbers differ from PyTorch's"
    except Exception as error:  # whatever stops a model is the result
        found["reason"] = first_line(error)
    return {**found, "cpu_seconds": round(time.process_time() - start, 1)}


def agreement(module: Any, side: int) -> dict[str, float]:
    """Relative differences by name, of two digits."""
    found = torch_parity.compare(module, side, BATCH)._asdict()
    return {name: float(f"{value:.1e}") for name, value in found.items()}


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def run_here(lines: Iterable[Line], path: pathlib.Path) -> None:
    """Measure in this process; each result is appended as it comes."""
    from ncap_jax.zoo import torch_models

    for line in lines:
        append(path, measure(line))
        torch_models.skeleton.cache_clear()
        jax.clear_caches()
        gc.collect()


def append(path: pathlib.Path, line: Line) -> None:
    """One more line, on a line of its own even after one that was cut off."""
    before = path.read_bytes() if path.exists() else b""
    cut = before and not before.endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(line) + "\n")


def sweep(lines: Sequence[Line], path: pathlib.Path, seconds: float = SECONDS) -> None:
    """Measure what is not there yet, a few models a process; one that ends a process fails.

    Args:
        lines: of the plan.
        path: of the results.
        seconds: after which a model that gives no result is given up.
    """
    while missing := not_in(lines, path):
        some = missing[:IN_A_PROCESS]
        ended = run_apart(some, path, seconds)
        if left := not_in(some, path):
            append(path, {**left[0], "status": "fails", "reason": ended})


def run_apart(lines: Sequence[Line], path: pathlib.Path, seconds: float) -> str:
    """Measure in a process of its own; how it ended."""
    command = [sys.executable, "-m", "experiments.timm_sweep", f"--results={path}"]
    # Threads of PyTorch's that wait for one another burn more time than they save.
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, f"--lines={json.dumps(lines)}"], env={**os.environ, **settings}
    )
    last = time.time()
    try:
        while process.poll() is None:
            if path.exists():
                last = max(last, path.stat().st_mtime)
            if time.time() - last > seconds:
                return f"gave no result in {seconds:g} s"
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    return f"its process ended with code {process.returncode}"


def not_in(lines: Sequence[Line], path: pathlib.Path) -> list[Line]:
    """Those of some lines that a file does not hold."""
    done = {line["architecture"] for line in read(path)}
    return [line for line in lines if line["architecture"] not in done]


def read(path: pathlib.Path = RESULTS) -> list[Line]:
    """The results; a line that was cut off is no result."""

    def parsed() -> Iterator[Line]:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue

    return list(parsed()) if path.exists() else []


def summary(lines: Sequence[Line]) -> str:
    """How many of how many families work, and the worst agreement."""
    works = [line for line in lines if line["status"] == "works"]
    families = {line["family"] for line in lines}
    single = [line for line in works if "float64" not in line]
    return (
        f"{len(works)} of {len(lines)} architectures of {len(families)} families work "
        f"({len(works) / len(lines):.1%}), {len(single)} of them within {SINGLE:g} in float32 and "
        f"{len(works) - len(single)} within {DOUBLE:g} in float64."
    )


def family_table(lines: Sequence[Line]) -> str:
    """What works and what does not, by family."""
    rows = ["| family | works | fails |", "|---|---|---|"]
    for family, group in grouped(lines):
        works = ", ".join(f"`{n['architecture']}`" for n in group if n["status"] == "works")
        fails = "; ".join(
            f"`{n['architecture']}`: {n['reason']}" for n in group if n["status"] != "works"
        )
        rows.append(f"| {family} | {works} | {fails} |")
    return "\n".join(rows)


def model_table(lines: Sequence[Line]) -> str:
    """Every architecture with its four differences."""
    names = torch_parity.Agreement._fields
    rows = [
        f"| family | architecture | parameters | side | dtype | {' | '.join(names)} |",
        "|---" * (5 + len(names)) + "|",
    ]
    for family, group in grouped(lines):
        for line in group:
            shared = f"{family} | {line['architecture']} | {line['millions']:.1f} M"
            for dtype in ("float32", "float64"):
                if dtype in line:
                    cells = " | ".join(f"{line[dtype][name]:.1e}" for name in names)
                    rows.append(f"| {shared} | {line['side']} | {dtype} | {cells} |")
    return "\n".join(rows)


def grouped(lines: Sequence[Line]) -> Iterator[tuple[str, list[Line]]]:
    """Families in the alphabet's order, their architectures by size."""
    ordered = sorted(lines, key=lambda n: (n["family"], n["millions"], n["architecture"]))
    for family, group in itertools.groupby(ordered, key=lambda line: line["family"]):
        yield family, list(group)


def show(lines: Sequence[Line]) -> None:
    """Print the tables."""
    print(f"{summary(lines)}\n\n{family_table(lines)}\n\n{model_table(lines)}")


def main(argv: list[str]) -> None:
    """Measure what is missing, or the lines given, and print the tables."""
    del argv
    path = pathlib.Path(FLAGS.results)
    if FLAGS.lines:
        run_here(json.loads(FLAGS.lines), path)
        return
    if not FLAGS.show:
        sweep(plan(pathlib.Path(FLAGS.catalogue)), path, FLAGS.seconds)
    show(read(path))


if __name__ == "__main__":
    flags.DEFINE_string("results", str(RESULTS), "File that lines are appended to.")
    flags.DEFINE_string("lines", "", "Measure these lines of the plan, JSON, in this process.")
    flags.DEFINE_string("catalogue", "../shared/data/catalogue", "Folder with timm's tables.")
    flags.DEFINE_float("seconds", SECONDS, "After which a model without a result is given up.")
    flags.DEFINE_bool("show", False, "Measure nothing.")
    app.run(main)
