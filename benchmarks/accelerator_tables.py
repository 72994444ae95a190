"""The tables of docs/results/accelerator.md, made of one device's record part by part.

Each function takes `found`: part -> the result of a part that is done. A table without rows is
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ncap_jax.selection import metrics

Found = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def of(found: Found, prefix: str) -> dict[str, Any]:
    """What stands behind a prefix of the part's name -> result."""
    return {n.removeprefix(prefix): found[n] for n in found if n.startswith(prefix)}


def of_section(found: Found, section: str) -> dict[str, Any]:
    """The parts of a section."""
    return {name: result for name, result in found.items() if name.startswith(f"{section}/")}


def tests(found: Found) -> str:
    """How many tests there are by outcome."""
    results = found.get("tests/pytest")
    if results is None:
        return ""
    return ", ".join(f"{count} {outcome}" for outcome, count in results["counts"].items()) + "."


def kernels(found: Found) -> str:
    """The probe, networks, many probes, and batches."""
    parts = [_limits(found), _probe(found), _networks(found), _probes(found), _batches(found)]
    return "\n\n".join(filter(None, parts))


def _limits(found: Found) -> str:
    if "kernels/limits" not in found:
        return ""
    limits = found["kernels/limits"]
    rates = ", ".join(f"{v:,.0f} in {n}" for n, v in limits["tflop_per_s"].items())
    return f"The device copies {limits['gb_per_s']:,.0f} GB/s. Products, TFLOP/s: {rates}."


def _share(found: Found, gflop: float, gb: float, milliseconds: float) -> str:
    """The larger share of the device's limits that a program reaches; empty where none is known."""
    if "kernels/limits" not in found:
        return ""
    limits = found["kernels/limits"]
    products = gflop / milliseconds / limits["tflop_per_s"]["float32"]
    memory = 1e3 * gb / milliseconds / limits["gb_per_s"]
    kind = "products" if products > memory else "memory"
    return f"{100 * max(products, memory):.0f} % of {kind}"


def _probe(found: Found) -> str:
    if "kernels/probe" not in found:
        return ""
    probe = found["kernels/probe"]["probe"]
    work, rows = probe["work"], []
    for name, row in probe["times"].items():
        ratio = f"{probe['per_gradient'][name]['wall_ms']:.2f}"
        share = ""
        if name == "signed":
            share = _share(found, work["gflop"], work["mb"] / 1e3, row["wall_ms"])
        rows.append([name, f"{row['wall_ms']:.3f}", f"{row['median_ms']:.3f}", ratio, share])
    return table(["probe", "ms", "median, ms", "of a gradient", "of the device's limit"], rows)


def _networks(found: Found) -> str:
    rows = []
    for name, result in of(found, "kernels/network ").items():
        row = result["network"][name]
        for key, times in row["times"].items():
            work, ms = row["work"][key], times["wall_ms"]
            share = _share(found, work["gflop"], work["gb"], ms)
            ratio = f"{row['per_gradient'][key]['wall_ms']:.2f}"
            memory = f"{row['assigned'][key]['temporary_mb']:,.0f}"
            rows.append([f"`{name}`", key, f"{ms:.2f}", ratio, memory, share])
    header = ["network", "program", "ms", "of a gradient", "memory, MB", "of the device's limit"]
    return table(header, rows)


def _probes(found: Found) -> str:
    if "kernels/probes" not in found:
        return ""
    probes = found["kernels/probes"]["probes"]
    rows = [
        [name, f"{row['wall_ms']:.2f}", f"{probes['per_gradient'][name]['wall_ms']:.2f}"]
        for name, row in probes["times"].items()
    ]
    return table([f"{probes['probes']} probes", "ms", "of all gradients"], rows)


