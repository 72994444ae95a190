"""Fully fine-tune pools of pretrained models on real sets, recording every early signal.

    python -m experiments.build_corpus --pool=embedded --sets=digits,fashion_mnist,birds6
    python -m experiments.build_corpus --pool=genuine --sets=birds6,fashion_mnist,cifar10
    python -m experiments.build_corpus --pool=genuine --sets=large --seeds=0
    python -m experiments.build_corpus --pack

Each (model, set, seed) has its folder `<work_dir>/<pool>/<set>/<model>/seed<k>` with one file a
run and one with the transferability scores. What is there, or in the corpus, is not done again:
the command resumes where it was stopped, and several of them can share a folder (`--seeds`).
`--pack` adds what is complete to experiments/corpus (`experiments.corpus_files` has the format).

On the small sets four runs each; on the large ones the first or the second alone, at the rate that
suits the model on other data (`ncap_jax.finetune.learning_rates`), without beta_eff, which costs as
much as the training there. Adam at a constant rate, batches of 32:

    linear, linear_low   ordinary fine-tuning to the end at 1e-3 and 3e-4: the truth, and the
                         early signals of head=linear (from the first)
    probe                the paper's frozen probe: of seed 0 to the same end, else the early epochs
    trainable_probe      the early epochs

The genuine pool also has the early epochs at 3e-4 (linear_low, trainable_probe_low). All its sets
are brought to squares of 40 pixels first, and the small ones to one number of images, so that one
compilation of a model serves all sets of as many classes.

`--sets=large` are all large ones (`experiments.corpus_sets`) that suit the pool. The embedded pool
is not run on parts of cifar10, on which it was pretrained, nor the CIFAR ResNets; nor on the 525
species one by one, of which it learns nothing in 20 epochs.
The data are the same for all seeds; a seed draws heads, probes and the order of batches.

Expected: about 1 CPU minute per (model, set, seed) of the embedded pool, half as much on the large
sets; see docs/results/early-signals.md.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

from experiments import corpus_files, corpus_sets
from ncap_jax import caching
from ncap_jax.data.feed import Feed
from ncap_jax.data.feeding import make_feed
from ncap_jax.files import write_atomically
from ncap_jax.finetune import learning_rates, loop, trajectory_files
from ncap_jax.finetune.evaluation import untouched_features
from ncap_jax.measure import training
from ncap_jax.options import RankConfig
from ncap_jax.predictor.scores import SCORES
from ncap_jax.run import facts
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS

RATES = {
    "probe": 1e-3,
    "trainable_probe": 1e-3,
    "trainable_probe_low": 3e-4,
    "linear": 1e-3,
    "linear_low": 3e-4,
}
# Of the large sets: the product's default ranks by the fifth epoch.
LARGE_EARLY = 5
KINDS = ("probe", "trainable_probe", "linear", "linear_low")
# Published models whose weights lie in ../shared/data, without the costliest on a CPU.
GENUINE = (
    "mobilenet_025",
    "mobilenet_075",
    "mobilenet_12blocks",
    "mobilenetv2",
    "squeezenet",
    "mobilenet_025_folded",
    "mobilenet_050_folded",
    "mobilenet_075_folded",
    "mobilenet_folded",
    "mobilenetv2_folded*",
    "cifar_resnet20",
    "cifar_resnet32",
)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Which models are trained, how, and on what images.

    `early`: epochs from which the early signals are taken. `rates`: whether early signals are also
    taken at the lower rate. `side`: of the squares to which all images are brought. `images` and
    `classes`: at most this many; of the classes the first ones.
    """

    models: tuple[str, ...]
    batch_size: int
    epochs: int
    early: int
    largest_input: int
    rates: bool = False
    side: int | None = None
    images: int | None = None
    classes: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The runs of each (model, set, seed)."""
        return (*KINDS, "trainable_probe_low") if self.rates else KINDS

    @property
    def cut(self) -> dict[str, int | None]:
        """What `corpus_sets.load` is told."""
        return {"side": self.side, "images": self.images, "classes": self.classes}


POOLS = {
    "embedded": Pool(("tiny_*",), batch_size=32, epochs=20, early=10, largest_input=32),
    "genuine": Pool(
        GENUINE,
        batch_size=32,
        epochs=10,
        early=5,
        largest_input=40,
        rates=True,
        side=40,
        images=256,
        classes=85,
    ),
}
# Pretrained on it: no target.
SOURCES = {"tiny": ("cifar10",), "cifar_resnet": ("cifar10",)}


def sets_of(names: Sequence[str], pool: str) -> list[str]:
    """The names of sets; `large` stands for all large ones that suit the pool."""
    large = [
        name
        for name, each in corpus_sets.SETS.items()
        if each.large
        and (pool == "genuine" or (each.source != "cifar10" and not name.startswith("birds525")))
    ]
    return [each for name in names for each in (large if name == "large" else [name])]


def kinds_of(name: str, pool: Pool, spec: ModelSpec) -> tuple[str, ...]:
    """The runs of a model on a set, for each seed."""
    if not corpus_sets.SETS[name].large:
        return pool.kinds
    rate = learning_rates.known_rate(spec, RankConfig()) or RATES["linear"]
    return tuple(kind for kind in corpus_files.TRUTHS if RATES[kind] == rate)


def early_epochs(name: str, pool: Pool) -> int:
    """Epochs from which the early signals of a set are taken."""
    return LARGE_EARLY if corpus_sets.SETS[name].large else pool.early


def last_epoch(kind: str, pool: Pool, seed: int) -> int:
    """How long a run is: the truth to its end, of the probes only one to see where they end."""
    full = kind in corpus_files.TRUTHS or (kind == "probe" and seed == 0)
    return pool.epochs if full else pool.early


def configs(
    spec: ModelSpec, pool: Pool, seed: int, *, beta_eff: str = "every_epoch"
) -> dict[str, RankConfig]:
    """Kind of run -> its configuration."""
    common = RankConfig(
        seed=seed,
        probe_seed=seed,
        trial_rates=(),
        batch_size=pool.batch_size,
        input_size=min(spec.input_size, pool.largest_input),
        weights_dir=FLAGS.weights_dir,
        epochs=pool.epochs,
        beta_eff=beta_eff,
    )
    return {
        kind: dataclasses.replace(
            common,
            head=head,
            learning_rate=RATES[kind],
            epochs=last_epoch(kind, pool, seed),
        )
        for kind, head in corpus_files.HEADS.items()
        if kind in pool.kinds
    }


def observed(name: str, kind: str, pool: Pool, config: RankConfig) -> frozenset[int]:
    """Epochs that are measured: the early ones, then now and then, and the end.

    Evaluation costs as much as training here.
    """
    early = set(range(early_epochs(name, pool) + 1))
    if corpus_sets.SETS[name].large:
        return frozenset({config.epochs} | early)
    late = {config.epochs, config.epochs - 5}
    only_the_end = kind == "linear_low" and not pool.rates
    return frozenset(late if only_the_end else late | early)


def run(spec: ModelSpec, feed: Feed, config: RankConfig, epochs: frozenset[int]) -> list[dict]:
    """One run: the fields of its records, and the CPU seconds since its start.

    CPU seconds of all threads: wall time means nothing on a machine that others use.
    """
    start = time.process_time()
    tuning = training.start(spec, feed, config)
    return [
        # Compilation, and the epochs between two records, are in `cpu`.
        {**trajectory_files.to_json(record), "cpu": time.process_time() - start}
        for record in loop.run(tuning, epochs)
    ]


def scores(
    spec: ModelSpec, feed: Feed, config: RankConfig, wanted: Collection[str] = tuple(SCORES)
) -> dict[str, dict[str, float]]:
    """Transferability scores of the untouched model's features of the training part."""
    start = time.process_time()
    features, labels = untouched_features(
        spec, feed, dataclasses.replace(config, measure_size=len(feed.labels))
    )
    x, y = np.asarray(features), np.asarray(labels)
    extraction = time.process_time() - start
    found = {}
    for name in wanted:
        score = SCORES[name]
        # The embedded models and most genuine files come without their classifier.
        if score.needs == "features" and not (name == "linear_probe" and feed.num_classes > 100):
            start = time.process_time()
            value = float(score(x, y))
            found[name] = {"value": value, "seconds": extraction + time.process_time() - start}
    return found


