"""The paper's experiment: 17 ImageNet models, five data sets, ranked from their first epochs.

    python -m experiments.reproduce_paper --data_dir=... --birds=... --weights_dir=...
    python -m experiments.reproduce_paper --check_only

It uses the weights and the data that are there. Before it starts, it lists what is missing, with
the file name or the command that provides it (`--check_only` stops there); then it runs the rest.
Every (set, seed, head, model) is a run of `rank_models` in a folder of its own under
`<output_dir>/runs`. The same command, given again, trains only what is not there yet: what was
missing can be added later. The report, `<output_dir>/report.md` with its figures, is made from all
that is there: β_eff against validation accuracy by epoch; predicted against final accuracy; top-k
relative accuracy against the rivals; the effect of the starting epoch, of the number of epochs and
of the probe's widths; run time.

The truth is the end of the frozen-probe run, as published, and beside it the end of ordinary
fine-tuning (`--truths=probe` leaves it out, which halves the time). Where the public text leaves
a choice open (probe, optimizer, number of epochs, input size) the flags' defaults are ours.

Expected: a report for whatever is there. The published size wants an accelerator; on CPU, make it
small: --max_train=200 --input_size=48 --epochs=4 --full_epochs=8. What has been run:
docs/results/paper.md.

Source: Jiang et al., arXiv 2201.04194 (2022); the public description is in docs/method.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags, logging

import ncap_jax as ncap
from experiments import paper_figures, paper_tables
from experiments.paper_plan import Plan, inventory, model_item, set_item
from ncap_jax import data, errors
from ncap_jax.data.feeding import make_feed
from ncap_jax.files import write_atomically
from ncap_jax.finetune.evaluation import untouched_features
from ncap_jax.options import RankConfig
from ncap_jax.predictor.logme import logme
from ncap_jax.run import facts
from ncap_jax.types import Dataset, ModelSpec, Trajectory
from ncap_jax.zoo import find_models

FLAGS = flags.FLAGS


def train(
    plan: Plan, name: str, dataset: Dataset, specs: list[ModelSpec], problems: list[str]
) -> paper_tables.Results:
    """Run what is not there yet of one set, and gather what ended well."""
    runs: dict[tuple[str, int], dict[str, Trajectory]] = {}
    scores: dict[int, dict[str, float]] = {}
    for seed in plan.seeds:
        folder = pathlib.Path(plan.output_dir, "runs", name, f"seed{seed}")
        configs = plan.configs(seed)
        for (kind, config), spec in itertools.product(configs.items(), specs):
            print(f"{name}, seed {seed}, {kind}, {spec.name}", flush=True)
            (run,) = ncap.rank_models(
                [spec], dataset, config, folder / kind / spec.name, show_progress=False
            ).trajectories
            if run.status == "ok":
                runs.setdefault((kind, seed), {})[spec.name] = run
            else:
                problems.append(f"{name}, seed {seed}, {kind}, {spec.name}: {run.message}")
        scores[seed] = dict(
            logme_scores(
                [spec for spec in specs if spec.name in runs.get(("probe", seed), {})],
                dataset,
                configs["probe"],
                folder / "logme",
            )
        )
    return paper_tables.Results(name, plan.epochs, runs, scores)


def logme_scores(
    specs: list[ModelSpec], dataset: Dataset, config: RankConfig, folder: pathlib.Path
) -> Iterator[tuple[str, float]]:
    """LogME of the untouched models' features of `measure_size` training samples."""
    feed = None
    for spec in specs:
        file = folder / f"{spec.name}.json"
        if not file.is_file():
            feed = feed or make_feed(dataset)
            found = untouched_features(spec, feed, config)
            value = float(np.asarray(logme(*map(np.asarray, found))))
            write_atomically(file, json.dumps(value) + "\n")
        yield spec.name, float(json.loads(file.read_text(encoding="utf-8")))


def reproduce(plan: Plan) -> pathlib.Path | None:
    """Say what is missing, run the rest, write the report; its path, or None without any runs."""
    specs = list(find_models(plan.models))
    models = [model_item(spec, plan) for spec in specs]
    sets = [set_item(name, plan) for name in plan.sets]
    here = inventory(models, sets)
    print(here, flush=True)
    usable = [spec for spec, item in zip(specs, models, strict=True) if item.usable]
    if plan.check_only or not usable:
        return None
    problems: list[str] = []
    sections: list[str] = []
    for name in (item.name for item in sets if item.usable):
        try:
            dataset = load(plan, name)
        except errors.DataError as error:
            problems.append(f"{name}: {error}")
            continue
        results = train(plan, name, dataset, usable, problems)
        sections.append(section(results, pathlib.Path(plan.output_dir)))
    made_with = json.dumps({**dataclasses.asdict(plan), **facts.describe()})
    failed = "".join(f"- {problem}\n" for problem in problems)
    parts = ["# The paper's experiment", here, *sections, "## What failed", failed or "Nothing."]
    report = pathlib.Path(plan.output_dir, "report.md")
    write_atomically(report, "\n\n".join([*parts, f"    {made_with}"]) + "\n")
    return report


