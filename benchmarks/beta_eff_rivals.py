"""The other ways to beta_eff that `benchmarks.beta_eff` measures, and its models and figure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy import sparse

from ncap_jax.capacitance import reference
from ncap_jax.capacitance.line_graph import Layer


def versions() -> dict[str, str | None]:
    """The optional rival's version."""
    found = importlib.util.find_spec("torch") is not None
    return {"torch": importlib.metadata.version("torch") if found else None}


def _blocks(
    layers: Sequence[Layer], inputs: Any, labels: Any
) -> tuple[list[np.ndarray], list[int], list[tuple[int, ...]]]:
    """Entries of P by equation (1) in float32, one array (j, i, k) for each pair of layers.

    For each unit i one product of (n_in, batch) and (batch, n_out). Also where each layer's edges
    begin, and the layers' shapes.
    """
    kernels, biases = [np.asarray(x.kernel) for x in layers], [np.asarray(x.bias) for x in layers]
    z, s, g = reference.mlp_states(kernels, biases, np.asarray(inputs), np.asarray(labels))
    z, s, g = ([np.asarray(v, np.float32) for v in part] for part in (z, s, g))
    blocks = []
    for low in range(len(kernels) - 1):
        width, after = kernels[low + 1].shape
        block = np.empty((kernels[low].shape[0], width, after), np.float32)
        for i in range(width):
            block[:, i, :] = (z[low] * -s[low][:, i : i + 1]).T @ g[low + 1]
        blocks.append(block / np.float32(len(z[0])))
    shapes = [k.shape for k in kernels]
    return blocks, [0, *np.cumsum([k.size for k in kernels]).tolist()], shapes


def _quotient(matrix: sparse.csr_array) -> tuple[float, int]:
    """Equation (2) by two products with P, and the number of its entries."""
    delta_in = matrix @ np.ones(matrix.shape[0], np.float32)
    numerator = np.sum(matrix @ delta_in, dtype=np.float64)
    return float(numerator / np.sum(delta_in, dtype=np.float64)), matrix.nnz


def sparse_beta_eff(layers: Sequence[Layer], inputs: Any, labels: Any) -> tuple[float, int]:
    """beta_eff by an explicit CSR matrix P in float32, and the number of its entries.

    Rows are written in order and indices are int32, so that nothing is sorted or converted: no
    assembly is cheaper.
    """
    blocks, starts, shapes = _blocks(layers, inputs, labels)
    columns, counts = [], []
    for low, block in enumerate(blocks):
        row = np.arange(starts[low + 1], starts[low + 2], dtype=np.int32)
        columns.append(np.tile(row, block.shape[0]))
        counts.append(np.full(block[..., 0].size, block.shape[2], np.int32))
    counts.append(np.zeros(np.prod(shapes[-1]), np.int32))
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    values = np.concatenate([block.ravel() for block in blocks])
    size = (starts[-1], starts[-1])
    return _quotient(sparse.csr_array((values, np.concatenate(columns), pointers), shape=size))


def coordinate_beta_eff(layers: Sequence[Layer], inputs: Any, labels: Any) -> tuple[float, int]:
    """The same in the usual way: triplets (row, column, value), then CSR."""
    blocks, starts, _ = _blocks(layers, inputs, labels)
    rows, columns = [], []
    for low, block in enumerate(blocks):
        j, i, k = np.indices(block.shape, np.int32).reshape(3, -1)
        rows.append(starts[low] + j * block.shape[1] + i)
        columns.append(starts[low + 1] + i * block.shape[2] + k)
    values = np.concatenate([block.ravel() for block in blocks])
    place = np.concatenate(rows), np.concatenate(columns)
    size = (starts[-1], starts[-1])
    return _quotient(sparse.coo_array((values, place), shape=size).tocsr())


def dense_beta_eff(layers: Sequence[Layer], inputs: Any, labels: Any) -> tuple[float, int]:
    """beta_eff by the dense P of the oracle, and the number of its entries."""
    kernels, biases = [np.asarray(x.kernel) for x in layers], [np.asarray(x.bias) for x in layers]
    matrix = reference.dense_adjacency(kernels, biases, np.asarray(inputs), np.asarray(labels))
    return reference.beta_eff(matrix), matrix.size


