"""From the command to the ranking: where the seconds of a first and of a second run go.

    python -m benchmarks.first_answer --part=embedded
    python -m benchmarks.first_answer --part=zoo --shared=../shared/data \
        --torch_python=PATH/python --output=benchmarks/results/first_answer_cpu.json

`embedded`: what `make rank` runs. `zoo`: networks of ImageNet's size with random weights, on 500
images of 96 pixels (of six bird species; without --shared, digits enlarged), 5 epochs, batches of
32, Adam at one rate. Beside the zoo, by turns and on the same cores, PyTorch eager fine-tunes
timm's networks on the same data, with the same batches and evaluations
(`benchmarks.first_answer_torch`). PyTorch trains every network to the end, and beside it so do we;
`--strategy=auto` is the usual run, a race, which stops networks early.

Every run is a fresh process. `cold`: the folder of compiled programs is empty; `warm`: the same
command once more. What a stage is, and how its seconds are found: `benchmarks.first_answer_stages`.
Seconds on beta_eff, compilation included, have a row of their own; they are part of the others.

A finished run is written to --output at once. The same command continues after an interruption.
Linux only.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from absl import app, flags

from benchmarks.first_answer_runs import PARTS, Settings, measure
from benchmarks.first_answer_stages import table
from ncap_jax import files
from ncap_jax.options import STRATEGIES

_PART = flags.DEFINE_list("part", list(PARTS), f"Which parts to run: {', '.join(PARTS)}.")
_MODELS = flags.DEFINE_list("models", None, "Models of the part (default: see above).")
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of fine-tuning.", lower_bound=1)
_SHARED = flags.DEFINE_string("shared", None, "Folder that holds birds/birds6, train/<class>/*.")
_TORCH = flags.DEFINE_string(
    "torch_python", None, "Python that has torch and timm (default: none)."
)
_BESIDE = flags.DEFINE_integer(
    "beside", None, "Models prepared beside the one that trains (default: as a run decides)."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    None,
    STRATEGIES,
    "Who trains how long (default: full beside PyTorch, which trains every network to the end; "
    "else as a run decides).",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; the table is printed.")


@contextlib.contextmanager
def work_folder(output: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """Where data and compiled programs stay until all runs are made; beside the output."""
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)
        return
    work = output.with_suffix(".work").absolute()
    work.mkdir(parents=True, exist_ok=True)
    yield work
    shutil.rmtree(work)


def settings_of(part: str) -> Settings:
    """What the flags say of a part."""
    models = tuple(_MODELS.value or PARTS[part])
    return Settings(
        part,
        models,
        epochs=_EPOCHS.value,
        shared=_SHARED.value,
        torch_python=_TORCH.value,
        beside=_BESIDE.value,
        strategy=_STRATEGY.value,
    )


def main(argv: list[str]) -> None:
    """Make the runs, write each, print the tables."""
    del argv
    unknown = sorted(set(_PART.value) - set(PARTS))
    if unknown or (_MODELS.value and len(_PART.value) > 1):
        raise app.UsageError(f"give one of {', '.join(PARTS)} as --part, or both without --models")
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    result = json.loads(output.read_text()) if output and output.exists() else {}

    def save() -> None:
        if output:
            files.write_atomically(output, files.to_json(result, indent=1) + "\n")

    wanted = [settings_of(part) for part in _PART.value]
    for settings in wanted:
        found = result.setdefault(settings.part, settings.about())
        if any(found.get(key) != value for key, value in settings.about().items()):
            raise app.UsageError(f"{output} holds runs with other settings: give another --output")
    with work_folder(output) as work:
        for settings in wanted:
            measure(settings, result[settings.part], work, save)
    for part in _PART.value:
        print(f"\n{part}: {', '.join(result[part]['models'])}\n\n{table(result[part])}")
        if part == "zoo" and _TORCH.value is None:
            print("- PyTorch: not run. Give --torch_python, a Python that has torch and timm.")


if __name__ == "__main__":
    app.run(main)