def _batches(found: Found) -> str:
    rows = []
    for name, result in of(found, "kernels/batches ").items():
        for key, series in result["batches"][name].items():
            last = series["batches"][-1:] or [{"wall_ms": float("nan")}]
            per_image = last[0]["wall_ms"] / max(series["largest"], 1)
            end = "memory" if series["full"] else "not sought further"
            rows.append([f"`{name}`", key, f"{series['largest']:,}", f"{per_image:.3f}", end])
    return table(["network", "program", "largest batch", "ms an image", "ended by"], rows)


def answer(found: Found) -> str:
    """Seconds of each run, and how many epochs it takes until the choice costs nothing."""
    rows = []
    for name, run in of(found, "answer/").items():
        ok = [row for row in run["models"].values() if row.get("status", "ok") == "ok"]
        regrets = regret_by_epoch([row["validation_accuracy"] for row in ok])
        said = ", ".join(f"{100 * value:.1f}" for value in regrets)
        whole, peak = f"{run['total']['wall']:,.0f}", run.get("device_peak_mb")
        memory = "" if peak is None else f"{peak:,.0f}"
        rows.append([name, f"{len(ok)} of {len(run['asked'])}", whole, memory, said])
    header = ["run", "models", "seconds", "device memory, MB", "points lost after 1, 2, ... epochs"]
    return table(header, rows)


def regret_by_epoch(series: Sequence[Sequence[float]]) -> list[float]:
    """Accuracy lost at the end by the model that leads after 1, 2, ... epochs.

    Args:
        series: of each model the validation accuracies, epoch 0 first.
    """
    if not series:
        return []
    values = np.array(series)
    return [metrics.regret(values[:, n], values[:, -1]) for n in range(1, values.shape[1])]


def ranking(found: Found) -> str:
    """How far the order at 224 pixels agrees with that at 40, by set and seed."""
    rows = []
    for name, run in of(found, "ranking/").items():
        ends = {
            model: row["validation_accuracy"][-1]
            for model, row in run["models"].items()
            if row["status"] == "ok"
        }
        if not ends:
            continue
        best = max(ends, key=lambda model: ends[model])
        tau = "" if run["tau_small"] is None else f"{run['tau_small']:.2f}"
        early = ", ".join(
            f"{value:.2f} ({n})" for n, value in run["tau_early"].items() if value is not None
        )
        accuracy = f"{100 * ends[best]:.1f}"
        rows.append([name, str(len(run["compared"])), tau, early, f"`{best}`", accuracy])
    header = ["set", "models", "τ with the order at 40 px", "τ of early epochs (n) with the end"]
    return table([*header, "best", "its accuracy, %"], rows)


def throughput(found: Found) -> str:
    """Images per second, ours and PyTorch's; the kernels alone where there is a profile."""
    rows = []
    for name, result in of(found, "throughput/").items():
        for row in result["throughput"].values():
            rates, profile = row["images_per_s"], row.get("profile", {})
            rival = next((who for who in rates if who != "ours"), None)
            theirs = f"{rates[rival]:,.0f}" if rival else ""
            ratio = f"{row['ratio_wall']:.2f} ({row['ratio_median']:.2f})" if rival else ""
            kernels = {who: p["library_ms"] + p["generated_ms"] for who, p in profile.items()}
            alone = [f"{kernels[who]:.1f}" if who in kernels else "" for who in ("ours", rival)]
            rows.append([name, f"{rates['ours']:,.0f}", theirs, ratio, *alone])
    header = ["model", "ours, images/s", "PyTorch, images/s", "PyTorch's time over ours (medians)"]
    return table([*header, "our kernels, ms", "PyTorch's kernels, ms"], rows)


def options(found: Found) -> str:
    """Seconds to compile and milliseconds of a step, by XLA's options."""
    rows = []
    for name, result in of(found, "options/").items():
        for row in result["throughput"].values():
            seconds, ms = f"{row['compile_s']:.1f}", f"{row['ours']['median_ms']:.2f}"
            rows.append([name, seconds, ms])
    return table(["model and option", "compiling, s", "step, ms"], rows)
