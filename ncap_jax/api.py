"""The public main job. Wrong options are refused before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ncap_jax import errors, options
from ncap_jax.data.pairs import DataSource, refuse_apart
from ncap_jax.options import DataConfig, FinishConfig, RankConfig
from ncap_jax.types import ModelSpec, Ranking

if TYPE_CHECKING:
    from ncap_jax.winner.model import Winner


def rank_models(
    models: Sequence[str | ModelSpec],
    dataset: DataSource = "digits",
    config: RankConfig | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    data_config: DataConfig | None = None,
    show_progress: bool = True,
    tensorboard: str | os.PathLike[str] | None = None,
) -> Ranking:
    """Rank pretrained models by the accuracy they are predicted to reach on a data set.

    Everything is checked before anything is written. A model that fails is recorded with its
    status and message; the others continue.

    Args:
        models: names or patterns (`tiny_*`) of `ncap_jax.MODELS` or timm (`timm:...`), lists of
            timm's models (`small`), `hf://` names, or ModelSpec objects.
        dataset: a name, the path of an image folder or a CSV file, a pair of arrays
            (images, labels), or a Dataset of arrays; see `load_dataset`.
        config: the options of the run; None: `RankConfig()`.
        output_dir: receives `run.json`, `trajectories/`, `ranking.json`, `ranking.csv`,
            `report.md` and `report.html`; None: nothing is written. An interrupted run
            resumes in its folder, and may grow there: with another number of epochs, other
            models or another predictor it ranks as a fresh run, but trains only what the folder
            does not hold.
        data_config: how the data set is read; None: `DataConfig()`.
        show_progress: show a live view on a terminal, plain lines elsewhere.
        tensorboard: folder for scalars of every epoch, one run per model (extra `tensorboard`);
            None: none are written.

    Returns:
        The ranking; `print` shows the table, `.best` is the model to fine-tune.

    Raises:
        ConfigError: an option, or a combination of options, cannot work; tensorboardX is missing.
        ModelError: a model is unknown, or cannot be built.
        WeightsError: `weights_dir` does not exist; or weights are missing, of a model that was
            asked for by name or of all (a model that only a pattern matches is left out then).
        DataError: images or labels cannot be used.
        OutputError: the folder cannot be written, is in use, or holds another run.
    """
    refuse_apart(dataset, config)
    config = RankConfig() if config is None else config
    data_config = DataConfig() if data_config is None else data_config
    _check(config, RankConfig)
    _check(data_config, DataConfig)
    # Imported here: JAX takes a second, and a misspelt option need not wait for it.
    from ncap_jax.run import pipeline

    return pipeline.rank(
        pipeline.Request(
            models,
            dataset,
            config,
            data_config,
            output_dir,
            show_progress=show_progress,
            tensorboard=tensorboard,
        )
    )


def finish(
    ranking: Ranking | str | os.PathLike[str],
    top: int | None = None,
    config: FinishConfig | None = None,
    *,
    dataset: DataSource | None = None,
    models: Sequence[str | ModelSpec] | None = None,
    show_progress: bool = True,
) -> Winner:
    """Train the first models of a ranking to convergence, and keep the best by validation.

    Each goes on from its state at the end of the ranking. After a ranking of probes each begins
    again, with a linear head on the pretrained weights. In a run's folder the winner is saved
    under `winner/`, and an interrupted finish resumes.

    Args:
        ranking: from `rank_models`, or the folder of a run.
        top: how many models are trained; None: `config.top`.
        config: how; None: `FinishConfig()`.
        dataset: of a folder whose run was made on arrays, the same arrays.
        models: of a folder whose run had models made in Python, the same models.
        show_progress: show a live view on a terminal, plain lines elsewhere.

    Returns:
        The model to use, with its figures on the validation part and, where there is one, the test
        part.

    Raises:
        ConfigError: an option cannot work; `dataset` or `models` is missing.
        DataError: the data, the weights or the options are not those of the ranking.
        ModelError: no model was ranked, or none can be trained.
        PackageError: a model could not be saved once it is finished: a class has no name, or images
            are too large.
        OutputError: the folder holds no run, cannot be written or is in use; a model's state was
            not kept; or a finish was begun there in another way.
    """
    config = FinishConfig() if config is None else config
    if top is not None and isinstance(config, FinishConfig):
        config = dataclasses.replace(config, top=top)
    _check(config, FinishConfig)
    if not isinstance(ranking, Ranking | str | os.PathLike):
        raise errors.ConfigError(
            f"{options.shown(ranking)} is neither a ranking nor a path",
            "Give what rank_models returned, or its output_dir",
        )
    # Imported here: JAX takes a second, and a misspelt option need not wait for it.
    from ncap_jax.run import finish_source, finishing

    return finishing.finish(
        finish_source.FinishRequest(ranking, config, dataset, models, show_progress)
    )


def _check(record: object, kind: type) -> None:
    """Refuse options of another kind, or that cannot work."""
    if not isinstance(record, kind):
        raise errors.ConfigError(
            f"{options.shown(record)} is not a {kind.__name__}",
            f"Give ncap_jax.{kind.__name__}(...)",
        )
    options.check(record)