def load(plan: Plan, name: str) -> Dataset:
    """One of the sets; the same for every seed."""
    return data.load_dataset(
        plan.source(name),
        data_dir=plan.data_dir,
        max_train=plan.max_train,
        max_validation=plan.max_validation,
    )


def section(results: paper_tables.Results, folder: pathlib.Path) -> str:
    """The report on one set; its figures are written beside it."""
    title = f"## {results.name}"
    if len(results.models()) < 2:
        return f"{title}\n\nFewer than two models ran to the end in every seed: nothing to rank."
    figures = paper_figures.draw(results)
    for name, svg in figures.items():
        write_atomically(folder / name, svg)
    n = results.epochs
    parts = {
        "β_eff against validation accuracy by epoch: Pearson's r": paper_tables.correlations(
            results
        ),
        f"Predicted after {n} epochs against final accuracy (%)": paper_tables.accuracies(results),
        f"Relative accuracy of the top k, predicted after {n} epochs": "\n\n".join(
            paper_tables.rivals(results, head) for head in results.truths
        ),
        "Effect of the number of epochs, the starting epoch and the probe": (
            paper_tables.effects(results)
        ),
        "Run time": paper_tables.times(results),
    }
    text = "\n\n".join(f"### {name}\n\n{content}" for name, content in parts.items())
    shown = "\n\n".join(f"![{name}]({name})" for name in figures)
    return f"{title}\n\n{text}\n\n### Figures\n\n{shown}"


def define_flags() -> None:
    """Called by the script alone: tests import several studies into one process."""
    flags.DEFINE_list("models", list(Plan.models), "Names or patterns of models.")
    flags.DEFINE_list(
        "sets", list(Plan.sets), "TFDS names, folders, digits, or birds (see --birds)."
    )
    flags.DEFINE_string("data_dir", None, "Where TFDS sets were prepared.")
    flags.DEFINE_string("birds", Plan.birds, "What birds means: a TFDS name or an image folder.")
    flags.DEFINE_string("weights_dir", None, "Folder with published weight files.")
    flags.DEFINE_enum("weights", Plan.weights, ["pretrained", "random"], "Where to start from.")
    flags.DEFINE_integer(
        "epochs", Plan.epochs, "Number of first epochs, from which the rest is predicted."
    )
    flags.DEFINE_integer(
        "full_epochs", Plan.full_epochs, "Number of epochs to the end, which is predicted."
    )
    flags.DEFINE_list("seeds", list(map(str, Plan.seeds)), "Seeds.")
    flags.DEFINE_multi_enum(
        "truths", list(Plan.truths), ["probe", "linear"], "Whose ends are predicted."
    )
    flags.DEFINE_list("probe_widths", list(map(str, Plan.probe_widths)), "The probe.")
    flags.DEFINE_multi_string(
        "other_probes",
        [",".join(map(str, widths)) for widths in Plan.other_probes],
        "Widths of another probe to study, such as 64,32,16; none: --other_probes=",
    )
    flags.DEFINE_integer("max_train", None, "At most this many training images.")
    flags.DEFINE_integer("max_validation", None, "At most this many validation images.")
    flags.DEFINE_integer(
        "input_size",
        None,
        "Side of the input in pixels, for every model (default: each model's own).",
    )
    flags.DEFINE_integer("batch_size", Plan.batch_size, "Images in a training step.")
    flags.DEFINE_float("learning_rate", Plan.learning_rate, "Of Adam.")
    flags.DEFINE_enum("dtype", Plan.dtype, ["float32", "bfloat16"], "Of the arithmetic.")
    flags.DEFINE_string("output_dir", Plan.output_dir, "Where runs and report go.")
    flags.DEFINE_bool("check_only", False, "Only list what is there and what is missing.")


def plan_of_flags() -> Plan:
    """The flags as a plan."""
    given: dict[str, Any] = {
        field.name: FLAGS[field.name].value for field in dataclasses.fields(Plan)
    }
    for name in ("models", "sets", "truths"):
        given[name] = tuple(given[name])
    for name in ("seeds", "probe_widths"):
        given[name] = tuple(map(int, given[name]))
    given["other_probes"] = tuple(
        tuple(map(int, widths.split(","))) for widths in given["other_probes"] if widths
    )
    return Plan(**given)


def main(argv: list[str]) -> None:
    """Make what is missing, and the report."""
    del argv
    logging.set_verbosity(logging.WARNING)  # the checkpoint library logs every step
    try:
        report = reproduce(plan_of_flags())
    except errors.NcapError as error:
        raise SystemExit(f"reproduce_paper: {error}") from None
    if report is not None:
        print(f"\n{report}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
