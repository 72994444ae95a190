"""What beta_eff costs: against a gradient, against explicit P, against PyTorch.

    python -m benchmarks.beta_eff --output=benchmarks/results/beta_eff_cpu.json

1. `probe`: the kernel on a ReLU MLP 1024-256-128-64-10 with 2,048 samples against one gradient
   by weights and inputs (target: 0.5 at most for one strength), and against the same formulas in
   PyTorch autograd (optional: `pip install torch==2.13.0`) on the same device (target: twice as
   fast). `pytorch` forms every matrix of equation (3), `pytorch_pruned` only those that the
   quotient needs, `pytorch_total` differentiates twice.
2. `explicit`: the same network's P as a SciPy CSR matrix (3e5 edges, 3.6e7 entries; target: 1,000
   times slower) for several batch sizes: `sparse` writes the CSR arrays directly, `coordinate`
   goes through triplets; and as a dense matrix where that fits.
3. `network`: MobileNet and ResNet50 with a linear head against their gradient (target: 4 at
   most), with the memory that XLA assigns; `memory`: the peak of a process of its own for each
   (target: 3 times at most).
4. `scaling`: edges, batch and depth one at a time; `--figure` draws it.
5. `probes`: the kernel vmapped over probes of one shape, against one call for each.
6. `batches`: how large a batch of `network` may be, by doubling it.

Sections that an existing output file holds already are kept, so that one section at a time may
run: `--sections=network --networks=resnet50`. 5 and 6 are for accelerators and run when asked for.

Times are the fastest of some calls, everything compared takes turns in one process. `cpu_ms` is
the time of all threads: on a machine that others use it is the figure to compare.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import beta_eff_batches, timing
from benchmarks import beta_eff_rivals as rivals
from ncap_jax import files
from ncap_jax.capacitance import beta_eff, line_graph, network
from ncap_jax.run import facts
from ncap_jax.types import STRENGTHS, Strength
from ncap_jax.zoo import MODELS

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_FIGURE = flags.DEFINE_string("figure", None, "Draw `scaling` of the output into this file.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Repeats; the fastest counts.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 96, "Side of the images for `network`, in pixels.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images a batch for `network`.")
_SECTIONS = flags.DEFINE_list(
    "sections", ["probe", "explicit", "network", "memory", "scaling"], "Which parts to run."
)
_NETWORKS = flags.DEFINE_list(
    "networks", ["mobilenet", "resnet50"], "Models for `network` and `memory`."
)
_SAMPLES = flags.DEFINE_integer("samples", 2048, "Samples for `probe`.", lower_bound=1)
_PROBES = flags.DEFINE_integer("probes", 64, "Probes for `probes`.", lower_bound=1)
_MOST = flags.DEFINE_integer("most", 4096, "The largest batch that `batches` tries.", lower_bound=1)
_COMPILE_ONLY = flags.DEFINE_bool(
    "compile_only", False, "Compile what `network` runs, for the cache, and measure nothing."
)
_PEAK_OF = flags.DEFINE_string("peak_of", None, "Internal: print one call's peak memory in MB.")

PROBE = (1024, 256, 128, 64, 10)
SAMPLES = 2048
ALL: tuple[Strength, ...] = ("signed", "absolute", "squared")


def mlp_case(
    widths: Sequence[int], batch: int, seed: int = 0
) -> tuple[list[line_graph.Layer], jax.Array, jax.Array]:
    """He-initialised layers in float32, normal inputs, random labels."""
    rng = np.random.default_rng(seed)
    layers = [
        line_graph.Layer(
            jnp.asarray(rng.normal(size=(m, n)) * np.sqrt(2 / m), jnp.float32),
            jnp.zeros(n, jnp.float32),
        )
        for m, n in itertools.pairwise(widths)
    ]
    inputs = jnp.asarray(rng.normal(size=(batch, widths[0])), jnp.float32)
    return layers, inputs, jnp.asarray(rng.integers(0, widths[-1], batch), jnp.int32)


@jax.jit
def mlp_gradient(
    layers: list[line_graph.Layer], inputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Any]:
    """Loss and its gradient by weights and inputs, in the kernel's precision."""

    def loss(layers: list[line_graph.Layer], z: jax.Array) -> jax.Array:
        for layer in layers[:-1]:
            z = jax.nn.relu(line_graph.matmul(z, layer.kernel) + layer.bias)
        logits = line_graph.matmul(z, layers[-1].kernel) + layers[-1].bias
        return cross_entropy(logits, labels)

    return jax.value_and_grad(loss, argnums=(0, 1))(layers, inputs)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch, in nats."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))


