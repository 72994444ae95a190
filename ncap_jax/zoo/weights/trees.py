"""A module's arrays by name, for modules that are split into a definition and trees of arrays.

The names are those of `ncap_jax.zoo.weights.store`: dotted paths, random streams left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

from ncap_jax.zoo.functional import Functional, Params, State

Path = tuple[Any, ...]


def named(definition: Functional, params: Params, state: State) -> dict[str, Any]:
    """Every parameter and statistic by dotted path.

    Args:
        definition: from `functional.split`.
        params: arrays, or shapes alone.
        state: likewise.
    """
    streams = _random_streams(definition, params, state)
    found = {**dict(_leaves(params)), **dict(_leaves(state))}
    return {_name(path): leaf for path, leaf in found.items() if path not in streams}


def renewed(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """A tree of params or of state with the arrays of these names in their places.

    Args:
        tree: nested dicts; leaves whose name is not in `arrays` stay.
        arrays: dotted path -> array.
    """
    return _renewed(tree, arrays, ())


def _renewed(tree: Any, arrays: Mapping[str, Any], above: Path) -> Any:
    if isinstance(tree, Mapping):
        return {key: _renewed(below, arrays, (*above, key)) for key, below in tree.items()}
    return arrays.get(_name(above), tree)


def _leaves(tree: Any, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(tree, Mapping):
        for key, below in tree.items():
            yield from _leaves(below, (*above, key))
    else:
        yield above, tree


def _random_streams(definition: Functional, params: Params, state: State) -> set[Path]:
    """Paths of the arrays that are not weights: keys of random numbers and their counts."""
    module = nnx.merge(definition.inference, nnx.State(params), nnx.State(state))
    return {path for path, _ in nnx.to_flat_state(nnx.state(module, nnx.RngState))}


def _name(path: Path) -> str:
    return ".".join(map(str, path))
