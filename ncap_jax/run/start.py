"""The executor that a configuration asks for."""

from __future__ import annotations

import os
from typing import NamedTuple

from ncap_jax import errors
from ncap_jax.options import Execution
from ncap_jax.run import executors, processes
from ncap_jax.run.ray_workers import RayWorkers


class Makers(NamedTuple):
    """What makes the work of a worker.

    Attributes:
        here: in this process.
        elsewhere: in another one; picklable.
    """

    here: executors.Maker
    elsewhere: executors.Maker


def make_executor(execution: Execution, makers: Makers, tasks: int) -> executors.Executor:
    """The executor that the options ask for.

    Args:
        execution: checked.
        makers: of the work.
        tasks: how many there are; no more processes are started.

    Raises:
        ConfigError: no Ray cluster at the address; a device that cannot be divided.
    """
    if execution.executor == "local":
        return executors.Local(makers.here)
    if execution.executor == "ray":
        return RayWorkers(makers.elsewhere, execution.workers, execution.ray_address)
    devices = cuda_devices()
    workers = execution.workers or len(devices) or max(1, (os.cpu_count() or 2) // 2)
    workers = min(workers, tasks)
    return processes.Processes(
        makers.elsewhere,
        processes.environments(workers, devices),
        processes.core_shares(workers),
    )


def cuda_devices() -> list[str]:
    """Names of this machine's GPUs for `CUDA_VISIBLE_DEVICES`; none on the CPU.

    Raises:
        ConfigError: on a TPU, whose chips belong to one process.
    """
    import jax

    if jax.default_backend() == "tpu":
        raise errors.ConfigError(
            "executor='processes' on a TPU, which belongs to one process",
            "Use executor='local', or 'ray' over several machines",
        )
    if jax.default_backend() != "gpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(d.id) for d in jax.local_devices()]
