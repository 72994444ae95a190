"""Which licences of weights allow commercial use.

Counted is what says so by itself, without further terms. A licence with terms of its own (Gemma's,
DINOv3's, NVIDIA's, Apple's) may allow it too, but that is for its reader to judge. Where none is
stated, none is given.
"""

from __future__ import annotations

from ncap_jax.types import ModelSpec

COMMERCIAL = frozenset(
    (
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "isc",
        "mit",
        "unlicense",
    )
)


def is_commercial(licence: str) -> bool:
    """Whether a licence, by its SPDX name in any case, allows commercial use."""
    return licence.strip().lower() in COMMERCIAL


def in_words(spec: ModelSpec) -> str:
    """A model and the licence of its weights, for messages."""
    return f"{spec.name} ({spec.licence or 'no licence is stated'})"
