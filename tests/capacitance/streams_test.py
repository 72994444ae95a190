"""Streams and nodes: forward and backward are transposes, and statistics are recognised."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from ncap_jax.capacitance.line_graph import MAPS
from ncap_jax.capacitance.streams import Graph, Map, Node, Stream, is_statistic

pytestmark = pytest.mark.usefixtures("x64")

OUTPUT = jax.ShapeDtypeStruct((2, 3), jnp.float64)


def draw(*shape: int, seed: int = 0) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def weight_layer(graph: Graph, *inputs: Node) -> Node:
    """A weight layer behind at most one node."""
    use: Any = object()  # the graph only passes it on
    stream = Stream(inputs[0], jnp.float64) if inputs else None
    return graph.weight_layer(use, stream, OUTPUT)


def glue(graph: Graph, *inputs: Node, reduces: bool = False) -> Node:
    streams = tuple(Stream(node, jnp.float64) for node in inputs)
    return graph.glue(streams, lambda f: lambda *x: sum(x), OUTPUT, reduces=reduces)


@pytest.mark.parametrize("strength", MAPS)
def test_a_diagonal_is_mapped_by_the_strength(strength):
    f, diagonal, t = MAPS[strength], draw(2, 3), draw(2, 3, seed=1)
    stream = Stream(weight_layer(Graph()), jnp.float64, diagonal)
    expected = {"signed": diagonal, "absolute": abs(diagonal), "squared": diagonal**2}[strength]
    np.testing.assert_array_equal(stream.forward(f, t), expected * t)
    np.testing.assert_array_equal(stream.backward(f, t), expected * t)


def test_without_a_diagonal_a_stream_is_the_node():
    stream, t = Stream(weight_layer(Graph()), jnp.float64), draw(2, 3)
    np.testing.assert_array_equal(stream.forward(jnp.square, t), t)
    np.testing.assert_array_equal(stream.backward(jnp.square, t), t)


def test_streams_take_the_dtype_of_their_destination():
    """Forward that of the value, backward that of the node."""
    node = weight_layer(Graph())
    for diagonal in (None, draw(2, 3)):
        stream = Stream(node, jnp.bfloat16, diagonal)
        assert stream.forward(jnp.abs, draw(2, 3)).dtype == jnp.bfloat16
        assert stream.backward(jnp.abs, draw(2, 3).astype(jnp.bfloat16)).dtype == jnp.float64


@pytest.mark.parametrize("strength", MAPS)
def test_pull_is_the_transpose_of_push(strength):
    """<push(t), c> = <t, pull(c)>, with a held array that the strength maps."""
    f, held = MAPS[strength], draw(3, 4)

    def linear(f: Map) -> Any:
        return lambda one, other: one @ f(held) + 2 * other[:, :1]

    graph = Graph()
    inputs = tuple(Stream(weight_layer(graph), jnp.float64) for _ in range(2))
    node = graph.glue(inputs, linear, jax.ShapeDtypeStruct((2, 4), jnp.float64))
    t, cotangent = [draw(2, 3, seed=1), draw(2, 3, seed=2)], draw(2, 4, seed=3)
    pushed, pulled = node.push(f, t), node.pull(f, cotangent)
    np.testing.assert_allclose(pushed, t[0] @ f(held) + 2 * t[1][:, :1], rtol=1e-12)
    backward = sum(jnp.vdot(x, y) for x, y in zip(t, pulled, strict=True))
    np.testing.assert_allclose(jnp.vdot(pushed, cotangent), backward, rtol=1e-12)


def test_depth_counts_weight_layers_on_the_longest_path():
    graph = Graph()
    first = weight_layer(graph)
    second = weight_layer(graph, glue(graph, first))
    short, long = weight_layer(graph), glue(graph, second)
    third = weight_layer(graph, glue(graph, short, long))
    assert [node.depth for node in (first, second, short, third)] == [1, 2, 1, 3]
    assert len(graph.nodes) == 7
    assert graph.nodes[-1] is third


def test_glue_knows_what_it_comes_from_back_to_the_weight_layers():
    graph = Graph()
    first = weight_layer(graph)  # 0
    one = glue(graph, first)  # 1
    total = glue(graph, one, reduces=True)  # 2
    second = weight_layer(graph, total)  # 3
    both = glue(graph, total, second)  # 4
    assert one.behind == {0, 1}
    assert total.behind == {0, 1, 2}
    assert total.reduced == {0, 1}
    assert second.behind == {3}
    assert not second.reduced
    assert both.behind == {0, 1, 2, 3, 4}
    assert both.reduced == {0, 1}


def test_a_sum_that_meets_its_own_source_is_a_statistic():
    graph = Graph()
    x = weight_layer(graph)
    mean = glue(graph, x, reduces=True)
    spread = glue(graph, mean)
    for statistic in (mean, spread):
        assert is_statistic(statistic, x)
        assert not is_statistic(x, statistic)


def test_other_sums_are_not_statistics():
    graph = Graph()
    x, other = weight_layer(graph), weight_layer(graph)
    mean = glue(graph, x, reduces=True)
    assert not is_statistic(mean, other)
    behind_a_layer = weight_layer(graph, mean)  # squeeze and excite: the gate is not a statistic
    assert not is_statistic(behind_a_layer, x)
    reduced_too = glue(graph, mean, reduces=True)
    assert not is_statistic(mean, reduced_too)
    assert not is_statistic(glue(graph, x), x)  # nothing was reduced
