"""A run that goes on in its folder with other options: what it needs, lacks and says.

Which options may be others: `ncap_jax.run.fingerprint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ncap_jax import errors
from ncap_jax import predictor as predictors
from ncap_jax.measure import epochs
from ncap_jax.options import RankConfig
from ncap_jax.run.recorded import Recorded, as_measured
from ncap_jax.selection.ranking import with_needed_beta_eff
from ncap_jax.types import Ranking, Trajectory


def measured_epochs(config: RankConfig, num_train: int) -> frozenset[int]:
    """The epochs after which a run measures beta_eff; `num_train`: samples of its training part."""
    return epochs.measured_epochs(with_needed_beta_eff(config), num_train)


def as_ranked(
    trajectories: Iterable[Trajectory], ranking: Ranking, recipe: RankConfig, num_train: int
) -> tuple[Trajectory, ...]:
    """Of trajectories that a folder keeps, what its ranking was made of.

    Args:
        trajectories: as they are in the files.
        ranking: says which models it ranks, and by how many epochs.
        recipe: of the ranking.
        num_train: samples of the training part.
    """
    until = {row.name: row.epochs for row in ranking.models}
    measured = measured_epochs(recipe, num_train)
    return tuple(
        as_measured(dataclasses.replace(t, records=t.records[: until[t.model] + 1]), measured)
        for t in trajectories
        if t.model in until
    )


def was_followed(earlier: Mapping[str, Any], config: RankConfig, num_train: int) -> bool:
    """Whether the folder's latest ranking measured beta_eff after every epoch.

    Args:
        earlier: options of that ranking, from `run.json`.
        config: of the ranking that is to be made; what it does not share with `earlier` never
            differs in one folder.
        num_train: samples of the training part.
    """
    names = ("predictor", "epochs", "beta_eff")
    given = {name: earlier[name] for name in names if name in earlier}
    recipe = dataclasses.replace(config, **given)
    return measured_epochs(recipe, num_train) == frozenset(range(recipe.epochs + 1))


def check_measured(
    known: Mapping[str, Recorded], config: RankConfig, folder: object, *, followed: bool
) -> None:
    """Refuse to rank by a beta_eff that the folder's epochs were recorded without.

    Args:
        known: by name.
        config: of the ranking.
        folder: for the message.
        followed: see `was_followed`; then a model without any beta_eff is one that has none.

    Raises:
        OutputError: the predictor reads beta_eff after every epoch, and a model that can be
            measured was not.
    """
    strength = predictors.get(config.predictor, config.head).strength
    if strength is None:
        return
    for each in known.values():
        records = each.records[: config.epochs + 1]
        missing = [record.epoch for record in records if strength not in record.beta_eff]
        if missing and (not followed or any(record.beta_eff for record in each.records)):
            raise errors.OutputError(
                f"{folder} was recorded without what predictor={config.predictor!r} reads: "
                f"{each.model} has no {strength} beta_eff after {_listed(missing)}",
                "Choose another folder, or a predictor that reads no beta_eff",
            )


def check_counted(known: Mapping[str, Recorded], config: RankConfig, folder: object) -> None:
    """Refuse to rank by a metric that the folder's epochs were recorded without.

    Args:
        known: by name.
        config: of the ranking.
        folder: for the message.

    Raises:
        OutputError: the metric needs the answers by class, and a model's were not counted.
    """
    if config.metric == "accuracy":
        return
    for each in known.values():
        records = each.records[: config.epochs + 1]
        lacking = [record.epoch for record in records if record.validation_counts is None]
        if lacking:
            raise errors.OutputError(
                f"{folder} was recorded without the answers by class that "
                f"metric={config.metric!r} is computed from: {each.model} has none after "
                f"{_listed(lacking)}",
                "Choose another folder, or metric='accuracy'",
            )


def notes(known: Mapping[str, Recorded], config: RankConfig, num_train: int) -> list[str]:
    """What a run takes from its folder, in sentences; none where it holds no epoch of training.

    Args:
        known: by name, of the models that are ranked.
        config: of the ranking.
        num_train: samples of the training part.
    """
    measured = measured_epochs(config, num_train)
    trained = [each for each in known.values() if len(each.records) > 1]
    whole = [each for each in trained if each.reaches(config.epochs)]
    others = [each for each in trained if not each.reaches(config.epochs)]
    again = [each for each in others if not each.state]
    bare = [each for each in whole if _lacks_the_last(each, config.epochs, measured)]
    said = {
        "All epochs are in the folder already": whole,
        "Going on from the states that were kept": [each for each in others if each.state],
        "Repeating the epochs in the folder, because no state was kept": again,
        "Without a beta_eff after the last epoch, where it was not measured": bare,
    }
    return [
        f"{what}: {', '.join(each.model for each in models)}."
        for what, models in said.items()
        if models
    ]


def _lacks_the_last(each: Recorded, epochs: int, measured: Collection[int]) -> bool:
    """Whether a model was not measured after what is now the last epoch, as a fresh run would."""
    has_it = len(each.records) > epochs
    return has_it and epochs in measured and not each.records[epochs].beta_eff


def _listed(numbers: Sequence[int]) -> str:
    return f"epoch{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"
