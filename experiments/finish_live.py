"""Is finishing the first two as good as finishing everything? Live, to convergence, on test images.

    python -m experiments.finish_live --build
    python -m experiments.finish_live

The first ranks four models with published weights and finishes them through the product, on three
sets and from three seeds; it resumes where it was stopped. The second reads what the first wrote.

Of each set 256 images at most train, at 40 pixels, and 256 at most validate; the sets' own test
parts judge. `birds6_unequal` has between 10 and 100 images a class to train and validate on; its
test part is that of `birds6`, with as many images of every class, so that its accuracy is the
balanced one. `ncap.rank_models` runs 5 epochs. `ncap.finish` is then called for the first model,
the first two and all four, in the same folder: each call adds to what the one before has finished,
so that all compare the same trained models. Then the first model is finished again, in copies of
the folder, with one default changed.

Seconds are CPU seconds of all threads, compilation included: wall time means nothing on a machine
that others use.

Expected result: experiments/tables/finish_live.md; what follows: docs/results/finish.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

import ncap_jax as ncap
from experiments import corpus_files
from ncap_jax import caching
from ncap_jax.files import write_atomically
from ncap_jax.finetune import trajectory_files
from ncap_jax.run import facts

FLAGS = flags.FLAGS

FILE = corpus_files.FOLDER / "finish_live.jsonl"
MODELS = ("mobilenet_025", "mobilenet_025_folded", "mobilenet_050_folded", "mobilenet_075")
SEEDS = (0, 1, 2)
EPOCHS, SIDE, IMAGES = 5, 40, 256
SETS: Mapping[str, ncap.DataConfig] = {
    "birds6": ncap.DataConfig(
        max_train=IMAGES, max_validation=IMAGES, image_size=64, validation_fraction=0.4
    ),
    "fashion_mnist": ncap.DataConfig(max_train=IMAGES, max_validation=IMAGES),
    "birds6_unequal": ncap.DataConfig(image_size=64, validation_fraction=0.4),
}
# Images of each class of `birds6_unequal`, in the order of the classes' names.
UNEQUAL = (100, 60, 36, 20, 12, 10)
TOPS = (1, 2, len(MODELS))
DEFAULTS = "defaults"
# One default of `ncap.FinishConfig` changed.
CHANGED: Mapping[str, Mapping[str, Any]] = {
    "augment=off": {"augment": "off"},
    "schedule=constant": {"schedule": "constant"},
    "schedule=plateau": {"schedule": "plateau"},
    "patience=5": {"patience": 5},
    "max_epochs=12": {"max_epochs": 12},
    "warmup_epochs=2": {"warmup_epochs": 2},
    "freeze_stages=2": {"freeze_stages": 2},
    "class_weights=balanced": {"class_weights": "balanced"},
}


# ---- runs ---------------------------------------------------------------------------------------


def source(name: str) -> str:
    """What `ncap.rank_models` is given for a set."""
    birds = pathlib.Path(FLAGS.shared, "birds", "birds6")
    if name == "birds6_unequal":
        return str(unequal(birds, pathlib.Path(FLAGS.work_dir, "data", name)))
    return str(birds) if name == "birds6" else name


def unequal(birds: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Copy a set of images with fewer and fewer of each class to train on; the folder."""
    if not folder.is_dir():
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(birds / "test", half / "test")
        classes = sorted(path for path in (birds / "train").iterdir() if path.is_dir())
        for images, path in zip(UNEQUAL, classes, strict=True):
            (half / "train" / path.name).mkdir(parents=True)
            for image in sorted(path.iterdir())[:images]:
                shutil.copy(image, half / "train" / path.name)
        half.rename(folder)
    return folder


def rank(name: str, seed: int, folder: pathlib.Path) -> ncap.Ranking:
    """Rank the models on a set."""
    shared = pathlib.Path(FLAGS.shared)
    config = ncap.RankConfig(
        epochs=EPOCHS,
        seed=seed,
        input_size=SIDE,
        beta_eff="off",
        strategy="full",
        weights_dir=str(shared / "weights"),
        keep_states=len(MODELS),
    )
    data_config = dataclasses.replace(SETS[name], data_dir=str(shared / "tfds"))
    return ncap.rank_models(
        MODELS, source(name), config, folder, data_config=data_config, show_progress=False
    )


def finish(folder: pathlib.Path, top: int, **changed: Any) -> dict[str, Any]:
    """Finish the first models of a run; which of them won, and how good it is."""
    start = time.process_time()
    winner = ncap.finish(folder, top, ncap.FinishConfig(**changed), show_progress=False)
    return {
        "top": top,
        "model": winner.name,
        "validation": winner.validation_accuracy,
        "test": winner.test_accuracy,
        "cpu": round(time.process_time() - start, 1),
    }


def curve(folder: pathlib.Path, model: str) -> list[float]:
    """A finished model's validation accuracies, the ranking's first."""
    records = trajectory_files.read(folder / "finish" / "trajectories" / f"{model}.jsonl")
    return [round(record.validation_accuracy, 5) for record in records]


def ranked(name: str, seed: int) -> tuple[pathlib.Path, list[str], float]:
    """The folder of a ranking, its models in order, the CPU seconds that it took."""
    folder = pathlib.Path(FLAGS.work_dir, name, f"seed{seed}")
    clock = folder.with_suffix(".json")
    start = time.process_time()
    models = [row.name for row in rank(name, seed, folder).models]
    if not clock.is_file():  # a ranking that is there already takes no time
        write_atomically(clock, json.dumps(time.process_time() - start))
    return folder, models, json.loads(clock.read_text(encoding="utf-8"))


