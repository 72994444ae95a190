"""The paper's experiment, end to end at a small size."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import ncap_jax as ncap
from experiments import paper_plan, paper_tables, reproduce_paper
from ncap_jax.predictor import PREDICTORS
from ncap_jax.run import worker
from ncap_jax.types import STRENGTHS, EpochRecord, Trajectory

# The first two have one architecture: it is compiled once.
MODELS = ("tiny_plain", "tiny_plain_barely", "vgg16")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> paper_plan.Plan:
    return paper_plan.Plan(
        models=MODELS,
        sets=("digits", "cifar100", "birds"),
        data_dir=str(tmp_path_factory.mktemp("data")),
        birds="no/birds",
        epochs=3,
        full_epochs=4,
        truths=("probe",),
        probe_widths=(16, 12, 8),
        other_probes=(),
        max_train=64,
        max_validation=60,
        input_size=16,
        batch_size=32,
        output_dir=str(tmp_path_factory.mktemp("paper")),
    )


@pytest.fixture(scope="module")
def report(plan):
    """The report of a first call, without the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCAP_OFFLINE", "1")
        patch.setenv("NCAP_CACHE", str(pathlib.Path(plan.output_dir, "cache")))
        patch.setattr(paper_tables, "DRAWS", 20)
        yield reproduce_paper.reproduce(plan)


def runs(plan):
    folder = pathlib.Path(plan.output_dir, "runs", "digits", "seed0", "probe")
    found = [ncap.load_trajectories(folder / model)[0] for model in MODELS[:2]]
    return {run.model: run for run in found}


def test_what_is_missing_is_named_with_its_remedy(report):
    text = report.read_text()
    assert re.search(r"\| vgg16 \| \*\*missing\*\* \| put \S+\.h5 into --weights_dir", text)
    assert re.search(r"\| cifar100 \| \*\*missing\*\* \| .*tfds build cifar100", text)
    assert "| birds | **missing** | no such folder: no/birds |" in text
    assert "| tiny_plain | yes | embedded |" in text
    assert "## What failed\n\nNothing." in text


def test_every_table_is_there_and_agrees_with_the_trajectories(plan, report):
    text = report.read_text()
    mains = runs(plan)
    assert {(run.epochs, run.head) for run in mains.values()} == {(4, "probe")}  # frozen
    names = list(mains)
    ends = {name: run.series("validation_accuracy")[-1] for name, run in mains.items()}
    early = PREDICTORS["scaled_ridge"](list(mains.values()), epochs=3)
    for name, prediction in zip(names, early, strict=True):
        last = mains[name].series("validation_accuracy")[3]
        row = re.search(rf"^\| {name} \|(.*±.*)\|$", text, re.MULTILINE)[1].split("|")
        assert f"{100 * prediction.mean:.1f} ± {100 * prediction.std:.1f}" in row[1]
        assert [float(cell) for cell in row[2:]] == [
            round(100 * last, 1),
            round(100 * ends[name], 1),
        ]
    truth = np.array([ends[name] for name in names])
    seen = np.array([mains[name].series("validation_accuracy")[3] for name in names])
    cell = re.search(r"\| first 3 epochs \|.*\| [^|]*; ([\d.]+) \|$", text, re.MULTILINE)[1]
    assert float(cell) == pytest.approx(100 * np.abs(seen - truth).mean(), abs=0.051)
    for method in (*PREDICTORS, "baker_svr", "logme"):
        assert f"| {method} |" in text
    assert "| epochs 2 to 3 |" in text
    seconds = sum(record.seconds for record in mains[names[0]].records)
    assert f"| {seconds:.1f} |" in text


def test_the_figures_are_drawn(report):
    named = re.findall(r"!\[\S+\]\((\S+)\)", report.read_text())
    assert len(named) == 5
    for name in named:
        root = ET.parse(report.parent / name).getroot()
        assert root.tag.endswith("svg")
    assert "tiny_plain" in (report.parent / "digits_beta_eff.svg").read_text()


