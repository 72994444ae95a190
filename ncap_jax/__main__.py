"""Rank pretrained models on a data set: which one should be fine-tuned?

    python -m ncap_jax
    python -m ncap_jax --models='tiny_*' --dataset=digits --epochs=5 --output_dir=runs/mine
    python -m ncap_jax --models=mobilenet,resnet50 --dataset=path/to/images --epochs=5

With no flag it ranks the embedded pretrained models on scikit-learn's handwritten digits,
offline. Results go to --output_dir: ranking.json, ranking.csv, report.html, run.json and one
trajectory per model. Exit code 0: at least one model is ranked; 2: bad input; 3: none is;
130: interrupted; the same command with the same --output_dir goes on.

    python -m ncap_jax --rerun=runs/mine/run.json

repeats a run and compares. Exit code 0: the same came out; 1: something else did.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
from typing import Any

from absl import app, flags, logging

from ncap_jax import errors
from ncap_jax.types import HEADS, DataConfig, RankConfig

FLAGS = flags.FLAGS
DEFAULT, DATA = RankConfig(), DataConfig()
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

flags.DEFINE_list("models", ["tiny_*"], "Names or patterns of models, comma-separated.")
flags.DEFINE_string(
    "dataset", "digits", "A data set's name, an image folder, or a CSV file of path,label."
)
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data lies (default: TFDS's own).")
flags.DEFINE_float(
    "validation_fraction", DATA.validation_fraction, "Split off training where a set has no other."
)
flags.DEFINE_integer("max_train", None, "At most this many training samples, stratified.")
flags.DEFINE_integer("max_validation", None, "At most this many validation samples, stratified.")
flags.DEFINE_integer("image_size", None, "Side in pixels at which image files are kept.")
flags.DEFINE_bool("skip_broken", DATA.skip_broken, "Leave out and report unreadable files.")
flags.DEFINE_bool("remap_labels", DATA.remap_labels, "Number labels that have gaps afresh.")
flags.DEFINE_bool("stream", None, "Decode while training instead of holding all in memory.")
flags.DEFINE_string("output_dir", None, "Where results go (default: runs/<dataset>, numbered).")
flags.DEFINE_bool("tensorboard", False, "Write TensorBoard scalars under --output_dir as well.")
flags.DEFINE_string("rerun", None, "Repeat the run of this run.json, and compare the results.")
flags.DEFINE_bool("distributed", False, "One of several processes (jax.distributed); see --mesh.")
flags.DEFINE_bool("list_models", False, "Print the known models and stop.")
flags.DEFINE_integer("epochs", DEFAULT.epochs, "Fine-tuning epochs per model.")
flags.DEFINE_enum("head", DEFAULT.head, HEADS, "What stands on the backbone and what trains.")
flags.DEFINE_integer("seed", DEFAULT.seed, "Seed of the order of batches and of trained heads.")
flags.DEFINE_integer("probe_seed", DEFAULT.probe_seed, "Seed of the probe's weights.")
flags.DEFINE_integer("batch_size", DEFAULT.batch_size, "Samples a step.")
flags.DEFINE_string("optimizer", DEFAULT.optimizer, "adam or sgd (momentum 0.9).")
flags.DEFINE_float("learning_rate", DEFAULT.learning_rate, "Constant learning rate.")
flags.DEFINE_list(
    "trial_rates", None, "Other rates, tried for an epoch (default: 3e-4; none: --trial_rates=)."
)
flags.DEFINE_integer("measure_size", DEFAULT.measure_size, "Samples that measure beta_eff.")
flags.DEFINE_list("probe_widths", [str(w) for w in DEFAULT.probe_widths], "Hidden widths, >= 3.")
flags.DEFINE_integer("num_probes", DEFAULT.num_probes, "Independent probes over one backbone.")
flags.DEFINE_string("predictor", DEFAULT.predictor, "The method that ranks.")
flags.DEFINE_string("dtype", DEFAULT.dtype, "Fine-tuning arithmetic: float32 or bfloat16.")
flags.DEFINE_integer("input_size", None, "Side of the input in pixels (default: the model's).")
flags.DEFINE_string("augment", DEFAULT.augment, "off, or recommended for the data set.")
flags.DEFINE_string("strategy", DEFAULT.strategy, "full, or halving: stop hopeless models early.")
flags.DEFINE_integer("halving_top", DEFAULT.halving_top, "Halving keeps who may be one of these.")
flags.DEFINE_float(
    "halving_threshold", DEFAULT.halving_threshold, "Halving stops models with less chance of it."
)
flags.DEFINE_float("time_budget", None, "Seconds for all models of this call, divided over them.")
flags.DEFINE_float("model_time_budget", None, "Seconds that one model may take in this call.")
flags.DEFINE_integer("epochs_budget", None, "Epochs of all models together.")
flags.DEFINE_string("executor", DEFAULT.executor, "local, processes (one a device), or ray.")
flags.DEFINE_integer("workers", None, "Worker processes (default: a GPU or two cores each).")
flags.DEFINE_string("mesh", None, "Divide every batch over so many devices: data:8.")
flags.DEFINE_string("ray_address", None, "An existing Ray cluster (default: one on this machine).")
flags.DEFINE_string("weights_dir", None, "Folder with weight files under their published names.")
flags.DEFINE_string("weights", DEFAULT.weights, "pretrained, or random (from scratch).")


def flag_values(record: type) -> dict[str, Any]:
    """The flags of a record's fields: every field has a flag of its name."""
    return {field.name: FLAGS[field.name].value for field in dataclasses.fields(record)}


