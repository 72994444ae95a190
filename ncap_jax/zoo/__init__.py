"""The models: `MODELS` by name, `find_model`, `find_models` and `load_model`.

Nothing is imported before it is used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module that holds it
_HOMES = {
    "MODELS": "ncap_jax.zoo.registry",
    "find_model": "ncap_jax.zoo.registry",
    "find_models": "ncap_jax.zoo.registry",
    "load_model": "ncap_jax.zoo.loading",
}

__all__ = ["MODELS", "find_model", "find_models", "load_model"]

if TYPE_CHECKING:
    from ncap_jax.zoo.loading import load_model
    from ncap_jax.zoo.registry import MODELS, find_model, find_models


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
