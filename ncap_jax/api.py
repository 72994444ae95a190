"""The public main job. Wrong options are refused before anything heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ncap_jax import errors, options
from ncap_jax.data.pairs import DataSource, refuse_apart
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.types import ModelSpec, Ranking


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
        models: names or patterns (`tiny_*`) of `ncap_jax.MODELS`, or ModelSpec objects.
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
    for record, kind in ((config, RankConfig), (data_config, DataConfig)):
        if not isinstance(record, kind):
            raise errors.ConfigError(
                f"{options.shown(record)} is not a {kind.__name__}",
                f"Give ncap_jax.{kind.__name__}(...)",
            )
        options.check(record)
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
