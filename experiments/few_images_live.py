"""44 validation images: does a run say that they are too few, and do its chances hold?

    python -m experiments.few_images_live --build --shared=../shared/data
    python -m experiments.few_images_live

The first ranks the embedded models on six species of birds, of which 177 images train and 44
validate, from three seeds: on one split, and on four (`validation_splits`), as many as these images
allow. It resumes. The second reads what the first wrote, experiments/corpus/few_images_live.jsonl.

The truth is what a run predicts: the accuracy at the end of full fine-tuning on 177 images, after
20 epochs as in the corpus, on all 243 images that do not train; mean over seeds. `--build` makes
these runs too.

Columns: whether the run says that its images cannot tell the first model from the second; the first
model's chance of being within a point of the best, and whether it is; expected and true points
lost; models on the shortlist, and whether one of them is within a point.

Expected result: experiments/tables/few_images_live.md; what follows: docs/results/shortlist.md.
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

import ncap_jax as ncap
from experiments import corpus_files
from ncap_jax import caching
from ncap_jax.files import write_atomically
from ncap_jax.report import text
from ncap_jax.run import facts

FLAGS = flags.FLAGS

FILE = corpus_files.FOLDER / "few_images_live.jsonl"
SEEDS, SPLITS = (0, 1, 2), (1, 4)
FULL = 20  # epochs
TRAIN, VALIDATION, SIDE = 177, 44, 32
POINTS = 1.0


def run(seed: int, splits: int) -> dict[str, Any]:
    """Rank once; the line of the file."""
    return line(rank(f"seed{seed}-splits{splits}", VALIDATION, seed, splits=splits), seed, splits)


def full_run(seed: int) -> dict[str, Any]:
    """Train all to the end; the line of the file, with accuracies in points."""
    ranking = rank(f"seed{seed}-full", None, seed, epochs=FULL)
    ends = {row.name: round(100 * row.validation_accuracy[-1], 2) for row in ranking.models}
    return {"seed": seed, "images": ranking.info.num_validation, "ends": ends}


def rank(
    folder: str, validation: int | None, seed: int, *, splits: int = 1, epochs: int = 5
) -> ncap.Ranking:
    """Rank the embedded models on the birds, of which `validation` validate; None: all others."""
    return ncap.rank_models(
        ["tiny_*"],
        str(pathlib.Path(FLAGS.shared, "birds", "birds6")),
        ncap.RankConfig(
            seed=seed,
            epochs=epochs,
            validation_splits=splits,
            strategy="full",
            input_size=SIDE,
            beta_eff="off",
            keep_states=0,
        ),
        pathlib.Path(FLAGS.work_dir, folder),
        data_config=ncap.DataConfig(
            image_size=64, validation_fraction=0.4, max_train=TRAIN, max_validation=validation
        ),
        show_progress=False,
    )


def line(ranking: ncap.Ranking, seed: int, splits: int) -> dict[str, Any]:
    """What a ranking states."""
    return {
        "seed": seed,
        "splits": splits,
        "images": ranking.info.num_validation,
        "caution": [words for words in text.warnings(ranking) if "cannot tell" in words],
        "expected_regret": round(ranking.expected_regret, 3),
        "models": [
            {"name": row.name, "within": row.p_within, "shortlist": row.shortlisted}
            for row in ranking.models
        ],
    }


def build() -> None:
    """Make the runs that the file lacks, and add each."""
    lines = corpus_lines()
    for splits, seed in itertools.product((*SPLITS, None), SEEDS):
        if not any((done["seed"], done.get("splits")) == (seed, splits) for done in lines):
            lines.append(full_run(seed) if splits is None else run(seed, splits))
            write_atomically(FILE, "".join(json.dumps(each) + "\n" for each in lines))
            logging.info("seed %d, splits %s", seed, splits)


def corpus_lines() -> list[dict[str, Any]]:
    """The lines of the file; none where there is none."""
    if not FILE.is_file():
        return []
    return [json.loads(row) for row in FILE.read_text(encoding="utf-8").splitlines()]


def truth(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracy at the end of full fine-tuning by model, in points; mean over seeds."""
    ends = [each["ends"] for each in lines if "ends" in each]
    return {model: float(np.mean([end[model] for end in ends])) for model in ends[0]}


def judged(found: Mapping[str, Any], ends: Mapping[str, float]) -> list[float]:
    """One run in the columns of the table; chances and yes or no between 0 and 1."""
    best = max(ends.values())
    good = [ends[row["name"]] >= best - POINTS for row in found["models"]]
    listed = [row["shortlist"] for row in found["models"]]
    return [
        float(bool(found["caution"])),
        found["models"][0]["within"],
        float(good[0]),
        found["expected_regret"],
        best - ends[found["models"][0]["name"]],
        float(sum(listed)),
        float(any(a and b for a, b in zip(good, listed, strict=True))),
    ]


def rows(lines: Sequence[Mapping[str, Any]], ends: Mapping[str, float]) -> Iterator[str]:
    """A row a number of splits: means over seeds."""
    for splits in SPLITS:
        mine = [each for each in lines if each.get("splits") == splits]
        if mine:
            means = np.mean([judged(each, ends) for each in mine], axis=0)
            shares = [f"{100 * value:.0f} %" for value in means]
            cells = [*shares[:3], *(f"{value:.1f}" for value in means[3:6]), shares[6]]
            yield f"| {splits} | {mine[0]['images']} | {len(mine)} | {' | '.join(cells)} |"


def table(lines: Sequence[Mapping[str, Any]], ends: Mapping[str, float]) -> str:
    """All runs."""
    head = [
        "| splits | images | seeds | says so | within a point: stated | true | expected loss "
        "| true | shortlist | holds one |",
        "|---" * 10 + "|",
    ]
    return "\n".join([*head, *rows(lines, ends)])


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_bool("build", False, "Make the runs instead of reading them.")
    flags.DEFINE_string("shared", "../shared/data", "Folder that holds birds/birds6.")
    flags.DEFINE_string("work_dir", "runs/few_images_live", "Folder of the runs.")


def main(argv: list[str]) -> None:
    """Make the runs, or print their table."""
    del argv
    if FLAGS.build:
        caching.keep_compiled_programs()
        build()
    lines = corpus_lines()
    print(f"{json.dumps(facts.describe(), default=str)}\n\n{table(lines, truth(lines))}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
