"""Six of timm's models beside two of the zoo, the whole way: killed, resumed, finished, exported.

    python -m experiments.timm_live           # ten minutes on two cores; resumes set by set
    python -m experiments.timm_live --show    # the table of what is there

On digits and on birds6, each with one command line for eight models: `python -m ncap_jax
--models=...` is killed by SIGKILL while the third model trains, and given once more; then
`finish`. The winner of the eight may be the zoo's. So a copy of the folder is ranked again, of
timm's models alone, which trains nothing; its first two are finished, and the winner goes back to
timm: `export --format=timm`, `timm.create_model`, `load_state_dict(strict=True)`, and the logits
of both sides on the same pixels.

timm's models are the small ones that it keeps for tests, of six kinds; their weights are random,
drawn by timm and written as it publishes them. Those of the zoo are genuine. 256 images train, 128
validate, at 64 pixels, two epochs: accuracies mean little, and none should be read as a comparison
of architectures. Needs the extra `timm`.

Expected result: experiments/tables/timm_live.md.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import app, flags

import ncap_jax as ncap
from ncap_jax.finetune import trajectory_files
from ncap_jax.zoo import find_model, preprocess

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "tables" / "timm_live.jsonl"
ROOT = pathlib.Path(__file__).resolve().parents[1]

Line = dict[str, Any]

# The small networks that timm keeps for tests, of six kinds.
SIX = (
    "test_resnet",
    "test_byobnet",
    "test_efficientnet",
    "test_convnext",
    "test_vit",
    "test_mambaout",
)
# Of the zoo: one comes with the package, one is Keras's file.
TWO = ("tiny_convnext", "mobilenet_025")
KERAS = "mobilenet_2_5_224_tf_no_top.h5"
EPOCHS, SIDE, TRAIN, VALIDATION = 2, 64, 256, 128
# Set -> where it is, below the shared folder if it is a path, and what its command line needs.
SETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "digits": ("digits", ("--test_fraction=0.1",)),
    "birds6": ("birds/birds6", ()),
}
# Two models are done, and the third has an epoch.
LINES_AT_KILL = 2 * (EPOCHS + 1) + 2


def draw_weights(folder: pathlib.Path, shared: pathlib.Path, names: Iterable[str] = SIX) -> None:
    """Fill a folder with weights: timm's as timm draws and publishes them, the zoo's as they are.

    Args:
        folder: made if it is not there.
        shared: folder with the real data.
        names: of timm's architectures.
    """
    import safetensors.torch
    import timm
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in names:
            file = find_model(f"timm:{name}").layout.file
            module = timm.create_model(name)
            safetensors.torch.save_file(module.state_dict(), folder / str(file))
    shutil.copy(shared / "weights" / KERAS, folder)


def live(name: str, work: pathlib.Path, shared: pathlib.Path) -> Line:
    """The whole way on one set; raises where a command fails.

    Args:
        name: of the set.
        work: an empty folder; `weights` in it is filled if it is not there.
        shared: folder with the real data.
    """
    start = time.monotonic()
    place, more = SETS[name]
    weights, folder, only = (work / part for part in ("weights", name, f"{name}, timm's"))
    if not weights.is_dir():
        draw_weights(weights, shared)
    words = [
        f"--dataset={shared / place if '/' in place else place}",
        f"--weights_dir={weights}",
        *(f"--epochs={EPOCHS}", f"--input_size={SIDE}", "--batch_size=32", "--learning_rate=1e-3"),
        *(f"--max_train={TRAIN}", f"--max_validation={VALIDATION}", "--keep_states=8"),
        "--strategy=full",
        *more,
    ]
    timms = [f"timm:{each}" for each in SIX]
    eight = [f"--models={','.join([*timms, *TWO])}", *words, f"--output_dir={folder}"]
    before = killed(eight, folder)
    command(*eight)
    after = trajectories(folder)
    kept = all(after[model].startswith(text) for model, text in before.items())
    shutil.copytree(folder, only)
    command("finish", str(folder), "--max_epochs=1")
    command(f"--models={','.join(timms)}", *words, f"--output_dir={only}")
    unchanged = all(after[model] == text for model, text in trajectories(only).items())
    command("finish", str(only), "--max_epochs=1")
    return {
        "set": name,
        "killed_at": {model: text.count("\n") - 1 for model, text in before.items()},
        "kept": kept,
        "ranked_again_without_training": unchanged,
        "ranking": ranked(folder),
        "reported": reported(folder),
        "winner": figures(folder / "winner"),
        "winner_of_timm": figures(only / "winner"),
        "difference": given_back(only / "winner", only / "exported"),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


# ---- commands ------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """This process's variables, for the same package, and nothing is downloaded."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "NCAP_OFFLINE": "1"}


