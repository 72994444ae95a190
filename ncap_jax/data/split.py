"""Seeded stratified subsets: which samples train, which validate, which are measured.

Everything here works on labels alone and returns indices, so that it serves arrays in memory and
streamed sets alike. The draws come from NumPy's PCG64 seeded by the caller: equal seeds
give equal indices on every device.
"""

from __future__ import annotations

import numpy as np

from ncap_jax import errors


def stratified_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw `size` samples whose class shares follow those of `labels`.

    Shares are rounded by the largest remainder, ties broken by the seed; every class is present
    if `size` allows it.

    Args:
        labels: (n,) integers.
        size: number of samples wanted; n or more returns all of them.
        seed: of the draw.

    Returns:
        (min(size, n),) int32 indices into `labels`, ascending.

    Raises:
        ConfigError: `size` is less than 1.
    """
    if size < 1:
        raise errors.ConfigError(f"a subset cannot have {size} samples", "Ask for at least 1")
    classes, members = np.unique(labels, return_inverse=True)
    counts = np.bincount(members, minlength=len(classes))
    quotas = _quotas(counts, min(size, len(labels)), counts, seed)
    return _draw(members, quotas, seed)


def stratified_split(
    labels: np.ndarray, size: int, seed: int, *, leave: int = 1, part: str = "validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Split off `size` samples, stratified, leaving at least one of every class behind.

    Args:
        labels: (n,) integers.
        size: number of samples to split off.
        seed: of the draw.
        leave: samples that every class keeps; one that has no more gives none.
        part: what is split off, for messages.

    Returns:
        Two ascending int32 index arrays that partition 0..n-1: what is left (n - size,), and
        what was split off (size,).

    Raises:
        ConfigError: `size` is less than 1, or so large that a class would be left empty.
    """
    classes, members = np.unique(labels, return_inverse=True)
    counts = np.bincount(members, minlength=len(classes))
    capacity = np.maximum(counts - leave, 0)
    room = int(capacity.sum())
    staying = "training" if leave == 1 else "training and validation"
    if not 1 <= size <= room:
        raise errors.ConfigError(
            f"a {part} part of {size} samples cannot be split off {len(labels)} samples of "
            f"{len(classes)} classes",
            f"Between 1 and {room} samples can be split off, so that every class stays in {staying}"
            if room > 0
            else f"Give more samples, so that every class stays in {staying}",
        )
    split_off = _draw(members, _quotas(counts, size, capacity, seed), seed)
    left = np.setdiff1d(np.arange(len(labels), dtype=np.int32), split_off, assume_unique=True)
    return left, split_off


def split_for_test(
    labels: np.ndarray, fraction: float, seed: int, *, leave: int
) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of the samples aside for the winner's test, stratified.

    Args:
        labels: (n,) integers.
        fraction: of the samples; at least one of every class that can give one, whatever the share.
        seed: of the draw.
        leave: samples that every class keeps, for the parts that are made of the rest.

    Returns:
        What is left, and what is set aside, as `stratified_split` does.

    Raises:
        ConfigError: the share is so large that a class would be left with fewer.
    """
    size = max(round(fraction * len(labels)), int(np.count_nonzero(np.bincount(labels) > leave)))
    # 3: a stream of its own, independent of the validation split drawn with the same seed.
    return stratified_split(labels, size, _fold(seed, 3), leave=leave, part="test")


def measurement_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The fixed samples on which β_eff and the training loss are measured, stratified.

    Args:
        labels: (n,) integers, the training labels.
        size: at most this many samples.
        seed: of the draw.

    Returns:
        (min(size, n),) int32 indices into `labels`, ascending.
    """
    # 1: a stream of its own, independent of the split drawn with the same seed.
    return stratified_subset(labels, size, seed=_fold(seed, 1))


def _fold(seed: int, number: int) -> int:
    """A new seed from a seed and a number, as `jax.random.fold_in` does for keys."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _quotas(counts: np.ndarray, size: int, capacity: np.ndarray, seed: int) -> np.ndarray:
    """How many of each class: proportional to `counts`, at most `capacity`, `size` in all."""
    ideal = size * counts / counts.sum()
    # One of each class where there is one to give and room for all.
    least = np.minimum(capacity, 1) if size >= np.count_nonzero(capacity) else np.zeros_like(counts)
    quotas = np.clip(np.floor(ideal).astype(int), least, capacity)
    # Largest remainder first. Remainders are multiples of 1/n, so 1e-9 only decides between equal
    # ones: at random, or the last classes would always go without.
    tie = 1e-9 * np.random.default_rng(_fold(seed, 2)).random(len(counts))
    while (missing := size - quotas.sum()) != 0:
        if missing > 0:
            quotas[np.argmax(np.where(quotas < capacity, ideal - quotas + tie, -np.inf))] += 1
        else:
            quotas[np.argmax(np.where(quotas > least, quotas - ideal + tie, -np.inf))] -= 1
    return quotas


def _draw(members: np.ndarray, quotas: np.ndarray, seed: int) -> np.ndarray:
    """The first `quotas[k]` members of each class k in one seeded order, ascending."""
    order = np.random.default_rng(seed).permutation(len(members))
    chosen = [order[members[order] == k][:quota] for k, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen)).astype(np.int32)
