"""The README's first example, followed to the letter by somebody with a folder of photos."""

from __future__ import annotations

import pathlib
import re
import shlex
import urllib.request

import ncap_jax as ncap
from tests.support import command_line, fake_training, photos

README = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
FIRST_SCREEN = 45  # lines
LONGEST = 120


def block(kind: str) -> list[str]:
    """The lines of the first block of a kind."""
    found = re.search(rf"```{kind}\n(.*?)```", README, re.DOTALL)
    assert found, kind
    return found[1].splitlines()


def test_the_first_example_ranks_a_folder_of_photos(tmp_path, monkeypatch):
    """With the folder as it is drawn, the command as it is written, and training left out."""
    root, *classes = (line.split()[0].rstrip("/") for line in block("text"))
    for name in classes:
        photos.write_class(tmp_path / root / name, 10)
    command, finish, predict = (each for each in block("sh") if each.startswith("python -m "))
    fake_training.install(monkeypatch)
    # The weights are published, which is enough to begin; nobody fetches them here.
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    said = command_line.here(*shlex.split(command)[3:], cwd=tmp_path)
    assert said.code == 0, said.err
    read = ncap.load_dataset(tmp_path / root)
    assert list(read.class_names) == classes
    (report,) = re.findall(r"Open `([^`]*)`", README)
    assert (tmp_path / report).is_file()
    folder = pathlib.Path(report).parent
    assert shlex.split(finish)[3:] == ["finish", str(folder)]
    assert f"\nFinish: {finish} (kept for it: the states of " in said.out
    assert shlex.split(predict)[3:] == ["predict", f"{folder}/winner", "new/"]
    again = re.search(r"repeat the command with `(--output_dir=\S+)`", README)[1]
    assert (tmp_path / again.removeprefix("--output_dir=")).samefile((tmp_path / report).parent)


def test_the_first_screen_has_the_example_and_what_beta_eff_is_for():
    lines = README.splitlines()
    assert len(lines) <= LONGEST
    first = "\n".join(lines[:FIRST_SCREEN])
    for start in ("**What ranks:**", "**What β_eff is good for:**", "**What β_eff does not do:**"):
        assert start in first
    assert "--dataset=photos" in first
