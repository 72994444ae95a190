"""The corpus and the comparison over it: format, what may be learned from what."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pytest

from experiments import build_corpus, compare_predictors, corpus_files, tasks
from ncap_jax import predictor
from ncap_jax.finetune import trajectory_files
from ncap_jax.options import HEADS, Head, RankConfig
from ncap_jax.predictor import DEFAULT_PREDICTORS, PREDICTORS, baker
from tests.support.corpus_lines import make_line
from tests.support.pool import make_pool
from tests.support.tables import CURVES, committed, without_intervals

MODELS, SEEDS = 5, 2


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Three sets on which the models end in the order in which they learn."""
    monkeypatch.setattr(corpus_files, "FOLDER", tmp_path)
    for number, name in enumerate(["digits", "birds6", "fashion_mnist"]):
        lines = [
            make_line(trajectory, seed, 0.9 - 0.1 * number - 0.03 * i)
            for seed in range(SEEDS)
            for i, trajectory in enumerate(make_pool(MODELS, 12, seed=10 * number + seed))
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}_embedded.jsonl").write_text(text)
    names = [f"{name}_embedded.jsonl" for name in ("digits", "birds6", "fashion_mnist")]
    (tmp_path / corpus_files.MANIFEST).write_text(json.dumps({name: {} for name in names}))
    return tmp_path