def test_a_second_call_trains_nothing(plan, report, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(worker.loop, "finetune", refuse)
    monkeypatch.setattr(reproduce_paper, "untouched_features", refuse)
    before = report.read_text().split("## What failed")[0]
    assert reproduce_paper.reproduce(plan).read_text().split("## What failed")[0] == before
    assert "**missing**" in capsys.readouterr().out


def test_checking_only_writes_nothing(plan, tmp_path, capsys):
    changed = dataclasses.replace(plan, check_only=True, output_dir=str(tmp_path / "new"))
    assert reproduce_paper.reproduce(changed) is None
    assert "tfds build cifar100" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_all_models_of_the_paper_are_known():
    assert len(set(paper_plan.MODELS)) == 17
    assert set(paper_plan.MODELS) <= set(ncap.MODELS)


def made(model: str, seed: int, end: float, epochs: int = 6) -> Trajectory:
    """A run whose accuracy rises to `end` while beta_eff falls to 0."""
    rng = np.random.default_rng([seed, *model.encode()])
    return Trajectory(
        model,
        "probe",
        tuple(
            EpochRecord(
                epoch,
                *(2.0 * 0.5**epoch, 0.5, 2.2 * 0.5**epoch + 1 - end),
                end * (1 - 0.8 * 0.5**epoch) + 0.002 * rng.normal(),
                running_loss=2.0 * 0.5**epoch,
                beta_eff=dict.fromkeys(STRENGTHS, (0.5**epoch,)),
                beta_eff_status=dict.fromkeys(STRENGTHS, ("ok",)),
                seconds=1.0,
            )
            for epoch in range(epochs + 1)
        ),
        seconds=epochs + 1.0,
    )


@pytest.fixture
def results() -> paper_tables.Results:
    ends = {f"m{i}": 0.5 + 0.06 * i for i in range(6)}
    runs = {
        (kind, seed): {m: made(m, seed, end, epochs) for m, end in ends.items()}
        for kind, epochs in (("probe", 6), ("linear", 6), ("probe_9x8x7", 4))
        for seed in (0, 1)
    }
    logme = {seed: {m: -end for m, end in ends.items()} for seed in (0, 1)}
    return paper_tables.Results("made", 4, runs, logme)


def test_a_window_keeps_epoch_0_and_its_own_epochs():
    run = made("m", 0, 0.9)
    assert [record.epoch for record in paper_tables.window(run, 2, 3).records] == [0, 2, 3, 4]


def test_rivals_are_judged_by_the_ends(results, monkeypatch):
    monkeypatch.setattr(paper_tables, "DRAWS", 20)
    lines = paper_tables.rivals(results, "linear").splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines}
    assert cells["last_seen"][0].split()[0] == cells["baker_svr"][0].split()[0] == "1.00"
    assert cells["logme"][0].split()[0] == "-1.00"
    assert [float(cell) for cell in cells["last_seen"][1:]] == [1.0, 1.0, 1.0]
    truth = results.ends("linear", results.models("linear")).mean(axis=0)
    # Asked for the best, LogME as made here names the worst.
    assert float(cells["logme"][1]) == pytest.approx(truth.min() / truth.max(), abs=5e-4)


def test_another_probe_is_judged_by_the_main_ones_ends(results):
    other = paper_tables.with_probe(results, "probe_9x8x7")
    models = results.models()
    np.testing.assert_array_equal(other.ends("probe", models), results.ends("probe", models))
    early = paper_tables.predictions(other, "last_seen", models, 4)
    for seed, row in zip(results.seeds, early, strict=True):
        for model, prediction in zip(models, row, strict=True):
            run = results.runs["probe_9x8x7", seed][model]
            assert prediction.mean == run.records[-1].validation_accuracy
    text = paper_tables.effects(results)
    assert "| probe 9x8x7, first 4 |" in text
    assert "| epochs 3 to 4 |" in text


def test_a_model_that_lacks_a_seed_is_left_out(results):
    runs = {**results.runs, ("linear", 1): {"m0": results.runs["linear", 1]["m0"]}}
    fewer = dataclasses.replace(results, runs=runs)
    assert fewer.models("linear") == ["m0"]
    assert fewer.models() == results.models()
    assert fewer.truths == ["probe"]
    assert "end, head=linear" not in paper_tables.accuracies(fewer)
