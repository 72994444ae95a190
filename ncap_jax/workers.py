"""Who fine-tunes: the executor that a configuration asks for, with fine-tuning as its work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from ncap_jax import candidates, errors
from ncap_jax.run_folder import RunFolder
from ncap_jax.selection import budget, executors, halving, processes
from ncap_jax.selection.ray_workers import RayWorkers, import_ray
from ncap_jax.types import Dataset, ModelSpec, RankConfig


def check(config: RankConfig, specs: Sequence[ModelSpec]) -> None:
    """Refuse what cannot be carried out, before any work is done.

    Raises:
        ConfigError: budgets, strategy or executor; a model that cannot be sent to a process.
    """
    budget.check_config(config, len(specs))
    halving.check_config(config)
    executors.check_workers(config.executor, config.workers)
    if config.ray_address is not None and config.executor != "ray":
        raise errors.ConfigError(
            f"ray_address={config.ray_address!r} with executor={config.executor!r}",
            "Use executor='ray'",
        )
    if config.executor == "processes":
        processes.check_picklable({f"the model {spec.name!r}": spec for spec in specs})
        # This process looks at the devices too, and must leave their memory to the workers.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.executor == "ray":
        import_ray()


def make_executor(
    specs: Sequence[ModelSpec], dataset: Dataset, config: RankConfig, folder: RunFolder | None
) -> executors.Executor:
    """The executor that the configuration asks for.

    Raises:
        ConfigError: no Ray cluster at the address; a device that cannot be divided.
    """
    by_name = {spec.name: spec for spec in specs}
    if config.executor == "local":
        return executors.Local(partial(candidates.make_work, by_name, dataset, config, folder))
    assert folder is not None
    path = folder.path.absolute()
    make = partial(
        candidates.join_work, by_name, dataset, config, str(path), candidates.digest(path)
    )
    if config.executor == "ray":
        return RayWorkers(make, config.workers, config.ray_address)
    devices = cuda_devices()
    workers = config.workers or len(devices) or max(1, (os.cpu_count() or 2) // 2)
    workers = min(workers, len(specs))
    return processes.Processes(
        make, processes.environments(workers, devices), processes.core_shares(workers)
    )


def cuda_devices() -> list[str]:
    """Names of this machine's GPUs for `CUDA_VISIBLE_DEVICES`; none on the CPU.

    Raises:
        ConfigError: on a TPU, whose chips one process holds.
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
