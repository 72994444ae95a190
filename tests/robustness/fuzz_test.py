"""Random and damaged input: refused with a named error, or read; never a crash, never code run."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import pathlib
import re
import string

import h5py
import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from absl.testing import flagsaver
from hypothesis import strategies as st

import ncap_jax
from ncap_jax import __main__ as command_line
from ncap_jax import errors, options
from ncap_jax.commands import flagging
from ncap_jax.finetune import trajectory_files
from ncap_jax.options import DataConfig, RankConfig
from ncap_jax.report.ranking_files import read_ranking
from ncap_jax.run import checks, ledger, rerun
from ncap_jax.run.folder import RunFolder
from ncap_jax.zoo.weights import readers
from tests.support.fuzzing import ENTRY, FACTS, LINE, fuzz, lines, mutated, with_json

PACKAGE = pathlib.Path(ncap_jax.__file__).parent

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.lists(st.integers(), max_size=4).map(tuple),
    st.lists(st.floats(), max_size=4),
    st.sampled_from(["adam", "probe", "linear", "halving", "processes", "data:8", "bfloat16"]),
)


def changed(record):
    """A record of a configuration with one to three fields of any value."""
    names = [field.name for field in dataclasses.fields(record)]
    return st.dictionaries(st.sampled_from(names), ANYTHING, min_size=1, max_size=3)


@fuzz(changed(RankConfig), examples=150)
def test_configurations(fields, folder):
    config = RankConfig(**fields)
    try:
        options.check(config)
        checks.check_run(dataclasses.replace(config, executor="local"), [])
    except errors.NcapError:
        return
    # What passes can be written down and drawn from.
    json.dumps(dataclasses.asdict(config))
    np.random.default_rng(config.seed)


@fuzz(changed(DataConfig))
def test_data_configurations(fields, folder):
    config = DataConfig(**fields)
    try:
        options.check(config)
    except errors.ConfigError:
        return
    json.dumps(dataclasses.asdict(config))


FLAG_NAMES = [f.name for r in (RankConfig, DataConfig) for f in dataclasses.fields(r)]
WORDS = st.text(string.printable, max_size=8) | st.integers().map(str) | st.floats().map(str)


@fuzz(st.lists(st.tuples(st.sampled_from(FLAG_NAMES), WORDS), min_size=1, max_size=3))
def test_flags(pairs, folder):
    arguments = [f"--{name}={value}" for name, value in pairs]
    with flagsaver.flagsaver():
        try:
            flags.FLAGS(["ncap_jax", *arguments])
            config = flagging.record(RankConfig, command_line.FLAGS)
            options.check(config)
            options.check(flagging.record(DataConfig, command_line.FLAGS))
        except (errors.NcapError, flags.Error):
            return
    assert isinstance(config, RankConfig)


@fuzz(lines(LINE), examples=150)
def test_trajectories(content, folder):
    path = folder / "a.jsonl"
    path.write_bytes(content)
    for record in trajectory_files.read_sound(path):
        assert isinstance(record.epoch, int)
        trajectory_files.line(record)
    with contextlib.suppress(errors.OutputError):
        trajectory_files.read(path)


@fuzz(lines(ENTRY))
def test_ledgers(content, folder):
    (folder / ledger.FILE).write_bytes(content)
    for entry in ledger.read(folder):
        assert isinstance(entry.model, str)
        assert isinstance(entry.records, int)


@fuzz(mutated(json.dumps(FACTS).encode()) | with_json(json.dumps(FACTS)), examples=150)
def test_run_files(content, folder):
    (folder / "run.json").write_bytes(content)
    try:
        saved = rerun.read_saved_run(folder)
    except errors.NcapError:
        pass
    else:
        assert isinstance(saved.config, RankConfig)
        assert all(isinstance(name, str) for name in (*saved.models, saved.dataset))
    with contextlib.suppress(errors.OutputError), RunFolder(folder, FACTS):
        pass


RANKING = json.dumps(
    {
        "schema": 1,
        "dataset": "digits",
        "config": dataclasses.asdict(RankConfig()),
        "predictor": "last_seen",
        "strength": "signed",
        "models": [],
    }
).encode()


@fuzz(mutated(RANKING) | with_json(RANKING))
def test_rankings(content, folder):
    (folder / "ranking.json").write_bytes(content)
    with contextlib.suppress(errors.OutputError):
        read_ranking(folder)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000, "1" * 10_000, "1e999"])
def test_absurd_json(tmp_path, content):
    for name in ("ranking.json", "run.json", "a.jsonl", ledger.FILE):
        (tmp_path / name).write_text(content)
    for read in (
        read_ranking,
        rerun.read_saved_run,
        lambda folder: trajectory_files.read(folder / "a.jsonl"),
    ):
        with pytest.raises(errors.OutputError):
            read(tmp_path)
    with pytest.warns(UserWarning, match="line 1 is damaged"):
        assert ledger.read(tmp_path) == []


def keras_file():
    """A small genuine weights file in Keras's legacy format."""
    with h5py.File("genuine.h5", "w", driver="core", backing_store=False) as file:
        file.attrs["layer_names"] = [b"a", b"b"]
        for layer in "ab":
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
            group.create_dataset(f"{layer}/kernel:0", data=np.ones((2, 3), np.float32))
        file.flush()
        return file.id.get_file_image()


ARRAYS = {"a.kernel": np.ones((2, 3), np.float32), "a.bias": np.ones(3, np.float32)}
WEIGHTS = {"safetensors": safetensors.numpy.save(ARRAYS), "h5": keras_file()}
SHIPPED = (PACKAGE / "zoo" / "weights" / "tiny_inverted.safetensors").read_bytes()


def structure(content):
    """Where a file says what it holds: safetensors' header, HDF5's blocks beside the arrays."""
    if content[8:9] == b"{":
        return range(8 + int.from_bytes(content[:8], "little"))
    marks = re.finditer(rb"\x89HDF|TREE|HEAP|SNOD|OHDR|OCHK|GCOL|\x01\x00", content)
    return [at for mark in marks for at in range(mark.start(), mark.start() + 64)]


def damaged(content):
    """A file with up to six bytes of its structure changed: flipped, or set to an extreme."""
    places = [at for at in structure(content) if at < len(content)]
    values = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)

    def apply(changes):
        changed = bytearray(content)
        for at, value in changes:
            changed[at] = value
        return bytes(changed)

    edits = st.tuples(st.sampled_from(places), values)
    return st.lists(edits, min_size=1, max_size=6).map(apply)


FILES = st.one_of(*(f(c) for f in (mutated, damaged) for c in WEIGHTS.values()), damaged(SHIPPED))


@fuzz(FILES, examples=200)
def test_weights(content, folder):
    path = folder / "weights"
    path.write_bytes(content)
    try:
        arrays = readers.read(path)
    except errors.WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) < 1000 * len(content)


def calls(tree):
    """Dotted names of what a module calls, and the keywords it passes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            yield ast.unparse(node.func), words


UNSAFE = {"eval", "exec", "marshal.loads", "joblib.load", "dill.load", "yaml.load", "os.system"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_nothing_that_is_read_can_run(path):
    """No reader of the package can run code: neither Python's own ways nor pickles of libraries."""
    for name, words in calls(ast.parse(path.read_text())):
        assert name not in UNSAFE, name
        assert words.get("allow_pickle") is not True
        if name == "torch.load":
            assert words["weights_only"] is True
        assert words.get("shell") is not True