@partial(jax.jit, static_argnames="strengths")
def mlp_measure(
    layers: list[line_graph.Layer],
    inputs: jax.Array,
    labels: jax.Array,
    strengths: tuple[Strength, ...],
) -> Any:
    """beta_eff by the probe kernel."""
    state = line_graph.update(line_graph.init(layers, strengths), layers, inputs, labels)
    return beta_eff.from_state(state)


def probe_section() -> dict[str, Any]:
    """The probe against its gradient and against PyTorch."""
    case = mlp_case(PROBE, _SAMPLES.value)
    calls: dict[str, Callable] = {"gradient": partial(mlp_gradient, *case)}
    for strength in STRENGTHS:
        calls[strength] = partial(mlp_measure, *case, (strength,))
    calls["signed+absolute+squared"] = partial(mlp_measure, *case, ALL)
    # The inputs times the first kernel: every way to beta_eff needs this product.
    calls["first_product"] = partial(jax.jit(line_graph.matmul), case[1], case[0][0].kernel)
    calls |= rivals.pytorch_calls(*case)
    times = timing.take_turns(calls, _REPEATS.value)
    edges = sum(m * n for m, n in itertools.pairwise(PROBE))
    return {
        "widths": PROBE,
        "samples": _SAMPLES.value,
        "edges": edges,
        "times": times,
        "per_gradient": timing.relative(times, "gradient"),
        "work": _work(times["signed"]["wall_ms"]),
    }


def _work(milliseconds: float) -> dict[str, float]:
    """Counted operations and bytes of the signed kernel, and the rates reached."""
    pairs = [m * n for m, n in itertools.pairwise(PROBE)]
    inner = pairs[1:-2]  # layers 2..L-2: two matrices each
    products = sum(pairs) + sum(pairs[2:]) + 2 * sum(inner)  # forward, backward to layer 2
    operations = 2.0 * _SAMPLES.value * products
    # Inputs and weights once, each activation written and read back once, matrices once.
    activations = _SAMPLES.value * (PROBE[0] + 4 * sum(PROBE[1:]))
    numbers = activations + sum(pairs) + 2 * sum(inner)
    return {
        "gflop": operations / 1e9,
        "mb": 4 * numbers / 1e6,
        "gflop_per_s": operations / milliseconds / 1e6,
        "gb_per_s": 4 * numbers / milliseconds / 1e6,
    }


def explicit_section() -> dict[str, Any]:
    """Explicit sparse and dense P against the kernel."""
    sizes = (32, 128, 512, SAMPLES)
    routes = {"sparse": rivals.sparse_beta_eff, "coordinate": rivals.coordinate_beta_eff}
    results = {
        name: [_explicit(PROBE, batch, route) for batch in sizes] for name, route in routes.items()
    }
    return results | {"dense": [_explicit((32, 32, 32, 32, 10), 256, rivals.dense_beta_eff)]}


