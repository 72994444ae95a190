"""Which parameters of a backbone stay as they are, counted from the input on."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from ncap_jax.finetune.steps import Network
from ncap_jax.ops.equations import INLINE, inner_jaxpr
from ncap_jax.zoo import functional

QUARTERS = 4


def held_leaves(
    network: Network, params: Any, state: Any, shape: tuple[int, ...], quarters: int
) -> tuple[bool, ...]:
    """Of each leaf of the backbone's parameters, whether it belongs to its first quarters.

    The leaves are counted in the order in which the network uses them, whatever their names are.

    Args:
        network: the model.
        params: parameters of the backbone.
        state: its batch statistics and the like.
        shape: (height, width, channels) of the images.
        quarters: 0 to 4.

    Returns:
        In the order of `jax.tree.leaves(params)`; empty if nothing is held.
    """
    if not quarters:
        return ()

    def features(arrays: Any, images: jax.Array) -> jax.Array:
        inputs = network.preprocess(images)
        return functional.apply(network.backbone, arrays, state, inputs, train=False)[0]

    images = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
    traced = jax.make_jaxpr(features)(params, images)
    count = len(jax.tree.leaves(params))
    used = first_uses(traced.jaxpr, count)
    first = sorted(range(count), key=lambda leaf: used.get(leaf, len(used) + count))
    held = set(first[: round(count * quarters / QUARTERS)])
    return tuple(leaf in held for leaf in range(count))


def first_uses(jaxpr: jex.Jaxpr, count: int) -> dict[int, int]:
    """Leaf -> number of the equation that uses it first, of the first `count` arguments.

    A copy, or an array in another form or type, is the leaf itself.
    """
    found: dict[int, int] = {}
    numbers = itertools.count()

    def walk(body: jex.Jaxpr, leaves: dict[Any, int]) -> None:
        for eqn in body.eqns:
            mine = [None if isinstance(v, jex.Literal) else leaves.get(v) for v in eqn.invars]
            if eqn.primitive.name in INLINE:
                inner = inner_jaxpr(eqn).jaxpr
                walk(inner, {v: m for v, m in zip(inner.invars, mine) if m is not None})
            elif len(mine) == 1 and mine[0] is not None:
                leaves[eqn.outvars[0]] = mine[0]
            else:
                number = next(numbers)
                for leaf in mine:
                    if leaf is not None:
                        found.setdefault(leaf, number)

    walk(jaxpr, {variable: leaf for leaf, variable in enumerate(jaxpr.invars[:count])})
    return found