def missing(folder: pathlib.Path, kinds: Sequence[str]) -> Iterator[str]:
    """Parts of one (model, set, seed) that are not done."""
    for part in ("scores", *kinds):
        if not (folder / f"{part}.json").is_file():
            yield part


def build(name: str, feed: Feed, spec: ModelSpec, seed: int) -> None:
    """Make what is missing of one (model, set, seed)."""
    pool = POOLS[FLAGS.pool]
    large = corpus_sets.SETS[name].large
    kinds = configs(spec, pool, seed, beta_eff="off" if large else "every_epoch")
    folder = pathlib.Path(FLAGS.work_dir, FLAGS.pool, name, spec.name, f"seed{seed}")
    for part in missing(folder, kinds_of(name, pool, spec)):
        start = time.perf_counter()
        result: Any
        if part == "scores":
            result = scores(spec, feed, kinds["linear"])
        else:
            result = run(spec, feed, kinds[part], observed(name, part, pool, kinds[part]))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{part}.json", json.dumps(result, allow_nan=False))
        seconds = time.perf_counter() - start
        logging.info("%s %s seed %d %s: %.0f s", name, spec.name, seed, part, seconds)


def corpus_file(pool: str, name: str) -> pathlib.Path:
    """Where the corpus keeps one pool on one set."""
    return corpus_files.folder(corpus_sets.SETS[name].large) / f"{name}_{pool}.jsonl"