def _explicit(widths: Sequence[int], batch: int, rival: Callable) -> dict[str, Any]:
    case = mlp_case(widths, batch)
    ours = timing.take_turns({"ours": partial(mlp_measure, *case, ("signed",))}, _REPEATS.value)
    theirs = timing.take_turns({"explicit": partial(rival, *case)}, 1)
    times = ours | theirs
    value, entries = rival(*case)
    found = float(mlp_measure(*case, ("signed",))["signed"])
    return {
        "widths": widths,
        "samples": batch,
        "edges": sum(m * n for m, n in itertools.pairwise(widths)),
        "entries": entries,
        "times": times,
        "times_faster": timing.relative(times, "ours")["explicit"],
        "relative_difference": abs(found / value - 1),
    }


def network_calls(name: str, batch: int) -> dict[str, Any]:
    """Compiled gradient and measurements of one of the zoo's networks, for a batch of images."""
    from ncap_jax.measure.network import split_model

    width = MODELS[name].feature_width
    assert width is not None, "models of the zoo state it"
    function, params, constants = split_model(rivals.classifier(name, width))
    shape = (batch, _SIDE.value, _SIDE.value, 3)
    arguments = (
        params,
        constants,
        jax.random.normal(jax.random.key(0), shape),
        jnp.arange(batch) % 10,
    )

    @jax.jit
    def gradient(params: Any, constants: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any, inputs: jax.Array) -> jax.Array:
            return cross_entropy(function(params, constants, inputs), labels)

        return jax.value_and_grad(loss, argnums=(0, 1))(params, inputs)

    jitted = {"gradient": gradient}
    chosen: list[tuple[Strength, ...]] = [("signed",), ("absolute",), ALL]
    for strengths in chosen:
        measure = partial(network.measure, function, strengths=strengths)
        jitted["+".join(strengths)] = jax.jit(measure)
    return {key: partial(_compiled, call, arguments) for key, call in jitted.items()}


def _compiled(function: Callable, arguments: tuple) -> tuple[Any, Callable]:
    compiled = function.lower(*arguments).compile()  # type: ignore[attr-defined]
    return compiled, partial(compiled, *arguments)


def compiled_together(builds: beta_eff_batches.Builds) -> dict[str, Any]:
    """Programs and calls, each compiled in a thread of its own: XLA releases Python's lock."""
    with concurrent.futures.ThreadPoolExecutor(len(builds)) as pool:
        under_way = {key: pool.submit(build) for key, build in builds.items()}
    return {key: future.result() for key, future in under_way.items()}


def network_section() -> dict[str, Any]:
    """Whole networks against their gradient: time, and memory as XLA assigns it."""
    results = {}
    for name in _NETWORKS.value:
        made = compiled_together(network_calls(name, _BATCH.value))
        times = timing.take_turns({k: call for k, (_, call) in made.items()}, _REPEATS.value)
        results[name] = {
            "shape": (_BATCH.value, _SIDE.value, _SIDE.value, 3),
            "times": times,
            "per_gradient": timing.relative(times, "gradient"),
            "assigned": {k: timing.compiled_memory(program) for k, (program, _) in made.items()},
            "work": {k: timing.compiled_work(program) for k, (program, _) in made.items()},
        }
    return results


def memory_section() -> dict[str, Any]:
    """Peak memory of one call in a process of its own."""
    results = {}
    for name in _NETWORKS.value:
        size = [f"--side={_SIDE.value}", f"--batch={_BATCH.value}"]
        peaks = {
            key: timing.in_subprocess("benchmarks.beta_eff", [f"--peak_of={name}:{key}", *size])
            for key in network_calls(name, _BATCH.value)
        }
        results[name] = {
            "shape": (_BATCH.value, _SIDE.value, _SIDE.value, 3),
            "peak_mb": peaks,
            "per_gradient": {key: value / peaks["gradient"] for key, value in peaks.items()},
        }
    return results


