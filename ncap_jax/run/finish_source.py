"""Where `finish` goes on from: a ranking in memory, or the folder of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ncap_jax import distributed, errors, files
from ncap_jax.data.pairs import DataSource
from ncap_jax.options import FinishConfig
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.run import rerun
from ncap_jax.run.fingerprint import FINGERPRINT, RUN_FILE, differences, fixed
from ncap_jax.run.finish_folder import best_of
from ncap_jax.run.model_files import ModelFiles
from ncap_jax.run.request import Request, Source
from ncap_jax.run.scratch import Scratch
from ncap_jax.types import ModelSpec, RankedModel, Ranking


@dataclasses.dataclass(frozen=True)
class FinishRequest:
    """What `ncap_jax.finish` was asked for; each option is of the right type and range.

    Attributes: see `ncap_jax.finish`.
    """

    ranking: Ranking | str | os.PathLike[str]
    config: FinishConfig
    dataset: DataSource | None = None
    models: Sequence[str | ModelSpec] | None = None
    show_progress: bool = True


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A run whose models have been ranked.

    Attributes:
        ranking: its table.
        request: what it was asked for.
        folder: that holds its files; None: it kept none.
        scratch: owner of the folder if it is a temporary one.
    """

    ranking: Ranking
    request: Request
    folder: pathlib.Path | None
    scratch: Scratch | None = None

    def first(self, top: int) -> tuple[RankedModel, ...]:
        """The first models, in order.

        Raises:
            ModelError: no model could be ranked.
        """
        assert self.ranking.best
        ranked = [row for row in self.ranking.models if row.rank is not None]
        return tuple(ranked[:top])

    def check(self, about: Mapping[str, Any]) -> None:
        """Refuse other data, weights or options than those of the ranking.

        Args:
            about: content that `run.json` would have now.

        Raises:
            DataError: the data or the weights have changed.
        """
        if self.folder is None:
            return
        before = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))
        now = json.loads(files.to_json(about))
        changed = [
            text
            for part in FINGERPRINT
            for text in differences(fixed(before.get(part), part), fixed(now[part], part), part)
        ]
        if changed:
            raise errors.DataError(
                f"this is not what the models in {self.folder} were ranked on; different: "
                f"{'; '.join(changed[:5])}",
                "Restore it, or rank again in another folder",
            )


def find(request: FinishRequest) -> Ranked:
    """The run to go on from.

    Raises:
        OutputError: the folder holds no run, or its ranking is not complete.
        ConfigError: it cannot be made again without `dataset` or `models`; several processes.
        ModelError: no model could be ranked.
    """
    if distributed.is_distributed():
        raise errors.ConfigError(
            "finish as one of several processes", "Finish in one process; it may use a mesh"
        )
    if isinstance(request.ranking, Ranking):
        return _of_ranking(request.ranking)
    return _of_folder(pathlib.Path(request.ranking).expanduser(), request)


def _of_ranking(ranking: Ranking) -> Ranked:
    source = ranking.source
    if not isinstance(source, Source):
        raise errors.ConfigError(
            "this ranking does not know its run: it was read from a file, or copied",
            "Give the run's folder instead",
        )
    if source.folder is not None and not (source.folder / RUN_FILE).is_file():
        raise errors.OutputError(f"the run's folder {source.folder} is gone", "Rank again")
    return Ranked(ranking, source.request, source.folder, source.scratch)


def _of_folder(folder: pathlib.Path, request: FinishRequest) -> Ranked:
    if folder.name == RUN_FILE:
        folder = folder.parent
    if not (folder / RUN_FILE).is_file():
        raise errors.OutputError(
            f"{folder} has no {RUN_FILE}: no run was made there",
            "Give the folder in which models were ranked (output_dir)",
        )
    saved = rerun.read_run(folder)
    if not (folder / "ranking.json").is_file():
        raise errors.OutputError(
            f"the models in {folder} are not ranked yet",
            "Repeat the command that began it, which resumes",
        )
    dataset = request.dataset if request.dataset is not None else saved.dataset
    if dataset is None:
        raise errors.ConfigError(
            f"{folder} holds a run on arrays, or of models made in Python",
            "Give what it was made with again, in Python: finish(folder, dataset=..., models=...)",
        )
    models = request.models or saved.models
    made_of = Request(models, dataset, saved.config, saved.data_config, folder)
    return Ranked(read_ranking(folder), made_of, folder)


def check_states(ranked: Ranked, rows: Sequence[RankedModel]) -> None:
    """Refuse models whose states the ranking has not kept, unless they are finished already.

    Raises:
        OutputError: names them.
    """
    if gone := [row for row in rows if not _can_be_finished(ranked.folder, row)]:
        raise _not_kept(gone, rows)


def not_kept(row: RankedModel) -> errors.OutputError:
    """The error of a model whose state the ranking has not kept."""
    return _not_kept([row], [row])


def _not_kept(gone: Sequence[RankedModel], rows: Sequence[RankedModel]) -> errors.OutputError:
    names = ", ".join(row.name for row in gone)
    last = max(row.rank or 0 for row in gone)
    kept = len(rows) - len(gone)
    fewer = (
        f"Finish fewer models (top={kept}), or rank"
        if gone == list(rows[kept:]) and kept
        else "Rank"
    )
    return errors.OutputError(
        f"the fine-tuned state of {names} was not kept",
        f"{fewer} again in another folder with keep_states={last}",
    )


def _can_be_finished(run: pathlib.Path | None, row: RankedModel) -> bool:
    """Whether a model's state is there, or what an earlier finish made of it."""
    if run is None:
        return False
    epoch = ModelFiles(run).checkpoints(row.name).latest()
    # A model may have trained further before, in a run that had more epochs.
    if epoch is not None and epoch >= row.epochs:
        return True
    return best_of(run, row.name).latest() is not None
