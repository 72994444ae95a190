"""Long epochs: what is seen within them, that looking changes nothing, and what is packed."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from experiments import build_long_epochs as study
from experiments import corpus_files
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import loop
from ncap_jax.zoo import find_models
from tests.support.small import small_digits, small_spec, small_tuning


def test_measuring_within_an_epoch_changes_no_number():
    tuning = {"epochs": 3, "head": "probe"}
    plain = list(loop.run(small_tuning(**tuning)))
    found = list(study.follow(small_tuning(**tuning), marks=(1, 2)))
    length = found[-1][0] // 3
    inside = [0, 1, 2, length, length + 1, length + 2, 2 * length, 3 * length]
    assert [step for step, _ in found] == inside
    ends = [record for step, record in found if step % length == 0]
    for seen, record in zip(ends, plain, strict=True):
        for name in ("train_loss", "validation_loss", "validation_accuracy", "beta_eff"):
            assert getattr(seen, name) == getattr(record, name)
    # The mean since the last look; over a whole epoch the loop's.
    assert ends[3].running_loss == pytest.approx(plain[3].running_loss, rel=1e-6)


def test_the_ten_looks_of_the_first_two_epochs():
    assert len(study.MARKS) == 4
    steps = 10_000 // study.BATCH
    pieces = np.diff([0, *study.MARKS, steps])
    assert set(pieces % pieces.min()) == {0}
    assert study.MARKED_EPOCHS * (len(study.MARKS) + 1) == 10


def test_probes_train_like_the_papers_and_networks_at_their_own_rate():
    (folded,) = find_models(["mobilenet_025_folded"])
    probe, linear = (study.config_of(folded, head, 3, "weights") for head in ("probe", "linear"))
    assert (probe.learning_rate, probe.num_probes) == (1e-3, study.PROBES)
    assert (linear.learning_rate, linear.num_probes) == (3e-4, 1)
    assert (linear.seed, linear.input_size, linear.trial_rates) == (3, 32, ())
    assert probe.beta_eff == linear.beta_eff == "every_epoch"


@pytest.mark.slow
def test_a_run_is_a_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study, "EPOCHS", 1)
    spec = dataclasses.replace(small_spec(), weights="random")
    line = study.run(spec, make_feed(small_digits()), "probe", 0, str(tmp_path))
    assert (line["model"], line["head"], line["seed"]) == ("small", "probe", 0)
    assert len(line["step"]) == len(line["validation_accuracy"]) == len(line["cpu"])
    assert np.shape(line["beta_eff_absolute"]) == (len(line["step"]), study.PROBES)
    assert set(corpus_files.COLUMNS) < set(line)
    json.dumps(line, allow_nan=False)


def test_what_is_packed_stays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path / "packed")
    file = tmp_path / "work" / "fashion_mnist" / "small" / "run.json"
    file.parent.mkdir(parents=True)
    for seed in (1, 0):
        line = {"model": "small", "head": "probe", "seed": seed, "step": [0, 52]}
        file.write_text(json.dumps(line))
        study.pack(tmp_path / "work")
    assert [found["seed"] for found in study.read("fashion_mnist")] == [0, 1]
    assert study.read("fashion_mnist")[0] == line
    assert study.read("cifar10") == []


@pytest.mark.slow
def test_the_sets_are_whole(shared_data: pathlib.Path):
    for name in study.SETS:
        found = study.load(name, shared_data)
        assert len(found.images) == len(found.labels) == 10_000
        assert len(found.validation_images) == len(found.validation_labels) == 2000
