"""Whole networks against a brute-force dense P, in batches, and what is refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from ncap_jax.capacitance import beta_eff, line_graph, network
from ncap_jax.capacitance.beta_eff import BetaEff
from ncap_jax.capacitance.reference import beta_eff as dense_beta_eff
from ncap_jax.errors import KernelError
from tests.support import architectures, brute_force
from tests.support.nets import Case, network_values, perceptron, perceptron_case

# docs/numerics.md: float64 against float64, Jacobians of a whole network.
EXACT = 1e-10


@partial(jax.jit, static_argnames="apply")
def every_edge(
    apply: network.Apply, weights: dict[str, Array], inputs: Array, labels: Array
) -> tuple[line_graph.State, dict[str, BetaEff]]:
    """The degrees of all edges, and the values that they give."""
    state = network.measure(apply, weights, None, inputs, labels, every_edge=True)
    return state, beta_eff.from_state(state)


@pytest.mark.parametrize("name", architectures.NETS)
def test_against_brute_force(x64, name):
    net, lins, weights, inputs, labels = architectures.example(name)
    dense_p = brute_force.dense_adjacency(net, lins, weights, inputs, labels)
    apply = brute_force.apply(net, lins)
    every, results = every_edge(apply, weights, inputs, labels)
    needed = network.init(apply, weights, None, inputs)
    assert set(results) == set(every.sums) == set(dense_p) == set(network.STRENGTHS)
    for strength, p in dense_p.items():
        sums, scale, start = every.sums[strength], np.abs(p).sum(), 0
        assert scale > 0
        both, related = set(), set()
        for key in lins:
            edges = slice(start, start + weights[key].size)
            start = edges.stop
            dense_degrees = p.sum(1)[edges], p.sum(0)[edges]
            for found, expected in zip((sums.delta_in, sums.delta_out), dense_degrees):
                mean = np.asarray(found[key]).ravel() / len(labels)
                np.testing.assert_allclose(mean, expected, rtol=0, atol=EXACT * scale)
            if all(np.abs(degree).max() > EXACT * scale for degree in dense_degrees):
                both.add(key)
            if np.any(p[edges]) and np.any(p[:, edges]):
                related.add(key)
        # Without `every_edge`, those are formed of which neither degree is 0; by chance, as in
        # signed attention, a degree may be 0 although there are entries in P.
        assert both <= set(needed.sums[strength].delta_in) <= related
        assert both <= set(needed.sums[strength].delta_out) <= related
        np.testing.assert_allclose(sums.total / len(labels), p.sum(), rtol=0, atol=EXACT * scale)
        result = results[strength]
        assert result.status == "ok"
        tolerance = EXACT * float(result.condition)
        np.testing.assert_allclose(result.value, dense_beta_eff(p), rtol=tolerance)


@jax.jit
def by_the_probe_kernel(case: Case) -> dict[str, BetaEff]:
    kernels, biases = zip(*case.params)
    return {
        s: beta_eff.mlp_beta_eff(kernels, biases, case.inputs, case.labels, s)
        for s in network.STRENGTHS
    }


def test_an_mlp_is_measured_as_by_the_probe_kernel(x64):
    case = perceptron_case()
    found, expected = network_values(perceptron, *case), by_the_probe_kernel(case)
    assert set(found) == set(network.STRENGTHS)
    for strength, result in found.items():
        assert result.status == expected[strength].status == "ok"
        np.testing.assert_allclose(result.value, expected[strength].value, rtol=1e-11)


def names_of(state: line_graph.State, strength: str) -> tuple[list[str], list[str]]:
    sums = state.sums[strength]
    return sorted(sums.delta_in), sorted(sums.delta_out)


def test_only_the_degrees_that_count_are_formed():
    """Where both can differ from 0: signed, those of the last hidden layer's kernel cannot."""
    params, offset, inputs, _ = perceptron_case(dtype=np.float32)
    state = network.init(perceptron, params, offset, inputs)
    assert names_of(state, "signed") == (["1/0"], ["1/0"])
    assert names_of(state, "absolute") == (["1/0", "2/0"], ["1/0", "2/0"])
    assert names_of(state, "squared") == (["1/0", "2/0"], ["1/0", "2/0"])
    every = network.init(perceptron, params, offset, inputs, ("signed",), every_edge=True)
    assert list(every.sums) == ["signed"]
    kernels = ["0/0", "1/0", "2/0", "3/0"]
    assert names_of(every, "signed") == (kernels, kernels)


def test_an_empty_accumulator_is_one_of_no_samples():
    case = perceptron_case(dtype=np.float32)
    shapes = jax.eval_shape(partial(network.measure, perceptron), *case)
    state = network.init(perceptron, *case[:3])
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)
        assert not np.any(leaf)


SAMPLES, ROWS = 9, 4


def streamed(case: Case, cuts: list[int]) -> line_graph.State:
    """The accumulator after batches that end at `cuts` and are padded to `ROWS`."""
    params, offset, inputs, labels = case
    state = network.init(perceptron, params, offset, inputs[:ROWS])
    for start, stop in itertools.pairwise(cuts):
        mask = np.arange(ROWS) < stop - start
        rows = np.minimum(start + np.arange(ROWS), SAMPLES - 1)
        # NaN proves that padding is not read.
        x = jnp.asarray(np.where(mask[:, None], np.asarray(inputs)[rows], np.nan))
        before = state
        state = network.update(
            state, perceptron, params, offset, x, labels[rows], jnp.asarray(mask)
        )
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))  # donated
    return state


