"""Where the time of a step goes on a GPU: convolutions and products, or everything between them.

Both sides spend the first part in NVIDIA's libraries; the second (normalisation, activations,
pooling, the optimizer) is what their compilers generate.
"""

from __future__ import annotations

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax

STEPS = 3
KEPT = 12  # kernels that are listed, the longest first
_LIBRARY = re.compile(r"gemm|conv|fprop|dgrad|wgrad|nvjet|cutlass|xmma|cudnn|attention|fmha")
_GENERATED = re.compile(r"^triton_(?!gemm)|^(?!gemm_fusion).*fusion")


def profile_jax(step: Callable[[], Any]) -> dict[str, Any]:
    """Where the time of a call goes that returns JAX arrays."""
    spent: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                result = step()
            jax.block_until_ready(result)
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if plane.name.startswith("/device:GPU"):
                for line in plane.lines:
                    if line.name.startswith("Stream"):
                        for event in line.events:
                            spent[event.name] += event.duration_ns / 1e6 / STEPS
    return summary(spent)


def profile_torch(step: Callable[[], Any]) -> dict[str, Any]:
    """Where the time of a call goes that runs PyTorch."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
    spent: collections.Counter[str] = collections.Counter()
    for event in profiler.key_averages():
        spent[event.key] += event.self_device_time_total / 1e3 / STEPS
    return summary(spent)


def summary(spent: collections.Counter[str]) -> dict[str, Any]:
    """Milliseconds a step by kind of kernel, and the longest kernels."""
    library = sum(ms for name, ms in spent.items() if is_library(name))
    return {
        "library_ms": library,
        "generated_ms": spent.total() - library,
        "kernels": len(spent),
        "longest": [[name[:120], ms] for name, ms in spent.most_common(KEPT)],
    }


def is_library(name: str) -> bool:
    """Whether a kernel is a library's convolution or product, judged by its name.

    Generated kernels may be named after what they fuse ("triton_red_fused_convolution_backward",
    "input_convert_reduce_fusion"), XLA's own products "gemm_fusion_dot".
    """
    return bool(_LIBRARY.search(name)) and not _GENERATED.search(name)