def run(name: str, seed: int, way: str) -> dict[str, Any]:
    """One line: the defaults with every number of models, or one change with the first model."""
    run_folder, models, seconds = ranked(name, seed)
    folder = run_folder.with_name(f"seed{seed}, {way}")
    shutil.rmtree(folder, ignore_errors=True)  # half done: its seconds are not known
    shutil.copytree(run_folder, folder)
    tops = TOPS if way == DEFAULTS else (1,)
    return {
        "set": name,
        "seed": seed,
        "way": way,
        "ranking": models,
        "rank_cpu": round(seconds, 1),
        "finished": [finish(folder, top, **CHANGED.get(way, {})) for top in tops],
        "curves": {model: curve(folder, model) for model in models[: tops[-1]]},
    }


def build(ways: Sequence[str]) -> None:
    """Append every line that the file does not hold yet."""
    caching.keep_compiled_programs()
    for way, seed, name in itertools.product(ways, SEEDS, SETS):
        if (name, seed, way) in {(line["set"], line["seed"], line["way"]) for line in read()}:
            continue
        line = run(name, seed, way)
        with FILE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        print(f"{name}, seed {seed}, {way}: {line['finished']}", flush=True)


def read() -> list[dict[str, Any]]:
    """The lines of the file."""
    if not FILE.is_file():
        return []
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


# ---- what is printed ----------------------------------------------------------------------------


def runs_table(lines: Sequence[dict[str, Any]]) -> str:
    """Every run under the defaults: who won, validation and test accuracy."""
    out = [
        "| set | seed | finish one | finish two | finish all four |",
        "|---|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda line: (line["set"], line["seed"])):
        if line["way"] == DEFAULTS:
            cells = [
                f"{one['model']}: {100 * one['validation']:.1f}, {100 * one['test']:.1f}"
                for one in line["finished"]
            ]
            out.append(f"| {line['set']} | {line['seed']} | {' | '.join(cells)} |")
    return "\n".join(out)


def means_table(lines: Sequence[dict[str, Any]]) -> str:
    """Set by set: test accuracy, points behind finishing everything, epochs, CPU seconds."""
    out = [
        "| set | way | test accuracy | behind all four | largest | epochs | CPU seconds |",
        "|---" * 7 + "|",
    ]
    for name in SETS:
        chosen = [line for line in lines if line["set"] == name and line["way"] == DEFAULTS]
        for i, words in enumerate(("finish one", "finish two", "finish all four")):
            tests = np.array([[one["test"] for one in line["finished"]] for line in chosen])
            behind = 100 * (tests[:, -1] - tests[:, i])
            cells = [
                f"{100 * tests[:, i].mean():.1f}",
                f"{behind.mean():.1f}",
                f"{behind.max():.1f}",
                f"{np.mean([epochs(line, TOPS[i]) for line in chosen]):.0f}",
                f"{np.mean([cpu(line, i) for line in chosen]):.0f}",
            ]
            out.append(f"| {name} | {words} | {' | '.join(cells)} |")
    return "\n".join(out)


def epochs(line: dict[str, Any], top: int) -> int:
    """Epochs of all models, the ranking's and those of the finish."""
    longer = [len(line["curves"][model]) - 1 - EPOCHS for model in line["ranking"][:top]]
    return len(MODELS) * EPOCHS + sum(longer)


def cpu(line: dict[str, Any], i: int) -> float:
    """CPU seconds of the ranking and of the calls of finish up to the i-th."""
    return line["rank_cpu"] + sum(one["cpu"] for one in line["finished"][: i + 1])


def changes_table(lines: Sequence[dict[str, Any]]) -> str:
    """The first model finished with one default changed, against the defaults."""
    out = [
        "| set | changed | seeds | test accuracy | with the defaults | gained by the default |",
        "|---" * 6 + "|",
    ]
    by_key = {(line["set"], line["seed"], line["way"]): line for line in lines}
    for name in SETS:
        for way in CHANGED:
            seeds = [seed for seed in SEEDS if (name, seed, way) in by_key]
            if not seeds:
                continue
            changed, default = (
                np.array([by_key[name, seed, each]["finished"][0]["test"] for seed in seeds])
                for each in (way, DEFAULTS)
            )
            gains = 100 * (default - changed)
            spread = f" ({gains.min():.1f} to {gains.max():.1f})"
            out.append(
                f"| {name} | {way} | {len(seeds)} | {100 * changed.mean():.1f} "
                f"| {100 * default.mean():.1f} | {gains.mean():.1f}{spread} |"
            )
    return "\n".join(out)


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"{means_table(lines)}\n\n{runs_table(lines)}\n\n{changes_table(lines)}")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_bool("build", False, "Make the runs that are missing, then print.")
    flags.DEFINE_list("ways", [DEFAULTS, *CHANGED], "Which ways are run.")
    flags.DEFINE_string("work_dir", "runs/finish_live", "Where the runs are kept.")
    flags.DEFINE_string("shared", "../shared/data", "Folder with the sets and the weights.")


def main(argv: list[str]) -> None:
    """Build what is missing if asked to, then print the tables."""
    del argv
    logging.set_verbosity(logging.WARNING)  # orbax tells of every checkpoint
    if FLAGS.build:
        build(FLAGS.ways)
    print(f"{json.dumps(facts.describe(), default=str)}\n")
    show(read())


if __name__ == "__main__":
    define_flags()
    app.run(main)
