"""JAX alone runs what was written, for batches of any size."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.winner import inference, stablehlo
from tests.support.winners import toy_winner


def test_a_file_says_what_the_model_says(tmp_path: pathlib.Path):
    pytest.importorskip("flatbuffers", reason="what jax.export writes files with")
    winner, path = toy_winner(), tmp_path / "toy.stablehlo"
    stablehlo.write(winner, path)
    loaded = jax.export.deserialize(bytearray(path.read_bytes()))
    assert loaded.platforms == ("cpu", "cuda", "rocm", "tpu")
    images = inference.samples(winner)
    found = loaded.call(images[:1])
    np.testing.assert_allclose(found["logits"], winner.logits(images[:1]), rtol=1e-5, atol=1e-6)
    about = json.loads((tmp_path / "toy.stablehlo.json").read_text(encoding="utf-8"))
    expected = {**inference.describe(winner), "platforms": ["cpu", "cuda", "rocm", "tpu"]}
    assert about == expected


def test_without_what_writes_it(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(errors.ConfigError) as caught:
        stablehlo.write(toy_winner(), tmp_path / "toy.stablehlo")
    assert caught.value.cause == "the format stablehlo needs the package flatbuffers"
    assert caught.value.remedy == "Run pip install flatbuffers"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_without_ncap_jax_runs_it(tmp_path: pathlib.Path):
    pytest.importorskip("flatbuffers", reason="what jax.export writes files with")
    winner = toy_winner()
    stablehlo.write(winner, tmp_path / "toy.stablehlo")
    images = inference.samples(winner)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import jax, numpy as np, pathlib, sys\n"
        "f = jax.export.deserialize(bytearray(pathlib.Path('toy.stablehlo').read_bytes()))\n"
        "np.save('logits.npy', f.call(np.load('images.npy'))['logits'])\n"
        "assert not {'ncap_jax', 'flax'} & {*sys.modules}\n"
    )
    program = program.replace("import jax,", "import jax, jax.export,")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, winner.logits(images), rtol=1e-5, atol=1e-6)
