"""The cell space of NAS-Bench-201 as Flax NNX networks.

A cell has four nodes; node 0 is its input, node 3 its output, and node i is the sum over all
earlier nodes j of operation (j, i) applied to node j: six edges, five operations, 15,625 cells.
An architecture is written as the benchmark writes it, one group of edges per node:

    |op~0|+|op~0|op~1|+|op~0|op~1|op~2|

The network: 3x3 convolution to C channels with batch norm; three stages of N equal cells with C,
2C and 4C channels; between them a residual block of stride 2; batch norm, ReLU, global average.
Batch norm has PyTorch's epsilon and momentum.

Cells that are the same graph. `canonical` removes `none` and everything that only `none` feeds,
contracts `skip_connect`, and forgets the order of sums: cells of equal form compute the same
function up to the numbering of their weights. A cell whose output does not depend on its input is
dead (341 of 15,625). Here a node that nothing reaches carries nothing; the benchmark's code sends
the batch norms' biases on from there, and its form (6,466 different cells) keeps such nodes.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search", ICLR 2020 (arXiv 2001.00326).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax import errors
from ncap_jax.ops.pooling import average_pool
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, layers

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# (from, to), in the order of the architecture string.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NODES = 4
# One operation per edge, in the order of EDGES.
Cell = tuple[str, ...]


def parse(text: str) -> Cell:
    """The cell of an architecture string.

    Raises:
        ModelError: it is not of this space.
    """
    found = re.findall(r"([a-z0-9_]+)~(\d)", text)
    cell = tuple(operation for operation, _ in found)
    known = len(cell) == len(EDGES) and set(cell) <= set(OPERATIONS)
    if not known or to_string(cell) != text:
        raise errors.ModelError(
            f"{text!r} is not a cell of NAS-Bench-201",
            f"Write |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with the operations {OPERATIONS}",
        )
    return cell


def to_string(cell: Cell) -> str:
    """The architecture string of a cell."""
    groups = []
    for node in range(1, NODES):
        parts = (f"{op}~{j}" for op, (j, i) in zip(cell, EDGES, strict=True) if i == node)
        groups.append("|" + "|".join(parts) + "|")
    return "+".join(groups)


def from_index(index: int) -> Cell:
    """Cell number `index` of all 15,625: its digits to base 5 are the operations."""
    return tuple(OPERATIONS[index // 5**k % 5] for k in reversed(range(len(EDGES))))


def canonical(cell: Cell) -> tuple[str, ...]:
    """The terms that the output node sums up, sorted; empty for a dead cell."""
    terms: list[tuple[str, ...]] = [("x",)]
    for node in range(1, NODES):
        summed: list[str] = []
        for operation, (j, i) in zip(cell, EDGES, strict=True):
            if i != node or operation == "none" or not terms[j]:
                continue
            if operation == "skip_connect":
                summed.extend(terms[j])
            else:
                summed.append(f"{operation}({'+'.join(terms[j])})")
        terms.append(tuple(sorted(summed)))
    return terms[-1]


def sample(number: int, seed: int) -> tuple[list[Cell], int]:
    """Different living cells, uniformly among the strings.

    Args:
        number: how many.
        seed: of the order in which they are drawn.

    Returns:
        The cells, and how many were drawn and left out as dead or as the same as one before.
    """
    cells: dict[tuple[str, ...], Cell] = {}
    order = np.random.default_rng(seed).permutation(len(OPERATIONS) ** len(EDGES))
    for drawn, index in enumerate(order.tolist()):
        if len(cells) == number:
            return list(cells.values()), drawn - number
        cell = from_index(index)
        if form := canonical(cell):
            cells.setdefault(form, cell)
    raise errors.ConfigError(f"{number} different cells", f"There are {len(cells)}")


def skip(x: jax.Array) -> jax.Array:
    """The identity."""
    return x


def pool(x: jax.Array) -> jax.Array:
    """Mean over 3x3 windows that keep the size; padding does not count."""
    return average_pool(x, 3, 1, padding=1)


def norm(width: int, name: str, **options: Any) -> layers.BatchNorm:
    """Batch norm with PyTorch's defaults."""
    return layers.BatchNorm(width, name=name, epsilon=1e-5, momentum=0.9, **options)


