"""`predict` as a person uses it: what it prints, and its exit codes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import shutil
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

import ncap_jax as ncap
from tests.support.command_line import here, in_process
from tests.support.winners import tiny_winner, toy_winner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """With a model, a file of text, and two images, one of them below another folder."""
    root = tmp_path_factory.mktemp("predict")
    tiny_winner().save(root / "model")
    (root / "new" / "more").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in ("a.png", "more/b.png"):
        pixels = draw.integers(0, 256, (40, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "new" / name)
    (root / "c.png").write_bytes(b"no image")
    return root


REASON = "not a JPEG, PNG, WebP, BMP, GIF or TIFF image"


def test_lines(folder: pathlib.Path):
    said = here("predict", "model", "new", cwd=folder)
    a, b = tiny_winner().answers(folder / "new")
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        f"{100 * a.probability:5.1f} %  {a.label}  new/a.png\n"
        f"{100 * b.probability:5.1f} %  {b.label}  new/more/b.png\n"
    )


def test_json(folder: pathlib.Path):
    said = here("predict", "model", "c.png", "new/a.png", "--json", cwd=folder)
    assert said.code == 5
    assert said.err == f"error: c.png: {REASON}\n"
    broken, sound = json.loads(said.out)
    assert broken == {"image": "c.png", "problem": REASON}
    (expected,) = tiny_winner().answers(folder / "new" / "a.png")
    assert sound["image"] == "new/a.png"
    assert sound["label"] == expected.label
    assert sound["probability"] == expected.probability
    assert list(sound["probabilities"]) == list("0123456789")
    assert [*sound["probabilities"].values()] == expected.probabilities.tolist()


def test_csv(folder: pathlib.Path):
    said = here("predict", "--csv", "model", "*.png", "new/a.png", "none.png", cwd=folder)
    assert said.code == 5
    assert said.err == f"error: c.png: {REASON}\nerror: none.png: No such file or directory\n"
    (expected,) = tiny_winner().answers(folder / "new" / "a.png")
    assert list(csv.reader(io.StringIO(said.out))) == [
        ["image", "label", "probability", "problem"],
        ["c.png", "", "", REASON],
        ["new/a.png", expected.label, f"{expected.probability:.6f}", ""],
        ["none.png", "", "", "No such file or directory"],
    ]


def test_no_image_can_be_read(folder: pathlib.Path):
    said = here("predict", "model", "c.png", cwd=folder)
    assert (said.code, said.out, said.err) == (3, "", f"error: c.png: {REASON}\n")


def test_names_from_outside_move_no_cursor(tmp_path: pathlib.Path):
    names = tuple(f"\x1b[3{number}m" for number in range(10))
    facts = dataclasses.replace(tiny_winner().facts, class_names=names, metrics={})
    dataclasses.replace(tiny_winner(), facts=facts).save(tmp_path / "model")
    Image.new("RGB", (8, 8)).save(tmp_path / "\x1b[2J.png")
    said = here("predict", "model", "\x1b[2J.png", cwd=tmp_path)
    assert said.code == 0
    assert "\x1b" not in said.out
    assert said.out.endswith("\\x1b[2J.png\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "no model is given. Write python -m ncap_jax predict MODEL IMAGES."),
        (["model"], "no images are given. Write python -m ncap_jax predict MODEL IMAGES."),
        (["model", "new", "--csv", "--json"], "--json and --csv are both given. Give one of them."),
        (["none", "new"], "none is not a folder. Give the folder of a model that was saved."),
        (["model", "none/*"], "no file matches none/*. Give paths, folders, arrays "),
        (["model", "new", "--cvs"], "Unknown command line flag 'cvs'. Did you mean: csv ?."),
    ],
)
def test_bad_input(folder: pathlib.Path, words: list[str], error: str):
    said = here("predict", *words, cwd=folder)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {error}")


def test_a_model_that_was_made_in_python(tmp_path: pathlib.Path):
    toy_winner().save(tmp_path / "model")
    said = here("predict", "model", "a.png", cwd=tmp_path)
    assert said.code == 2
    assert said.err == (
        "error: the package holds 'toy_1', whose network is not in the zoo. Load it with the "
        "ModelSpec that it was trained with: ncap_jax.load(folder, spec=...).\n"
    )


def changed(package: pathlib.Path, **fields: object) -> None:
    """Other fields of `model.json`, by somebody who means it."""
    content = json.loads((package / "model.json").read_text(encoding="utf-8"))
    (package / "model.json").write_text(json.dumps({**content, **fields}), encoding="utf-8")


def damage(package: pathlib.Path) -> None:
    with (package / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, io.SEEK_END) - 1)


def empty(package: pathlib.Path) -> None:
    (package / "model.json").rename(package / "config.json")


OTHER = {"architecture": {"kind": "zoo", "name": "tiny_plain"}}
LARGE = {"preprocessing": {"mode": "unit", "input_size": 10**9, "image_size": [32, 32]}}


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (
            damage,
            "model/model.safetensors is damaged: its SHA-256 is not the one in model.json. Copy "
            "the package again, or make it again.\n",
        ),
        (
            empty,
            "model/model.json cannot be read: No such file or directory. Give the folder of a "
            "model that was saved, with all of its files.\n",
        ),
        (partial(changed, schema=2), "model.json has schema 2, but this version of ncap_jax "),
        (partial(changed, name="../up"), "model.json: name is '../up', not a name of letters, "),
        (partial(changed, run="rm -r ~"), "model.json: run is unknown. Copy the package again, "),
        (partial(changed, **LARGE), "model.json: preprocessing.input_size is 1000000000, not a "),
        (partial(changed, **OTHER), "model/model.safetensors does not fit the network: "),
    ],
)
def test_a_damaged_foreign_or_hostile_package(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    spoil: Callable[[pathlib.Path], None],
    error: str,
):
    package = pathlib.Path(shutil.copytree(folder / "model", tmp_path / "model"))
    spoil(package)
    said = here("predict", "model", str(folder / "new"), cwd=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {error}")
    assert said.err.count("\n") == 1
    exported = here("export", "model", "--format=stablehlo", cwd=tmp_path)
    assert exported == said


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(folder: pathlib.Path):
    said = in_process("predict", "model", "new", "--json", cwd=folder)
    assert said.code == 0, said.err
    found = [list(each["probabilities"].values()) for each in json.loads(said.out)]
    expected = ncap.load(folder / "model").predict_proba(folder / "new")
    assert np.array_equal(np.array(found, np.float32), expected)