def pack(work_dir: pathlib.Path) -> None:
    """Add what is complete to the compact corpus, and describe it in the manifests."""
    for large in (False, True):
        folders = [
            folder
            for folder in sorted(work_dir.glob("*/*"))
            if corpus_sets.SETS[folder.name].large == large
        ]
        if folders:
            _pack(folders, corpus_files.folder(large) / corpus_files.MANIFEST)


def _pack(folders: Sequence[pathlib.Path], file: pathlib.Path) -> None:
    """Pack folders `<pool>/<set>` whose manifest is `file`."""
    manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for folder in folders:
        pool, name = folder.parent.name, folder.name
        target = corpus_file(pool, name)
        lines = {(entry["model"], entry["seed"]): entry for entry in corpus_files.read(target)}
        found = {spec.name: spec for spec in find_models(POOLS[pool].models)}
        for cell in sorted(folder.glob("*/seed*")):
            model, seed = cell.parent.name, int(cell.name.removeprefix("seed"))
            if model not in found:
                continue
            kinds = kinds_of(name, POOLS[pool], found[model])
            if not list(missing(cell, kinds)):
                lines[model, seed] = line(cell, kinds, model, seed, found[model].parameters)
        if lines:
            entries = [lines[key] for key in sorted(lines)]
            text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
            write_atomically(target, text)
            manifest[target.name] = {
                "models": len({entry["model"] for entry in entries}),
                "seeds": sorted({entry["seed"] for entry in entries}),
                "pool": dataclasses.asdict(POOLS[pool]),
                "data": dataclasses.asdict(corpus_sets.SETS[name]),
                "learning_rates": RATES,
            }
    manifest["environment"] = facts.describe()
    write_atomically(file, json.dumps(manifest, indent=1, default=str) + "\n")


def line(
    cell: pathlib.Path, kinds: Sequence[str], model: str, seed: int, parameters: int | None
) -> dict[str, Any]:
    """One line of the corpus from the files of a (model, set, seed)."""
    parts = {path.stem: json.loads(path.read_text()) for path in cell.glob("*.json")}
    found = parts.pop("scores")
    runs = {kind: corpus_files.compact(parts[kind]) for kind in kinds}
    return {"model": model, "seed": seed, "parameters": parameters, "scores": found, "runs": runs}


def define_places(work_dir: str) -> None:
    """The flags that every builder of a corpus has.

    Args:
        work_dir: default of the flag of that name.
    """
    flags.DEFINE_string("shared", "../shared/data", "Folder with the sets and the weights.")
    flags.DEFINE_string("weights_dir", "../shared/data/weights", "Folder with the weight files.")
    flags.DEFINE_string("work_dir", work_dir, "Where the runs are kept.")
    flags.DEFINE_bool("pack", False, "Only gather what is complete into experiments/corpus.")


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_enum("pool", "embedded", list(POOLS), "Which models.")
    flags.DEFINE_list("models", [], "Only these names or patterns of the pool.")
    flags.DEFINE_list("sets", ["digits", "fashion_mnist", "birds6"], "On which sets.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Which seeds.")
    define_places("runs/corpus")


def main(argv: list[str]) -> None:
    """Build what is missing, or pack what is there."""
    del argv
    if FLAGS.pack:
        pack(pathlib.Path(FLAGS.work_dir))
        return
    caching.keep_compiled_programs()
    specs = find_models(FLAGS.models or POOLS[FLAGS.pool].models)
    shared, pool = pathlib.Path(FLAGS.shared), POOLS[FLAGS.pool]
    names = sets_of(FLAGS.sets, FLAGS.pool)
    feeds = {name: make_feed(corpus_sets.load(name, shared, **pool.cut)) for name in names}
    packed = {name: corpus_files.read(corpus_file(FLAGS.pool, name)) for name in names}
    done = {(name, e["model"], e["seed"]) for name, entries in packed.items() for e in entries}
    for seed in map(int, FLAGS.seeds):
        for name, feed in feeds.items():
            for spec in specs:
                source = corpus_sets.source_of(name) in SOURCES.get(spec.family, ())
                if not source and (name, spec.name, seed) not in done:
                    build(name, feed, spec, seed)


if __name__ == "__main__":
    define_flags()
    app.run(main)
