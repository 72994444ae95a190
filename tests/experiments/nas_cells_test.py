"""The cell space against the published benchmark's numbers, and the study on it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from experiments import corpus_files, nas201, nas_cells
from ncap_jax import errors
from ncap_jax.finetune import trajectory_files
from ncap_jax.finetune.candidate import FineTuning
from ncap_jax.predictor import PREDICTORS
from ncap_jax.types import EpochRecord
from tests.support.tables import CURVES, committed, rows, without_intervals, without_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]

EXAMPLE = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
ALL = [nas201.from_index(index) for index in range(5**6)]


def test_architecture_strings_are_read_and_written():
    cell = nas201.parse(EXAMPLE)
    assert cell[0] == "nor_conv_3x3"
    assert cell[2] == "avg_pool_3x3"
    assert nas201.to_string(cell) == EXAMPLE
    assert len(set(ALL)) == 15625
    assert all(nas201.parse(nas201.to_string(cell)) == cell for cell in ALL[::97])


@pytest.mark.parametrize("text", ["", EXAMPLE[:-1], EXAMPLE.replace("none", "some"), EXAMPLE * 2])
def test_other_strings_are_refused(text: str):
    with pytest.raises(errors.ModelError) as error:
        nas201.parse(text)
    assert error.value.cause == f"{text!r} is not a cell of NAS-Bench-201"
    assert error.value.remedy.startswith("Write |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with the")


@pytest.mark.parametrize(
    ("operation", "published"),
    # The benchmark's smallest and largest networks on CIFAR-10, in millions of parameters.
    [("none", 0.073306), ("skip_connect", 0.073306), ("nor_conv_3x3", 1.531546)],
)
def test_parameters_are_the_benchmarks(operation, published):
    classifier = (64 + 1) * 10
    below = nas201.spec((operation,) * 6).parameters
    assert (below + classifier) / 1e6 == published


def test_canonical_forms_are_the_functions():
    """All cells at once with one fixed nonlinear map per operation, zero staying zero."""
    maps = {
        "none": np.zeros_like,
        "skip_connect": lambda x: x,
        "nor_conv_1x1": lambda x: np.tanh(1.3 * x),
        "nor_conv_3x3": lambda x: np.sin(2.1 * x),
        "avg_pool_3x3": lambda x: np.arctan(0.7 * x),
    }
    values = []
    for cell in ALL:
        nodes = [np.float64(0.61)]
        for node in range(1, nas201.NODES):
            edges = zip(cell, nas201.EDGES, strict=True)
            nodes.append(sum(maps[op](nodes[j]) for op, (j, i) in edges if i == node))
        values.append(round(float(nodes[-1]), 10))
    forms = [nas201.canonical(cell) for cell in ALL]
    # The same partition of the 15,625 cells.
    assert len(set(zip(forms, values, strict=True))) == len(set(forms)) == len(set(values))
    assert {value for form, value in zip(forms, values, strict=True) if not form} == {0.0}


def test_a_sample_is_seeded_alive_and_free_of_copies():
    cells, left_out = nas201.sample(40, seed=3)
    forms = [nas201.canonical(cell) for cell in cells]
    assert all(forms)
    assert len(set(forms)) == 40
    assert left_out >= 0
    assert nas201.sample(40, seed=3)[0] == cells != nas201.sample(40, seed=4)[0]


def test_the_cell_is_the_graph_of_its_string():
    """Node by node as the string says, on a real network's own edges."""
    import jax.numpy as jnp
    from flax import nnx

    cell = nas201.parse(EXAMPLE)
    module = nas201.CellModule(cell, 4, "cell", rngs=nnx.Rngs(0), dtype=None)
    module.eval()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 4)), jnp.float32)
    one = module.edges[0](x)
    two = nas201.pool(one)
    three = x + module.edges[4](one) + two
    np.testing.assert_array_equal(module(x), three)
    dead = nas201.CellModule(("none",) * 6, 4, "cell", rngs=nnx.Rngs(0), dtype=None)
    np.testing.assert_array_equal(dead(x), jnp.zeros_like(x))


