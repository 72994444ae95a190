"""Which samples make up which batch: pure functions from seeds and sizes to indices.

The caller keeps the images where it likes (on the device as uint8, or streamed) and looks them
up by these indices; the same seed gives the same batches either way.
"""

from __future__ import annotations

import numpy as np

from ncap_jax import errors


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Number of training steps in an epoch: the n samples, the last batch filled up."""
    _check(n, batch_size)
    return -(-n // batch_size)


def epoch_batches(
    seed: int, epoch: int, n: int, batch_size: int, start_step: int = 0
) -> np.ndarray:
    """The order of one training epoch: a permutation drawn from (seed, epoch), cut into batches.

    Nothing is dropped: where n is not a multiple of the batch size, the last batch is filled up
    with the first samples of the same permutation, which then occur twice in this epoch (in the
    next epoch it is others). All batches have one shape, so that the step compiles once. With
    fewer samples than a batch holds, the batch is all n samples once.

    Args:
        seed: of the order.
        epoch: number of the epoch; each has its own permutation.
        n: number of training samples.
        batch_size: samples in a step.
        start_step: leave out the steps before it, to resume in the middle of an epoch.

    Returns:
        (steps - start_step, min(batch_size, n)) int32 indices in 0..n-1,
        steps = ceil(n / batch_size).

    Raises:
        ConfigError: a size is less than 1, seed or epoch is negative, or `start_step` is not
            in the epoch.
    """
    _check(n, batch_size)
    if seed < 0 or epoch < 0:
        raise errors.ConfigError(f"seed={seed}, epoch={epoch}", "Give numbers of at least 0")
    # The list is hashed to PCG64's state by SeedSequence: a stream for each (seed, epoch).
    order = np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)
    steps = steps_per_epoch(n, batch_size)
    if not 0 <= start_step <= steps:
        raise errors.ConfigError(f"start_step={start_step}", f"Give a step from 0 to {steps}")
    return np.resize(order, (steps, min(batch_size, n)))[start_step:]


def padded_batches(n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches for evaluation: every sample exactly once, in order, padding masked.

    Args:
        n: number of samples.
        batch_size: samples in a batch.

    Returns:
        indices: (steps, batch_size) int32 in 0..n-1; padding repeats sample 0.
        mask: (steps, batch_size) bool, False where padded; it sums to n.

    Raises:
        ConfigError: a size is less than 1.
    """
    _check(n, batch_size)
    flat = np.arange(-(-n // batch_size) * batch_size, dtype=np.int32).reshape(-1, batch_size)
    mask = flat < n
    return np.where(mask, flat, np.int32(0)), mask


def _check(n: int, batch_size: int) -> None:
    if n < 1 or batch_size < 1:
        raise errors.ConfigError(
            f"cannot make batches of {batch_size} out of {n} samples", "Both must be at least 1"
        )
