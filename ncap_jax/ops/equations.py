"""Evaluating a jaxpr equation by equation, calls looked into."""

from __future__ import annotations

from typing import Any

import jax.extend.core as jex

# Calls whose body can stand in their place, derivatives aside.
INLINE = frozenset(
    (
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
    )
)


def inner_jaxpr(eqn: jex.JaxprEqn) -> jex.ClosedJaxpr:
    """The body of a call."""
    body = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)
    return body if isinstance(body, jex.ClosedJaxpr) else jex.ClosedJaxpr(body, ())


def bind(eqn: jex.JaxprEqn, *primals: Any) -> list[Any]:
    """Evaluate one equation."""
    parts = eqn.primitive.get_bind_params(eqn.params)
    subfuns, params = parts if isinstance(parts, tuple) else ((), parts)  # before JAX 0.10
    out = eqn.primitive.bind(*subfuns, *primals, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