def test_features_have_the_stated_width():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    spec = nas201.spec(nas201.parse(EXAMPLE), channels=4, cells=1, input_size=8)
    features = jax.eval_shape(
        lambda x: spec.build(rngs=nnx.Rngs(0)).features(x), jnp.zeros((2, 8, 8, 3))
    )
    assert features.shape == (2, spec.feature_width)
    assert spec.name == "cell_304121"
    assert spec.description == EXAMPLE


@pytest.fixture(scope="module")
def corpus():
    file = corpus_files.FOLDER / "nas_cells_digits.json"
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_committed_runs_are_those_of_the_study(corpus):
    study = nas_cells.Study()
    assert corpus["study"] == json.loads(json.dumps(dataclasses.asdict(study)))
    names = {spec.name: spec.description for spec in study.specs()}
    assert {name: entry["string"] for name, entry in corpus["architectures"].items()} == names
    wanted = itertools.product(names, nas_cells.HEADS, study.seeds)
    found = [(run["model"], run["head"], run["seed"]) for run in corpus["runs"]]
    assert sorted(found) == sorted(wanted)
    for run in corpus["runs"]:
        assert set(run["columns"]["epoch"]) == study.observed(run["head"])


def test_the_tables_without_curves_and_intervals_are_what_the_study_prints(
    corpus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    others = {name: method for name, method in PREDICTORS.items() if name not in CURVES}
    monkeypatch.setattr(nas_cells, "PREDICTORS", others)
    monkeypatch.setattr(nas_cells, "DRAWS", 1)
    nas_cells.compare(corpus)
    printed = without_intervals(rows(capsys.readouterr().out))
    expected = without_intervals(without_rows(committed("nas_cells"), CURVES))
    assert len(printed) > 25
    assert printed == expected


@pytest.mark.slow
def test_the_tables_are_what_the_study_prints(corpus, capsys):
    nas_cells.compare(corpus)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    tables = (ROOT / "experiments" / "tables" / "nas_cells.md").read_text(encoding="utf-8")
    written = [line for line in tables.splitlines() if line.startswith("|")]
    # Its prior is fitted anew whenever the corpus of fine-tunings grows.
    compared, expected = (
        [line for line in lines if not line.startswith("| capacitance |")]
        for lines in (printed, written)
    )
    assert len(compared) > 30
    assert compared == expected


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    study = nas_cells.Study(architectures=2, epochs=2, seeds=(0, 1))
    record = trajectory_files.to_json(
        EpochRecord(0, *(2.3, 0.1, 2.4, 0.125), beta_eff={"signed": (0.5,)})
    ) | {"cpu": 1.0, "beta_eff_status": {"signed": ["ok"]}}
    monkeypatch.setattr(nas_cells.training, "start", None)
    for spec, head, seed in itertools.product(study.specs(), nas_cells.HEADS, study.seeds):
        file = tmp_path / spec.name / f"{head}{seed}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([record]))
    found = nas_cells.build(study, tmp_path)
    assert len(found["runs"]) == 8
    assert found["runs"][0]["columns"]["validation_accuracy"] == [0.125]
    other = dataclasses.replace(study, channels=8)
    with pytest.raises(errors.OutputError) as error:
        nas_cells.build(other, tmp_path)
    assert error.value.cause == f"{tmp_path} holds another study"
    assert error.value.remedy == "Give another --work_dir"


@pytest.mark.slow
def test_a_small_study_from_beginning_to_end(tmp_path, capsys, monkeypatch):
    start = nas_cells.training.start

    def start_unmeasured(*given: Any) -> FineTuning:
        # The whole network's beta_eff takes minutes to compile, and is tested with the zoo.
        tuning = start(*given)
        linear = tuning.config.head == "linear"
        return dataclasses.replace(tuning, measure=None) if linear else tuning

    monkeypatch.setattr(nas_cells.training, "start", start_unmeasured)
    study = nas_cells.Study(
        architectures=2,
        channels=2,
        input_size=8,
        epochs=2,
        seeds=(0, 1),
        max_train=64,
        max_validation=60,
    )
    first = nas_cells.build(study, tmp_path)
    assert nas_cells.build(study, tmp_path)["runs"] == first["runs"]
    nas_cells.compare(first)
    assert "| scaled_ridge |" in capsys.readouterr().out