def command(*words: str) -> str:
    """Run the product's command line; what it prints.

    Raises:
        RuntimeError: it failed; the text holds what it said.
    """
    full = [sys.executable, "-m", "ncap_jax", *words]
    done = subprocess.run(full, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: code {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def killed(words: Sequence[str], folder: pathlib.Path) -> dict[str, str]:
    """Start a ranking and kill it while the third model trains; the trajectories that it left.

    Raises:
        RuntimeError: it ended before.
    """
    full = [sys.executable, "-m", "ncap_jax", *words]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(full, env=environment(), stdout=log, stderr=log) as process,
    ):
        while sum(text.count("\n") for text in trajectories(folder).values()) < LINES_AT_KILL:
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"it ended before it was killed:\n{log.read()[-4000:]}")
            time.sleep(0.01)
        process.kill()
    if process.returncode != -signal.SIGKILL or (folder / "ranking.json").exists():
        raise RuntimeError("it ended before it was killed")
    return trajectories(folder)


# ---- what came of it -----------------------------------------------------------------------------


def trajectories(folder: pathlib.Path) -> dict[str, str]:
    """Model -> whole lines of its trajectory in a run's folder."""
    files = sorted((folder / trajectory_files.FOLDER).glob("*.jsonl"))
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    return {model: text[: text.rfind("\n") + 1] for model, text in texts.items()}


def ranked(folder: pathlib.Path) -> list[list[Any]]:
    """Name, status and last validation accuracy of the models, the first one first."""
    rows = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))["models"]
    return [
        [row["name"], row["status"], round(last_accuracy(folder, row["name"]), 3)] for row in rows
    ]


def last_accuracy(folder: pathlib.Path, model: str) -> float:
    """Of the last epoch in a model's trajectory."""
    path = folder / trajectory_files.FOLDER / f"{model}.jsonl"
    return trajectory_files.read(path)[-1].validation_accuracy


def reported(folder: pathlib.Path) -> bool:
    """Whether the report names all eight models."""
    report = (folder / "report.html").read_text(encoding="utf-8")
    return all(name in report for name in (*SIX, *TWO))


def figures(package: pathlib.Path) -> list[Any]:
    """Name, validation and test accuracy of a model that was saved."""
    winner = ncap.load(package)
    rates = winner.validation_accuracy, winner.test_accuracy
    return [winner.name, *(None if rate is None else round(rate, 3) for rate in rates)]


def given_back(package: pathlib.Path, folder: pathlib.Path) -> float:
    """Export a model; how far timm's logits are from ours, relative to the largest.

    timm makes the model of the folder, and loads its weights once more with `strict=True`.
    """
    import safetensors.torch
    import timm
    import torch

    command("export", str(package), "--format=timm", f"--output={folder}")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    arrays = safetensors.torch.load_file(folder / "model.safetensors")
    model.load_state_dict(arrays, strict=True)
    winner = ncap.load(package)
    form = winner.facts.preprocessing
    shape = (8, *form.image_size, form.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels = np.asarray(preprocess.preprocess(jnp.asarray(images), form.mode, form.input_size))
    with torch.no_grad():
        theirs = model(torch.tensor(np.moveaxis(pixels, -1, 1))).numpy()
    ours = winner.logits(images)
    return float(f"{np.abs(theirs - ours).max() / np.abs(ours).max():.1e}")


# ---- what is printed -----------------------------------------------------------------------------


def table(lines: Sequence[Line]) -> str:
    """A line a set."""
    rows = [
        "| set | epochs when it was killed | winner of the eight: validation, test "
        "| winner of timm's six: validation, test | timm's logits from ours |",
        "|---" * 5 + "|",
    ]
    for line in lines:
        killed_at = ", ".join(f"{model} {epochs}" for model, epochs in line["killed_at"].items())
        winners = " | ".join(winner_text(line[key]) for key in ("winner", "winner_of_timm"))
        rows.append(f"| {line['set']} | {killed_at} | {winners} | {line['difference']:.1e} |")
    return "\n".join(rows)


def winner_text(winner: Sequence[Any]) -> str:
    """Name, validation accuracy, test accuracy."""
    return f"`{winner[0]}`: {', '.join(f'{100 * rate:.1f}' for rate in winner[1:])}"


def ranking_table(lines: Sequence[Line]) -> str:
    """The models of each set in their order, with the last validation accuracy."""
    rows = ["| set | ranking, with the last validation accuracy |", "|---|---|"]
    for line in lines:
        models = ", ".join(f"`{name}` {100 * rate:.1f}" for name, _, rate in line["ranking"])
        rows.append(f"| {line['set']} | {models} |")
    return "\n".join(rows)


def read() -> list[Line]:
    """The lines of the file."""
    if not RESULTS.is_file():
        return []
    return [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()]


def show(lines: Sequence[Line]) -> None:
    """Print the tables."""
    print(f"{table(lines)}\n\n{ranking_table(lines)}")


def main(argv: list[str]) -> None:
    """Go the way on every set that the file lacks, and print the tables."""
    del argv
    work = pathlib.Path(FLAGS.work_dir).resolve()
    for name in SETS:
        if FLAGS.show or name in {line["set"] for line in read()}:
            continue
        for part in (name, f"{name}, timm's"):
            shutil.rmtree(work / part, ignore_errors=True)
        line = live(name, work, pathlib.Path(FLAGS.shared).resolve())
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    show(read())


if __name__ == "__main__":
    flags.DEFINE_string("work_dir", "runs/timm_live", "Where the runs are kept.")
    flags.DEFINE_string("shared", "../shared/data", "Folder with the sets and the weights.")
    flags.DEFINE_bool("show", False, "Run nothing.")
    app.run(main)
