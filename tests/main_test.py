"""The command line as a person uses it: a real process, its output, files and exit codes."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def ncap(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "ncap_jax", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_ranks_embedded_models(tmp_path):
    result = ncap(
        "--models=tiny_depthwise,tiny_plain_barely",
        "--epochs=2",
        "--probe_widths=32,24,16",
        "--trial_rates=3e-4",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "tiny_depthwise" in result.stdout
    assert "tiny_plain_barely" in result.stdout
    folder = tmp_path / "runs" / "digits"
    assert str(pathlib.Path("runs") / "digits" / "report.html") in result.stdout
    content = json.loads((folder / "ranking.json").read_text())
    assert content["config"]["probe_widths"] == [32, 24, 16]
    assert content["config"]["trial_rates"] == [3e-4]
    assert {model["learning_rate"] for model in content["models"]} <= {1e-3, 3e-4}
    assert "Learning rate, the better of those tried" in result.stdout
    run = json.loads((folder / "run.json").read_text())
    assert all(len(model["weights_sha256"]) == 64 for model in run["models"].values())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--models=tiny_plan"], "Did you mean tiny_plain"),
        (["--dataset=digist"], "digits"),
        (["--epochs=0"], "epochs=0"),
        (["--epoch=3"], "Did you mean: epochs"),
        (["--head=linaer"], "probe|trainable_probe|linear"),
        (["--epochs=1", "--predictor=published_ridge"], "2"),
        (["--probe_widths=a,b,c"], "not whole numbers"),
        (["--trial_rates=fast"], "trial_rates=fast are not numbers"),
        (["stray"], "unexpected argument 'stray'"),
        (["--output_dir=/proc/none"], "cannot write to /proc/none"),
    ],
)
def test_bad_input_exits_with_2(tmp_path, arguments, match):
    result = ncap(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert match in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on(tmp_path):
    small = ["--max_train=40", "--max_validation=20", "--probe_widths=8,8,8"]
    command = [sys.executable, "-m", "ncap_jax", "--models=tiny_depthwise", "--epochs=999", *small]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them, and so their children, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        while "epoch 1/999" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted; with --output_dir=runs/digits the same command goes on" in said
    assert "Traceback" not in said


def test_help_is_readable(tmp_path):
    result = ncap("--help", cwd=tmp_path)
    for flag in ("--models", "--dataset", "--epochs", "--output_dir", "--head"):
        assert flag in result.stdout
    assert "python -m ncap_jax --models" in result.stdout


def test_list_models(tmp_path):
    result = ncap("--list_models", cwd=tmp_path)
    assert result.returncode == 0
    assert "tiny_resnet_random" in result.stdout


CODE = """
import sys
import ncap_jax
heavy = {"jax", "flax", "optax", "sklearn", "matplotlib", "tensorflow"} & set(sys.modules)
assert not heavy, heavy
ncap_jax.rank_models(["tiny_depthwise"], "digits",
    ncap_jax.RankConfig(epochs=1, probe_widths=(8, 8, 8)), show_progress=False)
assert "tensorflow" not in sys.modules
print("fine")
"""


def test_nothing_heavy_is_imported_before_use_and_tensorflow_never():
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=500, check=False
    )
    assert result.stdout.strip() == "fine", result.stderr
