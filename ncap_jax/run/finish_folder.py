"""The files of a finish, in the run's folder; see `ncap_jax.run.finishing`."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ncap_jax import errors, files
from ncap_jax.finetune import trajectory_files
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import FinishConfig, Metric
from ncap_jax.run.fingerprint import ADDED, differences
from ncap_jax.run.model_files import ModelFiles

FOLDER, FILE = "finish", "finish.json"
SCHEMA = 1


class FinishFolder:
    """Where models are trained to convergence; its run's folder is locked.

    Args:
        run: path of the run's folder.
        config: of the finish; what was begun in another way is refused, but for `top`.
        metric: of the ranking, by which the best epochs are chosen.

    Attributes:
        path: of the folder.
        files: trajectories and checkpoints of the models.
        start: likewise, of models that begin again from the pretrained weights.
        started: when it began, as ISO 8601.

    Raises:
        OutputError: it cannot be written, is damaged, or was begun with other options.
    """

    def __init__(self, run: pathlib.Path, config: FinishConfig, metric: Metric = "accuracy"):
        self.path = run / FOLDER
        self.files, self.start = ModelFiles(self.path), ModelFiles(self.path / "start")
        for model_files in (self.files, self.start):
            _make(model_files.path / trajectory_files.FOLDER)
        files.remove_temporary(self.path)
        options = {**dataclasses.asdict(config), "metric": metric}
        recipe = files.strict({k: v for k, v in options.items() if k != "top"})
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        content = self._read() or {"config": recipe, "started": now, "models": {}}
        begun = {"metric": ADDED["metric"], **content["config"]}
        if changed := differences(begun, recipe, "config"):
            raise errors.OutputError(
                f"{self.path} was begun in another way; different: {'; '.join(changed)}",
                f"Repeat it with the same options, or remove {self.path} to finish in this way",
            )
        self._content: dict[str, Any] = content
        self.started = str(content["started"])

    def begin(self, model: str, trajectory: pathlib.Path) -> None:
        """Enter a model. What it has done is forgotten if the ranking has gone on since.

        Args:
            model: its name.
            trajectory: of the ranking.
        """
        digest = hashlib.sha256(trajectory.read_bytes()).hexdigest()
        if self._content["models"].get(model) == digest:
            return
        self.files.start_again(model)
        self.best(model).remove()
        self._content["models"][model] = digest
        text = json.dumps({"schema": SCHEMA, **self._content}, indent=1) + "\n"
        files.write_atomically(self.path / FILE, text)

    def best(self, model: str) -> Checkpoints:
        """Where the weights of a model's best epoch are, once it has converged."""
        return best_of(self.path.parent, model)

    def _read(self) -> dict[str, Any] | None:
        """The content of finish.json, or None where the file is missing."""
        file = self.path / FILE
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            fields = {name: content[name] for name in ("config", "started", "models")}
            kinds = isinstance(fields["models"], Mapping), isinstance(fields["config"], Mapping)
            if content["schema"] != SCHEMA or not all(kinds):
                raise ValueError(f"schema {content['schema']!r}")
        except (OSError, *files.DAMAGE) as error:
            raise errors.OutputError(
                f"{file} cannot be read: {error}", f"Remove {self.path}: the finish starts again"
            ) from error
        return {**fields, "models": dict(fields["models"])}


def best_of(run: pathlib.Path, model: str) -> Checkpoints:
    """Where the weights of a model's best epoch are in a run's folder, once it has converged."""
    return Checkpoints(run / FOLDER / "best" / model)


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.OutputError(
            f"cannot write to {folder}: {error.strerror or error}",
            "Free space, or make it a folder that you may write to",
        ) from error
    files.remove_temporary(folder)