def scaling_section() -> list[dict[str, Any]]:
    """One dimension at a time around 256-128-128-128-10 with 512 samples."""
    cases: list[tuple[str, tuple[int, ...], int]]
    cases = [("edges", (2 * w, w, w, w, 10), 512) for w in (32, 64, 128, 256, 512)]
    cases += [("batch", (256, 128, 128, 128, 10), batch) for batch in (64, 256, 1024, 4096)]
    cases += [("depth", (256, *[128] * depth, 10), 512) for depth in (3, 6, 12, 24)]
    rows = []
    for axis, widths, batch in cases:
        case = mlp_case(widths, batch)
        calls: dict[str, Callable] = {
            "gradient": partial(mlp_gradient, *case),
            "signed": partial(mlp_measure, *case, ("signed",)),
            "signed+absolute+squared": partial(mlp_measure, *case, ALL),
            **rivals.pytorch_calls(case[0], case[1], case[2], ("pytorch",)),
        }
        times = timing.take_turns(calls, _REPEATS.value)
        edges = sum(m * n for m, n in itertools.pairwise(widths))
        entries = sum(a * b * c for a, b, c in zip(widths, widths[1:], widths[2:]))
        if entries < 2e7:
            times |= timing.take_turns({"sparse": partial(rivals.sparse_beta_eff, *case)}, 1)
        row = {"edges": edges, "batch": batch, "depth": len(widths) - 1}
        rows.append({"axis": axis, **row, "entries": entries, "times": times})
    return rows


def probes_section() -> dict[str, Any]:
    """Many probes at once against one after the other; and the gradients of all at once."""
    cases = [mlp_case(PROBE, _SAMPLES.value, seed) for seed in range(_PROBES.value)]
    layers, (_, inputs, labels) = [case[0] for case in cases], cases[0]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)

    @jax.jit
    def measure_all(layers: Any) -> Any:
        return jax.vmap(lambda one: mlp_measure(one, inputs, labels, ("signed",)))(layers)

    @jax.jit
    def gradient_of_all(layers: Any) -> Any:
        return jax.vmap(lambda one: mlp_gradient(one, inputs, labels))(layers)

    calls: dict[str, Callable] = {
        "gradient": partial(gradient_of_all, together),
        "vmapped": partial(measure_all, together),
        "one by one": lambda: [mlp_measure(one, inputs, labels, ("signed",)) for one in layers],
    }
    times = timing.take_turns(calls, _REPEATS.value)
    shape = {"probes": _PROBES.value, "widths": PROBE, "samples": _SAMPLES.value}
    return {**shape, "times": times, "per_gradient": timing.relative(times, "gradient")}


def batches_section() -> dict[str, Any]:
    """How large a batch each network's gradient and measurement can take."""
    return {
        name: beta_eff_batches.largest_batches(
            partial(network_calls, name),
            ("gradient", "signed"),
            _BATCH.value,
            _MOST.value,
            _REPEATS.value,
        )
        for name in _NETWORKS.value
    }


def main(argv: Sequence[str]) -> None:
    """Run the sections and write the result."""
    del argv
    if _COMPILE_ONLY.value:
        for name in _NETWORKS.value:
            compiled_together(network_calls(name, _BATCH.value))
        return
    if _PEAK_OF.value:
        name, key = _PEAK_OF.value.split(":")
        _, call = network_calls(name, _BATCH.value)[key]()
        print(json.dumps(timing.peak_growth(call)))
        return
    sections: dict[str, Callable[[], Any]] = {
        "probe": probe_section,
        "explicit": explicit_section,
        "network": network_section,
        "memory": memory_section,
        "scaling": scaling_section,
        "probes": probes_section,
        "batches": batches_section,
    }
    path = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    result: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    result["environment"] = facts.describe() | rivals.versions()
    for name in _SECTIONS.value:
        found = sections[name]()
        print(json.dumps({name: found}, indent=1, default=float), flush=True)
        if name in ("network", "memory", "batches"):  # those of other networks stay
            found = {**result.get(name, {}), **found}
        result[name] = found
        if path:
            files.write_atomically(path, json.dumps(result, indent=1, default=float) + "\n")
    if _FIGURE.value:
        rivals.draw(result["scaling"], pathlib.Path(_FIGURE.value))


if __name__ == "__main__":
    app.run(main)
