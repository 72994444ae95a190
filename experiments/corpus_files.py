"""The corpus of fine-tunings as files: what the studies read and `build_corpus` writes.

    experiments/corpus/<set>_<pool>.jsonl      a line per (model, seed)
    experiments/corpus/manifest.json           per file: data, settings; versions, device
    experiments/corpus/large/                  likewise, of the large sets (`corpus_sets`)

A line holds `model`, `seed`, `parameters`, `scores` (transferability score -> value and seconds,
seen before any fine-tuning) and `runs`: kind of run -> its epochs as columns. Only numbers, with
six significant digits; no weights.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import corpus_sets
from ncap_jax.files import write_atomically
from ncap_jax.options import Head
from ncap_jax.types import STRENGTHS, ClassCounts, EpochRecord, Trajectory

FOLDER = pathlib.Path(__file__).parent / "corpus"
MANIFEST = "manifest.json"
# More validate nowhere in the corpus.
MOST_IMAGES = 10_000
# Kind of run -> head. `_low`: at the lower learning rate; of the probes in some pools only.
HEADS: Mapping[str, Head] = {
    "probe": "probe",
    "trainable_probe": "trainable_probe",
    "trainable_probe_low": "trainable_probe",
    "linear": "linear",
    "linear_low": "linear",
}
TRUTHS = ("linear", "linear_low")
COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "running_loss",
)


def compact(lines: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """The records of one run (`finetune.records.to_json`, plus `cpu`) as columns."""
    columns = {name: [short(line[name]) for line in lines] for name in (*COLUMNS, "cpu")}
    for strength in STRENGTHS:
        if strength in lines[0]["beta_eff"]:
            columns[f"beta_eff_{strength}"] = [
                short(line["beta_eff"][strength][0]) for line in lines
            ]
            columns[f"status_{strength}"] = [line["beta_eff_status"][strength][0] for line in lines]
    return columns


def trajectory(model: str, kind: str, columns: Mapping[str, Any], epochs: int) -> Trajectory:
    """The first `epochs` epochs of a run as the predictors see them.

    Raises:
        ValueError: not every one of these epochs was recorded.
    """
    if columns["epoch"][: epochs + 1] != list(range(epochs + 1)):
        raise ValueError(f"{model}, {kind}: epochs 0 to {epochs} were not all recorded")
    records = tuple(_record(columns, i) for i in range(epochs + 1))
    seconds = columns["cpu"][epochs]
    return Trajectory(model, HEADS[kind], records, seconds=seconds)


def last_in_a_row(columns: Mapping[str, list]) -> int:
    """The last epoch of a run up to which every one was recorded."""
    here = itertools.takewhile(lambda pair: pair[0] == pair[1], enumerate(columns["epoch"]))
    return sum(1 for _ in here) - 1


def truth(line: Mapping[str, Any]) -> float:
    """Validation accuracy at the end of ordinary fine-tuning, the better of the rates that ran."""
    runs = [line["runs"][kind] for kind in that_ran(line, TRUTHS)]
    return max(run["validation_accuracy"][-1] for run in runs)


def that_ran(line: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    """Those of some kinds of runs that a line has.

    On the large sets models are fine-tuned at one rate alone: for any kind of ordinary fine-tuning,
    that one.
    """
    return [k for k in kinds if k in line["runs"]] or [k for k in TRUTHS if k in line["runs"]]


def folder(large: bool = False) -> pathlib.Path:
    """Where the files of the small or of the large sets are."""
    return FOLDER / "large" if large else FOLDER


def files(large: bool = False) -> list[pathlib.Path]:
    """The corpus files of the small or of the large sets, which the manifest names."""
    file = folder(large) / MANIFEST
    manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [file.parent / name for name in sorted(manifest) if name.endswith(".jsonl")]


def read(path: pathlib.Path) -> list[dict]:
    """The lines of one corpus file, by model and seed; none where there is no file.

    Every run has `images` beside its columns: how many validate, None where that cannot be told;
    and `epoch_steps`, of its set and pool: None in a file that is not the corpus's.
    """
    lines, steps = lines_of(path), corpus_sets.epoch_steps(path.stem)
    runs = [run for line in lines for run in line["runs"].values()]
    images = validation_images([a for run in runs for a in run["validation_accuracy"]])
    for run in runs:
        run["images"], run["epoch_steps"] = images, steps
    return sorted(lines, key=lambda line: (line["model"], line["seed"]))


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file as they are; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def add(path: pathlib.Path, found: Iterable[dict[str, Any]], key: Sequence[str]) -> None:
    """Add lines to a file, sorted by some of their fields; an equal key replaces a line."""
    lines = {tuple(line[name] for name in key): line for line in (*lines_of(path), *found)}
    text = "".join(json.dumps(lines[k], allow_nan=False) + "\n" for k in sorted(lines))
    write_atomically(path, text)


def validation_images(accuracies: Iterable[float | None]) -> int | None:
    """The smallest number of images, up to `MOST_IMAGES`, of which all accuracies are shares."""
    known = np.unique([a for a in accuracies if a is not None])
    for images in range(1, MOST_IMAGES + 1):
        right = known * images
        # Six digits of an accuracy: half a millionth of it is lost.
        if np.all(np.abs(right - np.round(right)) < 1e-6 * images):
            return images
    return None


def _record(columns: Mapping[str, Any], i: int) -> EpochRecord:
    strengths = [s for s in STRENGTHS if f"beta_eff_{s}" in columns]
    losses = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    epoch, steps = columns["epoch"][i], columns.get("epoch_steps")
    return EpochRecord(
        epoch=epoch,
        **{name: _number(columns[name][i]) for name in losses},
        running_loss=columns["running_loss"][i],
        beta_eff={s: (_number(columns[f"beta_eff_{s}"][i]),) for s in strengths},
        beta_eff_status={s: (columns[f"status_{s}"][i],) for s in strengths},
        seconds=columns["cpu"][i] - (columns["cpu"][i - 1] if i else 0.0),
        features="",  # a corpus does not say
        validation_counts=_counts(columns["validation_accuracy"][i], columns.get("images")),
        steps=None if steps is None else epoch * steps,
    )


def _counts(accuracy: float | None, images: int | None) -> ClassCounts | None:
    """All images as one class: a corpus does not say which they are."""
    if accuracy is None or images is None:
        return None
    right = ((round(accuracy * images),),)
    return ClassCounts((images,), right, right)


def short(value: float | None) -> float | int | None:
    """A number with six significant digits; None where it is not finite."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
