"""What run.json and the report say of a run."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ncap_jax.data import load_dataset
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.run import facts, processes
from ncap_jax.run.job import Job
from ncap_jax.types import Dataset
from ncap_jax.zoo import find_models
from tests.support import toy_runs
from tests.support.photos import write_class
from tests.support.small import small_config

JOB = Job(tuple(toy_runs.POOL[:2]), toy_runs.digits(), small_config())


def test_the_environment_is_described():
    found = facts.describe()
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["python"].startswith("3.")
    assert set(facts.PACKAGES) < set(found["versions"])
    assert found["device"].endswith(f"({jax.default_backend()})")
    assert found["cores"] == os.cpu_count()
    assert found["threads"] == processes.thread_count()


def test_a_run_is_described_by_what_decides_it():
    found = facts.run_facts(JOB, DataConfig(max_train=50))
    assert found["schema"] == 1
    assert found["config"] == dataclasses.asdict(JOB.config)
    assert found["models"] == {name: {"weights_sha256": None} for name in JOB.names}
    assert found["data"]["num_train"] == 96
    assert found["data"]["num_validation"] == 70
    assert found["data"]["config"]["max_train"] == 50
    assert found["versions"]["jax"]


def test_pretrained_weights_are_told_by_their_hash():
    specs = find_models(["tiny_plain", "tiny_plain_barely"])
    job = Job(specs, toy_runs.digits(), RankConfig())
    hashes = {
        model["weights_sha256"] for model in facts.run_facts(job, DataConfig())["models"].values()
    }
    assert [len(value) for value in hashes] == [64, 64]


def test_the_data_are_told_by_their_pixels_and_labels():
    dataset = toy_runs.digits()
    digest = facts.data_digest(dataset)
    assert digest == facts.data_digest(dataclasses.replace(dataset, name="other"))
    for field in ("images", "labels", "validation_images", "validation_labels"):
        changed = np.array(getattr(dataset, field))
        changed.flat[0] ^= 1
        assert facts.data_digest(dataclasses.replace(dataset, **{field: changed})) != digest


def test_streamed_data_are_told_by_their_pixels_and_labels(tmp_path):
    """A copy elsewhere, with other times, is the same data; other pixels of equal size are not."""
    write_class(tmp_path / "one" / "cat", 6)
    write_class(tmp_path / "one" / "dog", 6, start=9)

    def found(name):
        return facts.data_digest(load_dataset(tmp_path / name, stream=True))

    digest = found("one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    os.utime(tmp_path / "two" / "cat" / "003.png", (0, 0))
    assert found("two") == digest
    for name in ("cat/003.png", "dog/011.png"):
        path = tmp_path / "two" / name
        content = path.read_bytes()
        write_class(path.parent, 1, start=100)
        (path.parent / "100.png").replace(path)
        assert found("two") != digest
        path.write_bytes(content)
    (tmp_path / "two" / "cat").rename(tmp_path / "two" / "tac")
    assert found("two") != digest  # the labels are numbered the other way round


def test_the_command_repeats_the_run():
    specs = find_models(["tiny_plain", "tiny_senet"])
    config = small_config(epochs=3, weights="pretrained")
    assert facts.command(specs, "digits", config, DataConfig()) == (
        "python -m ncap_jax --models=tiny_plain,tiny_senet --dataset=digits --epochs=3 "
        "--head=trainable_probe --trial_rates= --probe_widths=24,16,12 --strategy=full"
    )
    assert facts.command(specs, "a set/x", RankConfig(), DataConfig("y", stream=False)) == (
        "python -m ncap_jax --models=tiny_plain,tiny_senet '--dataset=a set/x' --data_dir=y "
        "--stream=False"
    )


def test_what_flags_cannot_say_has_no_command():
    specs, dataset = find_models(["tiny_plain"]), Dataset(np.zeros((2, 8, 8, 3)), np.arange(2))
    assert facts.command(specs, dataset, RankConfig(), DataConfig()) is None
    changed = dataclasses.replace(specs[0], input_size=8)
    for spec in (toy_runs.POOL[0], changed):
        assert facts.command([spec], "digits", RankConfig(), DataConfig()) is None
    # A folder whose name is not UTF-8: the report, which is, could not be written.
    assert facts.command(specs, "caf\udce9/", RankConfig(), DataConfig()) is None


def test_the_report_is_told_in_words():
    dataset = dataclasses.replace(JOB.dataset, info={"skipped_files": ["a.png", "b.png"]})
    job = dataclasses.replace(JOB, dataset=dataset)
    about = {**facts.run_facts(job, DataConfig()), "command": "again"}
    info = facts.run_info(job, about, 12.5)
    assert info.data["data set"] == "small digits"
    assert info.data["training images"] == 96
    assert info.data["pixels"] == "8 × 8, colour"
    assert info.data["skipped files"] == "a.png, b.png"
    assert info.num_validation == 70
    assert info.majority_accuracy == about["data"]["majority_accuracy"]
    assert info.class_names == tuple(dataset.class_names)
    assert info.contact_sheet_png.startswith(b"\x89PNG")
    assert (info.seconds, info.command) == (12.5, "again")


def test_the_contact_sheet_shows_what_the_model_sees():
    """At the model's size, and with its channel order: a red image is blue to a BGR network."""
    red = np.zeros_like(JOB.dataset.images)
    red[..., 0] = 200
    dataset = dataclasses.replace(JOB.dataset, images=red)
    corner = {}
    for mode in ("unit", "caffe"):
        spec = dataclasses.replace(JOB.specs[0], preprocessing=mode, input_size=16)
        png = io.BytesIO(facts.sample_sheet(spec, dataset, JOB.config))
        corner[mode] = np.asarray(Image.open(png).convert("RGB"))[2, 2].astype(int)
    assert corner["unit"][0] > corner["unit"][2]
    assert corner["caffe"][2] > corner["caffe"][0]


def test_a_sample_that_is_gone_costs_the_report_a_picture_alone(tmp_path):
    for name in ("a", "b"):
        write_class(tmp_path / name, 4)
    streamed = load_dataset(tmp_path, stream=True)
    job = dataclasses.replace(JOB, dataset=streamed)
    about = {**facts.run_facts(job, DataConfig()), "command": None}
    shutil.rmtree(tmp_path / "a")
    with pytest.warns(
        UserWarning, match=r"^the report shows no sample images: .*000\.png: No such"
    ):
        info = facts.run_info(job, about, 1.0)
    assert info.contact_sheet_png is None
    assert info.data["training images"] == len(streamed.labels)


@pytest.mark.parametrize(
    ("note", "text"),
    [
        (
            {"count": 2, "files": [{"file": "a.png", "reason": "empty"}, {"file": "b.png"}]},
            "count: 2, files: file: a.png, reason: empty, file: b.png",
        ),
        (3, "3"),
        ("x" * 160, "x" * 160),
        ("x" * 161, "x" * 159 + "…"),
    ],
)
def test_notes_of_the_data_stage_become_one_line(note, text):
    assert facts.in_words(note) == text
