"""A package is whole or absent on the disk, and nothing but a sound one is read."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from ncap_jax import errors
from ncap_jax.winner import storage
from ncap_jax.winner.architecture import Skeleton, rebuild
from ncap_jax.winner.facts import ModelFacts
from ncap_jax.winner.metrics import classification_metrics
from tests.support import fuzzing
from tests.support.toy_runs import toy
from tests.support.winners import toy_winner

COPY = "Copy the package again, or make it again"
FILES = ["README.md", "model.json", "model.safetensors"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A package, which tests do not change."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    toy_winner().save(folder)
    return folder


@pytest.fixture
def package(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A package to damage."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "package"))


@functools.cache
def skeleton() -> Skeleton:
    return rebuild(toy_winner().facts, toy(1))


def read(folder: pathlib.Path) -> tuple[Any, Any]:
    return storage.read_weights(folder, storage.read_facts(folder), skeleton())


def replace_weights(folder: pathlib.Path, content: bytes) -> None:
    """Other weights, of which model.json holds the digest: by somebody who means it."""
    (folder / storage.WEIGHTS).write_bytes(content)
    facts = json.loads((folder / storage.FACTS).read_text())
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / storage.FACTS).write_text(json.dumps(facts))


def refusal(folder: pathlib.Path) -> errors.NcapError:
    with pytest.raises(errors.NcapError) as caught:
        read(folder)
    return caught.value


def test_what_is_written_is_what_is_read(saved: pathlib.Path):
    winner = toy_winner()
    assert sorted(path.name for path in saved.iterdir()) == FILES
    facts = storage.read_facts(saved)
    digest = hashlib.sha256((saved / storage.WEIGHTS).read_bytes()).hexdigest()
    assert facts == dataclasses.replace(winner.facts, sha256=digest)
    params, state = storage.read_weights(saved, facts, skeleton())
    for found, expected in ((params, winner.params), (state, winner.state)):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            assert np.array_equal(one, two)
            assert one.dtype == two.dtype


def test_names_and_shapes_are_those_of_a_plain_classifier(saved: pathlib.Path):
    arrays = safetensors.numpy.load_file(saved / storage.WEIGHTS)
    assert {name: array.shape for name, array in arrays.items()} == {
        "backbone.conv.kernel": (4, 4, 3, 12),
        **{f"backbone.norm.{name}": (12,) for name in ("bias", "mean", "scale", "var")},
        "head.output.bias": (10,),
        "head.output.kernel": (12, 10),
    }


def test_the_same_model_gives_the_same_bytes(saved: pathlib.Path, tmp_path: pathlib.Path):
    toy_winner().save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_a_package_replaces_another(package: pathlib.Path):
    facts = dataclasses.replace(toy_winner().facts, name="other")
    dataclasses.replace(toy_winner(), facts=facts).save(package)
    assert storage.read_facts(package).name == "other"
    assert [path.name for path in package.parent.iterdir()] == ["package"]


def test_a_folder_with_something_else_is_not_replaced(package: pathlib.Path):
    (package / "notes.txt").touch()
    with pytest.raises(errors.OutputError) as caught:
        toy_winner().save(package)
    assert caught.value.cause == f"{package} holds notes.txt, which no model's package does"
    assert caught.value.remedy == "Choose another folder"
    file = package / "notes.txt"
    with pytest.raises(errors.OutputError) as caught:
        toy_winner().save(file)
    assert caught.value.cause == f"cannot write {file}: Not a directory"


def test_a_full_disk_leaves_nothing_or_the_old_package(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    real = pathlib.Path.write_bytes

    def full(self: pathlib.Path, data: bytes) -> int:
        if self.name == storage.CARD:
            real(self, data[:9])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    for folder in (package, package.parent / "new"):
        with pytest.raises(errors.OutputError) as caught:
            toy_winner().save(folder)
        assert caught.value.cause == f"cannot write {folder}: No space left on device"
    assert [path.name for path in package.parent.iterdir()] == ["package"]
    assert {path.name: path.read_bytes() for path in package.iterdir()} == before


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: pathlib.Path):
    winner = toy_winner()
    broken = {**winner.params, "head": jax.tree.map(lambda x: x * np.nan, winner.params["head"])}
    with pytest.raises(errors.WeightsError) as caught:
        dataclasses.replace(winner, params=broken).save(tmp_path / "model")
    assert "of head.output.bias are not finite" in caught.value.cause
    assert list(tmp_path.iterdir()) == []


def test_facts_that_cannot_be_read_are_not_saved(tmp_path: pathlib.Path):
    facts = dataclasses.replace(toy_winner().facts, temperature=-1.0)
    with pytest.raises(errors.PackageError) as caught:
        dataclasses.replace(toy_winner(), facts=facts).save(tmp_path / "model")
    assert caught.value.cause == (
        "model.json: temperature is -1.0, not a number from 0.001 to 1000"
    )
    assert list(tmp_path.iterdir()) == []


def test_thousands_of_classes_are_saved_and_read(tmp_path: pathlib.Path):
    """Their confusion matrix would take fifty million bytes, and is left out."""
    names = tuple(f"class {number}" for number in range(4000))
    shares, labels = np.full((8, len(names)), 1 / len(names)), np.arange(8)
    metrics = {"test": classification_metrics(shares, labels, names)}
    winner = toy_winner()
    facts = dataclasses.replace(winner.facts, class_names=names, metrics=metrics)
    head = jax.tree.map(
        lambda leaf: np.zeros((*leaf.shape[:-1], len(names)), np.float32), winner.params["head"]
    )
    params = {**winner.params, "head": head}
    dataclasses.replace(winner, params=params, facts=facts).save(tmp_path / "model")
    assert (tmp_path / "model" / storage.FACTS).stat().st_size < 1 << 20
    found = storage.read_facts(tmp_path / "model")
    assert found.metrics == metrics
    read, _ = storage.read_weights(tmp_path / "model", found, rebuild(found, toy(1)))
    assert read["head"]["output"]["kernel"].shape == (1, 12, len(names))


def test_more_than_is_ever_read_is_not_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    for limit, file, remedy in (
        ("LARGEST_FACTS", "model.json", "Give the classes shorter names"),
        ("HEADER_ENTRY", "model.safetensors", "Give the layers shorter names"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(storage, limit, 1)
            patch.setattr(storage, "HEADER", 1)
            with pytest.raises(errors.PackageError) as caught:
                toy_winner().save(tmp_path / "model")
        assert re.fullmatch(
            rf"{file} of toy_1 would have \d+ bytes, and \d+ are read at most", caught.value.cause
        )
        assert caught.value.remedy == remedy
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [storage.FACTS, storage.WEIGHTS])
def test_files_that_are_missing_links_or_pipes(package: pathlib.Path, name: str):
    file, real = package / name, package / "real"
    file.rename(real)
    error = refusal(package)
    assert error.cause == f"{file} cannot be read: No such file or directory"
    assert error.remedy == "Give the folder of a model that was saved, with all of its files"
    file.symlink_to(real)
    error = refusal(package)
    assert error.cause == f"{file} is a link, which no package contains"
    assert error.remedy == "Put the file itself in its place, if you trust where the link leads"
    file.unlink()
    os.mkfifo(file)
    error = refusal(package)
    assert (error.cause, error.remedy) == (f"{file} is not a regular file", COPY)


def test_no_folder(tmp_path: pathlib.Path):
    error = refusal(tmp_path / "model")
    assert error.cause == f"{tmp_path / 'model'} is not a folder"
    assert error.remedy == "Give the folder of a model that was saved"


def test_the_folder_of_a_run(package: pathlib.Path):
    package.rename(package.parent / "winner")
    error = refusal(package.parent)
    assert error.cause == f"{package.parent} is the folder of a run"
    assert error.remedy == f"Give {package.parent / 'winner'}"


def test_files_of_an_enormous_size_are_not_read(package: pathlib.Path):
    """They are sparse: reading them would take all memory."""
    for name, limit in ((storage.WEIGHTS, None), (storage.FACTS, storage.LARGEST_FACTS)):
        os.truncate(package / name, 1 << 40)
        error = refusal(package)
        assert error.cause.startswith(f"{package / name} has {1 << 40} bytes, and this model's has")
        assert limit is None or error.cause.endswith(f" {limit} at most")
        assert error.remedy == COPY


def test_a_changed_byte(package: pathlib.Path):
    content = bytearray((package / storage.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (package / storage.WEIGHTS).write_bytes(content)
    error = refusal(package)
    assert error.cause == (
        f"{package / storage.WEIGHTS} is damaged: its SHA-256 is not the one in model.json"
    )
    assert error.remedy == COPY


def test_weights_can_be_looked_at_without_loading_them(package: pathlib.Path):
    facts, file = storage.read_facts(package), package / storage.WEIGHTS
    storage.check_weights(package, facts)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(errors.PackageError, match=r"is damaged: its SHA-256 is not the one in"):
        storage.check_weights(package, facts)
    file.unlink()
    with pytest.raises(errors.PackageError, match="cannot be read: No such file or directory"):
        storage.check_weights(package, facts)


Change = Callable[[dict[str, np.ndarray]], None]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda a: a.pop("head.output.bias"), "1 unfilled (head.output.bias)"),
        (lambda a: a.update(more=np.zeros(1)), "1 left over (more)"),
        (
            lambda a: a.update({"head.output.bias": np.zeros(11, np.float32)}),
            "head.output.bias: (11,) in the file, (10,) here",
        ),
        (
            lambda a: a.update({"head.output.bias": np.zeros(10, np.float16)}),
            "head.output.bias: float16, not float32",
        ),
    ],
)
def test_weights_of_another_network(package: pathlib.Path, change: Change, cause: str):
    arrays = safetensors.numpy.load_file(package / storage.WEIGHTS)
    change(arrays)
    replace_weights(package, safetensors.numpy.save(arrays))
    error = refusal(package)
    start = f"{package / storage.WEIGHTS} does not fit the network: "
    assert error.cause == start + cause
    assert error.remedy == (
        "Build the ModelSpec as it was built for training, with the same names of layers"
    )


def test_weights_that_are_not_numbers_are_not_loaded(package: pathlib.Path):
    arrays = safetensors.numpy.load_file(package / storage.WEIGHTS)
    arrays["backbone.norm.var"][3] = np.inf
    replace_weights(package, safetensors.numpy.save(arrays))
    error = refusal(package)
    assert isinstance(error, errors.WeightsError)
    assert "1 of the 12 values of backbone.norm.var are not finite" in error.cause


@functools.cache
def _genuine() -> bytes:
    winner = toy_winner()
    arrays = storage.arrays_of(winner.network, winner.params, winner.state)
    return safetensors.numpy.save({name: np.asarray(leaf) for name, leaf in arrays.items()})


HEADER_BYTES = 700


@fuzzing.fuzz(fuzzing.mutated(_genuine()[:HEADER_BYTES]), examples=15, long=600)
def test_any_damage_of_the_weights_is_refused_or_harmless(value: bytes, tmp_path: pathlib.Path):
    """By somebody who writes the digest as well."""
    folder = tmp_path / "model"
    if not folder.exists():
        toy_winner().save(folder)
    replace_weights(folder, value + _genuine()[HEADER_BYTES:])
    try:
        params, _ = read(folder)
    except (errors.PackageError, errors.WeightsError):
        return
    assert params["head"]["output"]["kernel"].shape == (1, 12, 10)


def test_text_that_is_not_utf_8(package: pathlib.Path):
    (package / storage.FACTS).write_bytes(b"\xff")
    error = refusal(package)
    assert error.cause.startswith("model.json is not text: ")
    assert error.remedy == COPY


def test_facts_alone_are_read_without_the_weights(package: pathlib.Path):
    (package / storage.WEIGHTS).unlink()
    assert isinstance(storage.read_facts(package), ModelFacts)
