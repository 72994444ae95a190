"""Add a transferability score to runs that were packed before it existed.

    python -m experiments.add_scores --score=nearest_neighbours

Of every line of experiments/corpus, its large sets and its long lists that lacks the score, the
untouched model's features are computed again, without any fine-tuning. Where the other scores do
not depend on the seed, which then decides nothing, one model serves all seeds. A file is written
once all its lines are done, and the same command continues.

Expected: ten minutes of one core for all files.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging

from experiments import build_corpus, build_long_lists, corpus_files, corpus_sets
from ncap_jax import caching
from ncap_jax.data.feeding import make_feed
from ncap_jax.options import RankConfig
from ncap_jax.predictor.scores import SCORES
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS


class File(NamedTuple):
    """A packed file, and how its runs were made.

    `cut`: see `build_corpus.Pool.cut`. `config`: (spec, seed) -> of a run.
    """

    path: pathlib.Path
    data: str
    cut: dict[str, int | None]
    specs: Sequence[ModelSpec]
    config: Callable[[ModelSpec, int], RankConfig]


def packed(weights_dir: str) -> Iterator[File]:
    """All files that have scores."""
    for name, pool in build_corpus.POOLS.items():
        specs = find_models(pool.models)
        for data in corpus_sets.SETS:

            def config(spec: ModelSpec, seed: int, pool: build_corpus.Pool = pool) -> RankConfig:
                return build_corpus.configs(spec, pool, seed)["linear"]

            yield File(build_corpus.corpus_file(name, data), data, pool.cut, specs, config)
    for data in corpus_sets.SETS:
        yield File(
            build_long_lists.packed(data),
            data,
            {"side": build_long_lists.SIDE},
            build_long_lists.candidates(),
            lambda spec, seed: build_long_lists.config_of(spec, seed, weights_dir),
        )


def seeded(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the scores of one model on one set differ between seeds."""
    return len({tuple(score["value"] for score in x["scores"].values()) for x in lines}) > 1


def add(file: File, score: str, shared: pathlib.Path) -> int:
    """Add the score to the lines that lack it; returns to how many."""
    lines = corpus_files.lines_of(file.path)
    lacking = [line for line in lines if score not in line["scores"]]
    if not lacking:
        return 0
    feed = make_feed(corpus_sets.load(file.data, shared, **file.cut))
    for spec in file.specs:
        mine = [line for line in lacking if line["model"] == spec.name]
        for alike in [[line] for line in mine] if seeded(mine) else filter(None, [mine]):
            config = file.config(spec, alike[0]["seed"])
            found = build_corpus.scores(spec, feed, config, [score])
            for line in alike:
                line["scores"] = {**line["scores"], **found}
        logging.info("%s: %s", file.path.name, spec.name)
    corpus_files.add(file.path, lacking, ("model", "seed"))
    return len(lacking)


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_enum("score", None, list(SCORES), "Which score.", required=True)
    flags.DEFINE_string("shared", "../shared/data", "Folder with the sets and the weights.")
    flags.DEFINE_string("weights_dir", "../shared/data/weights", "Folder with the weight files.")


def main(argv: list[str]) -> None:
    """Go through all files."""
    del argv
    caching.keep_compiled_programs()
    for file in packed(FLAGS.weights_dir):
        if count := add(file, FLAGS.score, pathlib.Path(FLAGS.shared)):
            print(f"{file.path.name}: {count} lines", flush=True)


if __name__ == "__main__":
    define_flags()
    app.run(main)
