"""A command that prints its words, to see how commands are called."""

from __future__ import annotations

from collections.abc import Sequence

from ncap_jax import errors


def main(words: Sequence[str]) -> int:
    """Print the words; returns 7."""
    if not words:
        raise errors.ConfigError("nothing to echo", "Give a word")
    print(*words)
    return 7