@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, SAMPLES - 1)))
def test_any_batching_gives_the_same(cuts):
    cuts = sorted({0, SAMPLES, *cuts, *range(0, SAMPLES, ROWS)})
    with jax.enable_x64(True):
        case = perceptron_case()
        whole = network_values(perceptron, *case)
        state = streamed(case, cuts)
        assert int(state.samples) == SAMPLES
        for strength, result in beta_eff.from_state(state).items():
            assert result.status == whole[strength].status
            np.testing.assert_allclose(result.value, whole[strength].value, rtol=1e-12)


def test_vmap_over_models_is_a_loop(x64):
    cases = [perceptron_case(seed)[0] for seed in range(3)]
    _, offset, inputs, labels = perceptron_case()

    def one(params: Any) -> dict[str, BetaEff]:
        return network_values(perceptron, params, offset, inputs, labels)

    batched = jax.jit(jax.vmap(one))(jax.tree.map(lambda *x: jnp.stack(x), *cases))
    for index, params in enumerate(cases):
        for strength, looped in one(params).items():
            np.testing.assert_allclose(batched[strength].value[index], looped.value, rtol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_float32_against_float64(seed):
    """The tolerance of docs/numerics.md, times the condition number."""
    single = network_values(perceptron, *perceptron_case(seed, dtype=np.float32))
    with jax.enable_x64(True):
        double = network_values(perceptron, *perceptron_case(seed))
    for strength, expected in double.items():
        assert single[strength].value.dtype == jnp.float32
        assert expected.value.dtype == jnp.float64
        error = abs(float(single[strength].value) / float(expected.value) - 1)
        assert error < 1e-5 * max(float(expected.condition), 1)


def test_a_bfloat16_model_is_measured_in_its_own_states():
    """Sums are float32; the states carry bfloat16's eight bits."""
    case = perceptron_case(3, dtype=np.float32)

    def narrow(params: Any, constants: Any, x: Array) -> Array:
        x = x.astype(jnp.bfloat16)
        for kernel, bias in params:
            x = x @ kernel.astype(jnp.bfloat16) + bias.astype(jnp.bfloat16)[None, :]
            x = jax.nn.relu(x) if kernel is not params[-1][0] else x
        return x.astype(jnp.float32)

    one, other = network_values(narrow, *case), network_values(perceptron, *case)
    for strength in ("absolute", "squared"):
        assert one[strength].value.dtype == jnp.float32
        np.testing.assert_allclose(one[strength].value, other[strength].value, rtol=0.05)


def test_nothing_widens_to_float64(x64):
    """float32 arguments stay float32 where float64 is enabled."""
    arguments = perceptron_case(dtype=np.float32)
    program = str(jax.make_jaxpr(partial(network.measure, perceptron))(*arguments))
    assert "f32[" in program
    assert not re.search(r"f64\[\d", program)  # Python's own scalars are cast and folded


SHALLOW = "with fewer, softmax and cross-entropy make the signed value 0"
# what is wrong -> (model, cause, remedy)
REFUSED: dict[str, tuple[network.Apply, str, str]] = {
    "three layers": (
        lambda p, _, x: x @ p[0][0] @ p[1][0] @ p[2][0],
        "the longest path has 3 weight layers and ends in 2/0, but beta_eff needs at least 4 in a "
        f"row: {SHALLOW}",
        "Use a deeper network, or a probe on its features",
    ),
    "no layer": (
        lambda p, _, x: x * p[0][1][None, :4],
        "the model has no weight layer: no parameter enters a dot product or a convolution with "
        "the data",
        "Pass the model's weights as its parameters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_are_too_shallow_are_refused(name):
    apply, cause, remedy = REFUSED[name]
    params, _, inputs, labels = perceptron_case(dtype=np.float32)
    with pytest.raises(KernelError) as error:
        network.measure(apply, params, None, inputs, labels)
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


BAD: dict[str, tuple[Callable[[Case], Case], str, str]] = {
    "NaN weights": (
        lambda c: c._replace(params=[(c.params[0][0] * np.nan, c.params[0][1]), *c.params[1:]]),
        "NaN or infinite values in 0/0: 20 of 20",
        "Lower the learning rate if the model diverged; otherwise reload its weights",
    ),
    "empty batch": (
        lambda c: c._replace(inputs=c.inputs[:0], labels=c.labels[:0]),
        "the batch of inputs is empty",
        "Give at least one sample",
    ),
    "integer inputs": (
        lambda c: c._replace(inputs=c.inputs.astype(jnp.int32)),
        "the dtype of inputs is int32, not floating point",
        "Preprocess first, for example with images.astype('float32') / 255",
    ),
    "labels out of range": (
        lambda c: c._replace(labels=jnp.arange(9)),
        "labels range from 0 to 8, but the network has 3 outputs",
        "Renumber the classes from 0 to 2",
    ),
    "labels missing": (
        lambda c: c._replace(labels=c.labels[1:]),
        "there are 8 labels for 9 samples",
        "Give one label per sample",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    change, cause, remedy = BAD[name]
    case = perceptron_case(dtype=np.float32)
    network.check(perceptron, *case)
    with pytest.raises(KernelError) as error:
        network.check(perceptron, *change(case))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_models_that_return_more_than_logits_are_refused():
    case = perceptron_case(dtype=np.float32)
    with pytest.raises(KernelError) as error:
        network.check(lambda p, c, x: (x, x), *case)
    assert error.value.remedy == "Return only the logits, of shape (batch, classes)"


def test_every_edge_is_for_keywords_only():
    case = perceptron_case(dtype=np.float32)
    with pytest.raises(TypeError, match="positional"):
        network.measure(perceptron, *case, None, ("signed",), True)