def config_from_flags() -> RankConfig:
    """The RankConfig that the flags spell.

    Raises:
        ConfigError: probe widths that are not whole numbers, or rates that are no numbers.
    """
    values = flag_values(RankConfig)
    for name, kind, what, example in (
        ("probe_widths", int, "whole numbers", "256,128,64"),
        ("trial_rates", float, "numbers", "3e-4,1e-4"),
    ):
        words: list[str] | None = values[name]
        try:
            values[name] = None if words is None else tuple(kind(word) for word in words)
        except ValueError:
            raise errors.ConfigError(
                f"{name}={','.join(words or ())} are not {what}", f"Write them like {example}"
            ) from None
    return RankConfig(**values)


def free_folder(first: pathlib.Path) -> pathlib.Path:
    """A folder, or the first of <folder>-2, -3, ... that is not there yet."""
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def main(argv: list[str]) -> int:
    """Run the main job; returns the exit code."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries announce every backend they lack
    try:
        if len(argv) > 1:
            raise errors.ConfigError(
                f"unexpected argument {argv[1]!r}", "Options are written --name=value"
            )
        if FLAGS.list_models:
            return list_models()
        return rank() if FLAGS.rerun is None else rerun()
    except errors.NcapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def rank() -> int:
    """Rank as the flags say, print the table, say where the files are."""
    from ncap_jax import api
    from ncap_jax.finetune import parallel

    if FLAGS.distributed:
        parallel.join()
    name = pathlib.Path(FLAGS.dataset).name or "data"
    folder = pathlib.Path(FLAGS.output_dir or free_folder(pathlib.Path("runs") / name))
    scalars = folder / "tensorboard" if FLAGS.tensorboard else None
    data_config = DataConfig(**flag_values(DataConfig))
    try:
        ranking = api.rank_models(
            FLAGS.models,
            FLAGS.dataset,
            config_from_flags(),
            folder,
            data_config=data_config,
            tensorboard=scalars,
        )
    except KeyboardInterrupt:
        hint = f"; with --output_dir={shlex.quote(str(folder))} the same command goes on"
        print(f"\ninterrupted{hint if folder.exists() else ''}", file=sys.stderr)
        return INTERRUPTED
    if not parallel.first():
        return 0
    print(ranking)
    print(f"\nReport: {folder / 'report.html'}")
    if scalars is not None:
        print(f"Scalars: tensorboard --logdir={shlex.quote(str(scalars))}")
    failed = [model for model in ranking.models if model.rank is None]
    if failed:
        print(
            f"warning: {len(failed)} of {len(ranking.models)} models could not be ranked: "
            + "; ".join(f"{m.name} ({m.status})" for m in failed),
            file=sys.stderr,
        )
    return 3 if len(failed) == len(ranking.models) else 0


def rerun() -> int:
    """Repeat a run and say how the results compare."""
    from ncap_jax import rerun as job

    fields = {
        field.name for record in (RankConfig, DataConfig) for field in dataclasses.fields(record)
    }
    given = sorted(n for n in ("models", "dataset", "tensorboard", *fields) if FLAGS[n].present)
    if given:
        raise errors.ConfigError(
            f"--{given[0]} with --rerun, which repeats a run as it was",
            "Leave it out; only --output_dir goes with --rerun",
        )
    original = job.read_recipe(FLAGS.rerun).folder.resolve()
    folder = FLAGS.output_dir or free_folder(original.with_name(f"{original.name}-rerun"))
    comparison = job.rerun(FLAGS.rerun, folder)
    print(f"{comparison}\n\nRerun: {folder}")
    return 0 if comparison.equal else 1


def list_models() -> int:
    """Print the registry."""
    from ncap_jax.report.console import format_models
    from ncap_jax.zoo import MODELS

    print(format_models(list(MODELS.values())))
    return 0


def parse(arguments: list[str]) -> list[str]:
    """The arguments that are no flags; a wrong flag is bad input like any other."""
    try:
        return FLAGS(arguments)
    except flags.Error as error:
        print(f"error: {error}\n--help lists the flags.", file=sys.stderr)
        sys.exit(2)


def console() -> None:
    """Entry point of the installed command."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    console()