class ReluConvNorm(nnx.Module):
    """ReLU -> convolution without bias -> batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, name: str, **options):
        self.conv = layers.Conv(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2,
            kernel_init=layers.he_uniform,
            name=f"{name}.conv",
            **options,
        )
        self.norm = norm(outputs, f"{name}.norm", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, inputs) -> (batch, height', width', outputs)."""
        return self.norm(self.conv(nnx.relu(x)))


class CellModule(nnx.Module):
    """One cell; every edge has its own weights, also where nothing passes it."""

    def __init__(self, cell: Cell, width: int, name: str, **options: Any):
        self.cell = cell
        plain: dict[str, Callable] = {"none": skip, "skip_connect": skip, "avg_pool_3x3": pool}
        kernels = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
        self.edges = nnx.List(
            plain[operation]
            if operation in plain
            else ReluConvNorm(width, width, kernels[operation], 1, f"{name}.{number}", **options)
            for number, operation in enumerate(cell)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels), the same shape out."""
        nodes: list[jax.Array | None] = [x]
        for node in range(1, NODES):
            total = None
            for operation, edge, (j, i) in zip(self.cell, self.edges, EDGES, strict=True):
                source = nodes[j] if i == node and operation != "none" else None
                if source is not None:
                    total = edge(source) if total is None else total + edge(source)
            nodes.append(total)
        return jnp.zeros_like(x) if nodes[-1] is None else nodes[-1]


class Reduction(nnx.Module):
    """The residual block between stages: half the side, twice the channels."""

    def __init__(self, width: int, name: str, **options: Any):
        self.first = ReluConvNorm(width, 2 * width, 3, 2, f"{name}.first", **options)
        self.second = ReluConvNorm(2 * width, 2 * width, 3, 1, f"{name}.second", **options)
        self.project = layers.Conv(width, 2 * width, 1, name=f"{name}.project", **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, c) -> (batch, height / 2, width / 2, 2 c)."""
        return self.project(average_pool(x, 2, 2)) + self.second(self.first(x))


class CellNetwork(layers.Backbone):
    """The network of a cell, below its classifier; features have width 4C."""

    def __init__(self, cell: Cell, channels: int, cells: int, *, rngs: nnx.Rngs, dtype=None):
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        self.stem = layers.Conv(3, channels, 3, padding=1, name="stem.conv", **options)
        self.stem_norm = norm(channels, "stem.norm", **options)
        blocks: list[nnx.Module] = []
        for stage in range(3):
            width = channels * 2**stage
            blocks += [
                CellModule(cell, width, f"stage{stage}.{number}", **options)
                for number in range(cells)
            ]
            if stage < 2:
                blocks.append(Reduction(width, f"reduction{stage}", **options))
        self.blocks = nnx.List(blocks)
        self.last_norm = norm(4 * channels, "last.norm", **options)

    def stages(self, x: jax.Array) -> dict[str, jax.Array]:
        """The stem, every cell and reduction, and the normalised end."""
        found = {"stem": self.stem_norm(self.stem(x))}
        y = found["stem"]
        for number, block in enumerate(self.blocks):
            y = found[f"block{number}"] = block(y)
        found["last"] = nnx.relu(self.last_norm(y))
        return found


def spec(cell: Cell, channels: int = 16, cells: int = 5, input_size: int = 32) -> ModelSpec:
    """A cell's network as a candidate; it has no pretrained weights.

    Args:
        cell: one operation per edge.
        channels: C, of the first stage.
        cells: N, per stage.
        input_size: side of the input in pixels.
    """
    build = functools.partial(CellNetwork, cell, channels, cells)
    return ModelSpec(
        # The operations' numbers: what may stand in a file name.
        name="cell_" + "".join(str(OPERATIONS.index(operation)) for operation in cell),
        build=build,
        input_size=input_size,
        feature_width=4 * channels,
        parameters=parameters(build),
        citation="Dong and Yang, 2020, arXiv 2001.00326",
        description=to_string(cell),
        family="nas201",
    )


def parameters(build: Callable[..., nnx.Module]) -> int:
    """Trainable scalars below the classifier."""
    shapes = functional.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))[1]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
