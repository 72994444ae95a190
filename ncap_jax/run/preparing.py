"""The job that follows from what was asked for."""

from __future__ import annotations

from typing import Any

from ncap_jax import data
from ncap_jax.finetune import mesh
from ncap_jax.run import facts
from ncap_jax.run.checks import check_run, obtainable, warn_of_few_images
from ncap_jax.run.job import Job
from ncap_jax.run.request import Request
from ncap_jax.zoo import shapes
from ncap_jax.zoo.registry import search


def prepare(request: Request) -> tuple[Job, dict[str, Any]]:
    """The job and the content of its `run.json`; what cannot work is refused here."""
    config, data_config = request.config, request.data_config
    specs = obtainable(search(request.models), config)
    check_run(config, specs)
    specs = shapes.checked(specs, config.input_size)
    dataset = data.load_dataset(request.dataset, data_config, seed=config.seed)
    mesh.check_mesh(config, len(dataset.labels))
    job = Job(specs, dataset, config)
    command = facts.command(specs, request.dataset, config, data_config)
    about = {**facts.run_facts(job, data_config), "command": command}
    warn_of_few_images(about["data"]["num_validation"])
    return job, about
