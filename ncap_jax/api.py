"""The main job: fine-tune each candidate briefly, measure, predict, rank."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ncap_jax import caching, course, data, environment, errors, report, workers
from ncap_jax.data.images import gather
from ncap_jax.data.split import stratified_subset
from ncap_jax.finetune import config as finetune_config
from ncap_jax.finetune import parallel
from ncap_jax.options import check_types
from ncap_jax.report.tensorboard import TensorBoard
from ncap_jax.run_folder import RunFolder
from ncap_jax.selection import ranking as selection
from ncap_jax.shared_folder import SharedFolder
from ncap_jax.types import (
    DataConfig,
    Dataset,
    ModelSpec,
    RankConfig,
    Ranking,
)
from ncap_jax.zoo import find_models, preprocess


def rank_models(
    models: Sequence[str | ModelSpec],
    dataset: str | os.PathLike[str] | Dataset = "digits",
    config: RankConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    data_config: DataConfig | None = None,
    show_progress: bool = True,
    tensorboard: str | os.PathLike[str] | None = None,
) -> Ranking:
    """Rank pretrained models by the accuracy they are predicted to reach on a data set.

    Everything is checked before anything is written. A model that fails is recorded with its
    status and message; the others go on.

    Args:
        models: names or patterns (`tiny_*`) of `ncap_jax.MODELS`, or ModelSpec objects.
        dataset: a name, an image folder, or a Dataset of arrays.
        config: of the run; None: `RankConfig()`.
        output_dir: receives `run.json`, `trajectories/`, `ranking.json`, `ranking.csv`,
            `report.md` and `report.html`; None: nothing is written. A folder with an
            interrupted run of the same configuration, models and data is gone on with.
        data_config: how the data set is read; None: `DataConfig()`.
        show_progress: show a live view on a terminal, plain lines elsewhere.
        tensorboard: folder for scalars of every epoch, one run a model (extra `tensorboard`);
            None: none are written.

    Returns:
        The ranking; `print` shows the table, `.best` is the model to fine-tune.

    Raises:
        ConfigError: an option, or a combination, that cannot work; tensorboardX is missing.
        ModelError: unknown model.
        DataError: images or labels that cannot be used.
        OutputError: the folder cannot be written, is in use, or holds another run.
    """
    called = time.monotonic()
    config, data_config = config or RankConfig(), data_config or DataConfig()
    for options, kind in ((config, RankConfig), (data_config, DataConfig)):
        if not isinstance(options, kind):
            raise errors.ConfigError(
                f"{options!r} is no {kind.__name__}", f"Give ncap_jax.{kind.__name__}(...)"
            )
        check_types(options)
    finetune_config.check_config(config)
    selection.check_config(config)
    board = None if tensorboard is None else TensorBoard(tensorboard)
    caching.keep_compiled_programs()
    specs = find_models(models)
    workers.check(config, specs)
    checked = data.load_dataset(dataset, seed=config.seed, **dataclasses.asdict(data_config))
    parallel.check(config, len(checked.labels))
    command = environment.command(specs, dataset, config, data_config)
    facts = {**environment.run_facts(specs, checked, config, data_config), "command": command}
    if not parallel.first():
        show_progress, board = False, None
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        watchers = [] if board is None else [stack.enter_context(board)]
        folder = open_folder(output_dir, facts)
        if folder is not None:
            stack.enter_context(folder)
        trajectories = course.finetune_all(
            specs, checked, config, folder, show_progress, watchers, start=called
        )
        info = report_info(specs, config, facts, checked, command, time.perf_counter() - start)
        ranking = selection.rank_trajectories(trajectories, checked.name, config, info=info)
        if folder is not None and parallel.first():
            report.write(ranking, folder.path)
    return ranking


def open_folder(
    output_dir: str | os.PathLike[str] | None, facts: Mapping[str, Any]
) -> RunFolder | None:
    """The folder of a run, None if it has none; of several processes the first one's counts.

    Raises:
        OutputError: see `RunFolder`.
    """
    if not parallel.several():
        return None if output_dir is None else RunFolder(output_dir, facts)
    path = parallel.agree(None if output_dir is None else os.fspath(output_dir))
    return None if path is None else SharedFolder(path, facts)


def report_info(
    specs: Sequence[ModelSpec],
    config: RankConfig,
    run: dict[str, Any],
    dataset: Dataset,
    command: str | None,
    seconds: float,
) -> dict[str, Any]:
    """The run's facts in the words and order of the report."""
    facts = run["data"]
    height, width, channels = facts["image_shape"]
    return {
        "versions": run["versions"],
        "device": run["device"],
        "data": {
            "data set": facts["name"],
            "training images": facts["num_train"],
            "validation images": facts["num_validation"],
            "pixels": f"{height} × {width}, {'grey' if channels == 1 else 'colour'}",
            "largest class / smallest": f"{facts['imbalance']:.2f}",
            "always the largest class": f"{100 * facts['majority_accuracy']:.1f} % right",
            **{key.replace("_", " "): in_words(value) for key, value in dataset.info.items()},
        },
        "majority_accuracy": facts["majority_accuracy"],
        "num_validation": facts["num_validation"],
        "class_names": list(dataset.class_names or ()),
        "contact_sheet_png": sample_sheet(specs[0], dataset, config),
        "seconds": seconds,
        **({"command": command} if command else {}),
    }


def sample_sheet(spec: ModelSpec, dataset: Dataset, config: RankConfig, n: int = 24) -> bytes:
    """A PNG of training samples as this model's input shows them: resized, scaled, its channels."""
    chosen = stratified_subset(dataset.labels, n, config.seed)
    images = jnp.asarray(gather(dataset.images, chosen))
    size = config.input_size or spec.input_size
    pixels = np.asarray(preprocess.preprocess(images, spec.preprocessing, size))
    return data.contact_sheet(pixels, dataset.labels[chosen], n, class_names=dataset.class_names)


def in_words(value: Any, limit: int = 160) -> str:
    """A note of the data stage (text, number, list, mapping) as one line for the report."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {in_words(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(in_words(item) for item in value)
    else:
        text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