def pytorch_calls(
    layers: Sequence[Layer],
    inputs: Any,
    labels: Any,
    forms: Sequence[str] = ("pytorch", "pytorch_pruned", "pytorch_total"),
) -> dict[str, Callable[[], Any]]:
    """The same quotient in PyTorch on the same kind of device; nothing without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    tensor = partial(torch.tensor, device=device)
    kernels = [tensor(np.asarray(layer.kernel)) for layer in layers]
    biases = [tensor(np.asarray(layer.bias)) for layer in layers]
    case = kernels, biases, tensor(np.asarray(inputs)), tensor(np.asarray(labels)).long()
    functions = {
        "pytorch": partial(_pytorch_states, *case, pruned=False),
        "pytorch_pruned": partial(_pytorch_states, *case, pruned=True),
        "pytorch_total": partial(_pytorch_total, *case),
    }
    return {form: partial(_synchronised, functions[form], device) for form in forms}


def _synchronised(function: Callable, device: str) -> float:
    import torch

    value = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return float(value)


def _pytorch_states(
    kernels: Sequence[Any], biases: Sequence[Any], inputs: Any, labels: Any, *, pruned: bool
) -> Any:
    """Equation (3), states by autograd; `pruned`: no matrix that the quotient does not need."""
    import torch

    z, a = [inputs], []
    for number, (kernel, bias) in enumerate(zip(kernels, biases)):
        pre = z[-1] @ kernel + bias
        a.append(pre.requires_grad_(True) if number == 0 else pre)
        z.append(torch.relu(pre))
    loss = torch.nn.functional.cross_entropy(a[-1], labels, reduction="sum")
    g = torch.autograd.grad(loss, a)
    with torch.no_grad():
        batch, depth = len(inputs), len(kernels)
        s = [(pre > 0).to(pre.dtype) for pre in a]
        delta_in, delta_out, total = {}, {}, 0.0
        for low in range(depth - 1):
            g_sum = g[low + 1].sum(1, keepdim=True)
            if pruned and low in (0, depth - 2):
                total = total - (z[low].sum(1) * s[low].sum(1) * g_sum[:, 0]).sum() / batch
                continue
            delta_in[low] = -(z[low].T @ (s[low] * g_sum)) / batch
            total = total + delta_in[low].sum()
        for high in range(1, depth):
            if pruned and high not in delta_in:
                continue
            z_sum = z[high - 1].sum(1, keepdim=True)
            delta_out[high] = -((s[high - 1] * z_sum).T @ g[high]) / batch
        both = [(delta_in[n] * delta_out[n]).sum() for n in delta_in if n in delta_out]
        return sum(both) / total


def _pytorch_total(kernels: Sequence[Any], biases: Sequence[Any], inputs: Any, labels: Any) -> Any:
    """The `total` form: double backward, one product with ones per layer."""
    import torch

    weights = [kernel.clone().requires_grad_(True) for kernel in kernels]
    z = inputs
    for weight, bias in zip(weights[:-1], biases[:-1]):
        z = torch.relu(z @ weight + bias)
    logits = z @ weights[-1] + biases[-1]
    loss = torch.nn.functional.cross_entropy(logits, labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    depth = len(weights)
    delta_in: dict[int, Any] = {}
    delta_out: dict[int, Any] = {}
    for m in range(depth):  # d (1' dC/dW^m) / dW: -delta_in below, -delta_out above
        near = [n for n in (m - 1, m + 1) if 0 <= n < depth]
        parts = torch.autograd.grad(
            gradients[m].sum(), [weights[n] for n in near], retain_graph=True
        )
        for n, part in zip(near, parts):
            (delta_in if n < m else delta_out)[n] = -part
    both = [(delta_in[n] * delta_out[n]).sum() for n in delta_in if n in delta_out]
    return sum(both) / sum(d.sum() for d in delta_in.values())


def classifier(name: str, width: int) -> Any:
    """One of the zoo's networks with random weights and a linear head for ten classes."""
    from flax import nnx

    from ncap_jax.zoo import MODELS

    class Classifier(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.backbone = MODELS[name].build(rngs=rngs)
            self.head = nnx.Linear(width, 10, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.backbone.features(x))

    return Classifier(nnx.Rngs(0))


def draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """CPU milliseconds against edges, batch and depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, axis in zip(figure.subplots(1, 3, sharey=True), ("edges", "batch", "depth")):
        chosen = [row for row in rows if row["axis"] == axis]
        for name in sorted({name for row in chosen for name in row["times"]}):
            points = [(r[axis], r["times"][name]["cpu_ms"]) for r in chosen if name in r["times"]]
            axes.loglog(*zip(*points), marker="o", label=name)
        axes.set_xlabel({"edges": "edges", "batch": "samples", "depth": "weight layers"}[axis])
        axes.grid(alpha=0.3)
        if axis == "edges":
            axes.set_ylabel("CPU time of all threads [ms]")
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