def test_columns_come_back_as_the_same_trajectory():
    (whole,) = make_pool(1, epochs=12)
    line = make_line(whole, 0, 0.9)
    found = corpus_files.trajectory(whole.model, "probe", line["runs"]["probe"], 5)
    assert found.head == "probe"
    assert found.epochs == 5
    for name in ("validation_loss", "train_loss", "running_loss"):
        np.testing.assert_allclose(found.series(name), whole.series(name)[:6], rtol=1e-5)
    np.testing.assert_allclose(
        found.beta_eff("absolute"), whole.beta_eff("absolute")[:6], rtol=1e-5
    )
    assert [r.seconds for r in found.records] == [2.0, 1.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("images", [7, 500, 1297])
def test_how_many_images_validate_is_read_off_the_accuracies(images: int):
    shares = [corpus_files.short(right / images) for right in (1, images // 2, images - 1)]
    assert corpus_files.validation_images([*shares, None]) == images
    assert corpus_files.validation_images([np.pi / 4, np.e / 4, 0.123457]) is None


def test_the_number_of_images_comes_with_the_runs():
    """Of the corpus itself; a trajectory counts them as one class."""
    path = corpus_files.folder() / "birds525_genuine.jsonl"
    line = corpus_files.read(path)[0]
    assert {run["images"] for run in line["runs"].values()} == {85}
    last = corpus_files.trajectory("m", "linear", line["runs"]["linear"], 3).records[-1]
    assert last.validation_counts is not None
    assert last.validation_counts.images == (85,)
    right = last.validation_counts.correct[0][0]
    assert right / 85 == pytest.approx(last.validation_accuracy, abs=1e-6)


def test_epochs_that_were_not_recorded_are_refused():
    (whole,) = make_pool(1, epochs=12)
    columns = make_line(whole, 0, 0.9)["runs"]["linear"]
    columns["epoch"][4] = 9
    with pytest.raises(ValueError, match=r"^model_0, linear: epochs 0 to 5 were not all recorded$"):
        corpus_files.trajectory(whole.model, "linear", columns, 5)
    assert corpus_files.trajectory(whole.model, "linear", columns, 3).epochs == 3


def test_truth_is_the_better_learning_rate():
    (whole,) = make_pool(1, epochs=12)
    line = make_line(whole, 0, 0.8)
    line["runs"]["linear_low"]["validation_accuracy"][-1] = 0.85
    assert corpus_files.truth(line) == 0.85


def test_a_joint_method_knows_neither_set_nor_model(corpus, monkeypatch):
    told = []
    monkeypatch.setattr(
        tasks, "learn", lambda known, n, names: told.append(known) or {"train_loss": 1}
    )
    first, *others = tasks.read_tasks("probe")
    tasks.joint_regression(["train_loss"])(first, others, 1)
    assert len(told) == MODELS
    for model, known in zip([t.model for t in first.pools[0]], told):
        assert {t.name for t in known} == {t.name for t in others}
        assert all(model not in {t.model for t in pool} for t in known for pool in t.pools)
        assert all(t.truths.shape == (SEEDS, MODELS - 1) for t in known)


def test_the_comparison_over_a_corpus(corpus, capsys, monkeypatch):
    """All methods are in the tables; where learning decides the end, losses rank right."""
    monkeypatch.setattr(tasks, "EARLY", (2, 10))
    monkeypatch.setattr(compare_predictors, "DRAWS", 10)
    # One setting: how it is chosen is tested with the method.
    monkeypatch.setattr(baker, "GRID", {name: values[:1] for name, values in baker.GRID.items()})
    monkeypatch.setattr(compare_predictors, "HEADS", ("probe",))
    monkeypatch.setattr(
        compare_predictors, "architecture_table", lambda tasks: ""
    )  # of real models
    compare_predictors.compare(figures=False)
    printed = capsys.readouterr().out
    for name in [*PREDICTORS, "baker_svr", "joint_curve", "joint_beta_eff", "logme"]:
        assert f"| {name} |" in printed
    loss = tasks.methods("linear")["last_validation_loss"]
    known = tasks.read_tasks("linear")
    priors = tasks.priors_without_each(t.name for t in known)
    last = compare_predictors.evaluate(loss, known, 10, priors, known)
    assert last.tau.low <= last.tau.value <= last.tau.high
    assert last.tau.value > 0.8
    assert last.regret < 0.02


def test_packing_takes_what_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "FOLDER", tmp_path / "corpus")
    (tmp_path / "corpus").mkdir()
    (whole,) = make_pool(1, epochs=12)
    lines = [{**trajectory_files.to_json(r), "cpu": 1.0} for r in whole.records]
    for seed in (0, 1):
        cell = tmp_path / "work" / "embedded" / "digits" / "tiny_resnet" / f"seed{seed}"
        cell.mkdir(parents=True)
        (cell / "scores.json").write_text('{"logme": {"value": 1.0, "seconds": 2.0}}')
        for kind in corpus_files.HEADS:
            if (seed, kind) != (1, "linear"):
                (cell / f"{kind}.json").write_text(json.dumps(lines))
    build_corpus.pack(tmp_path / "work")
    build_corpus.pack(tmp_path / "nothing there")  # what is packed stays
    (file,) = corpus_files.files()
    (line,) = corpus_files.read(file)
    assert (line["model"], line["seed"], line["parameters"]) == ("tiny_resnet", 0, 43740)
    manifest = json.loads((tmp_path / "corpus" / corpus_files.MANIFEST).read_text())
    assert manifest[file.name]["models"] == 1


def best_of_the_corpus(head: Head, names: Collection[str]) -> str:
    """By Kendall's τ with full fine-tuning, mean over sets and over 3 and 5 epochs.

    Of the methods that know how sure they are: P(best) and halving need that of a default.
    """
    (pool, *_), *_ = [task.pools for task in tasks.read_tasks(head)]
    mean = {
        name: np.mean([tasks.mean_tau(PREDICTORS[name], head, epochs) for epochs in (3, 5)])
        for name in names
        if PREDICTORS[name].scores_only
        or np.isfinite([p.std for p in PREDICTORS[name](pool)]).any()
    }
    known = {name: value for name, value in mean.items() if np.isfinite(value)}
    return max(known, key=known.__getitem__)


@pytest.mark.parametrize("head", HEADS)
def test_the_defaults_are_the_best_of_the_corpus(head: Head):
    """The curves are in the next test."""
    others = PREDICTORS.keys() - set(CURVES)
    assert best_of_the_corpus(head, others) == DEFAULT_PREDICTORS[head]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_no_curve_is_better_than_the_defaults(head: Head):
    assert best_of_the_corpus(head, PREDICTORS) == DEFAULT_PREDICTORS[head]


def test_the_default_head_ranks_best():
    """The same mean, each head by its default method, on both pools."""
    for pool in tasks.POOLS:
        mean = {
            head: np.mean(
                [
                    tasks.mean_tau(predictor.get("default", head), head, epochs, pool)
                    for epochs in (3, 5)
                ]
            )
            for head in HEADS
        }
        assert max(HEADS, key=mean.__getitem__) == RankConfig().head


@pytest.fixture(scope="module")
def priors() -> compare_predictors.Priors:
    """Growth learned from the other data sets of the committed corpus."""
    known = [task for pool in tasks.POOLS for task in tasks.read_tasks("probe", pool)]
    return tasks.priors_without_each(t.name for t in known)


@pytest.mark.parametrize("head", HEADS)
def test_pairs_of_real_models_are_ordered_as_often_as_is_said(
    head: Head, priors: compare_predictors.Priors
):
    known = tasks.read_tasks(head)
    for epochs in (3, 5):
        said, right = compare_predictors.pairs(
            predictor.get("default", head), known, epochs, priors
        )
        # About 30 models in 9 pools decide it: the share that is right is known to 5 points or so.
        assert abs(said - right) < 0.1


@pytest.mark.parametrize("pool", tasks.POOLS)
@pytest.mark.parametrize("head", HEADS)
def test_the_defaults_rows_are_those_of_the_tables(
    head: Head,
    pool: str,
    priors: compare_predictors.Priors,
    monkeypatch: pytest.MonkeyPatch,
):
    """But for their intervals, which take a bootstrap."""
    monkeypatch.setattr(compare_predictors, "DRAWS", 1)
    name = DEFAULT_PREDICTORS[head]
    method, known = tasks.methods(head)[name], tasks.read_tasks(head)
    here = tasks.read_tasks(head, pool, tasks.rate_of(pool))
    cells = [
        compare_predictors.words(compare_predictors.evaluate(method, here, n, priors, known))
        for n in here[0].early
    ]
    (row,) = without_intervals([f"| {' | '.join([name, *cells])} |"])
    assert row in without_intervals(committed(f"compare_predictors_{pool}"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pool", tasks.POOLS)
def test_the_tables_are_what_the_comparison_prints(pool, capsys):
    compare_predictors.compare(figures=False, pool=pool)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    file = corpus_files.FOLDER.parent / "tables" / f"compare_predictors_{pool}.md"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(printed) > 50
    assert printed == [line for line in lines if line.startswith("|")]
