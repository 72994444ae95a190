"""Running averages of batch norm in short fine-tunings."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flax import nnx

# No shorter memory than PyTorch's default: fewer batches are too noisy.
LEAST_MOMENTUM = 0.9


@runtime_checkable
class Limited(Protocol):
    """A module that holds batch norm of another library."""

    def limit_momentum(self, longest: float) -> None:
        """Let no running average of it have a momentum above `longest`."""


def limit_memory(module: nnx.Module, steps: int) -> None:
    """Let running averages of batch norm remember no more than about an epoch.

    Published momenta are those of long training: Keras's 0.99 and MobileNetV2's 0.999 still hold
    38 and 91 % of ImageNet's statistics after 96 steps, and in inference mode the fine-tuned
    network does not work (docs/results/published-weights.md). So

        momentum <- min(momentum, max(0.9, 1 - 2 / (steps + 1)))

    the weight of a moving average that spans `steps` values; never longer than published.

    Args:
        module: changed in place: every `nnx.BatchNorm` in it, and those of adapted Linen and Keras
            models.
        steps: of an epoch of training.
    """
    longest = max(LEAST_MOMENTUM, 1 - 2 / (steps + 1))
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.BatchNorm):
            node.momentum = min(node.momentum, longest)
        elif isinstance(node, nnx.Module) and isinstance(node, Limited):
            node.limit_momentum(longest)
