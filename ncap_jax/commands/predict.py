"""Label images with a model that was saved.

    python -m ncap_jax predict MODEL IMAGES... [--json|--csv]

    python -m ncap_jax predict runs/photos/winner new/
    python -m ncap_jax predict model/ a.jpg b.jpg --json

MODEL is the folder of a saved model. IMAGES are files, folders, or patterns such as 'new/*.jpg'.
Each image becomes a line: probability, class, path. With --csv they become rows of
image,label,probability,problem; with --json objects that hold the probabilities of all classes.

Exit codes: 0, all images are labelled; 2, bad input; 3, no image can be read; 5, some cannot be
read, and the others are labelled; 130, interrupted. What cannot be read is named on standard error.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ncap_jax import errors, files, interrupts
from ncap_jax.commands import flagging

if TYPE_CHECKING:
    from ncap_jax.winner.model import Answer, Winner

flags.disclaim_key_flags()


def main(words: Sequence[str]) -> int:
    """Label the images that the words name; returns the exit code."""
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "Print JSON, with every class's probability.", values)
    flags.DEFINE_bool("csv", False, "Print CSV with a header.", values)
    folder, images = _arguments(flagging.parse(values, words, __doc__ or ""))
    if values.json and values.csv:
        raise errors.ConfigError("--json and --csv are both given", "Give one of them")
    show = _as_json if values.json else _as_csv if values.csv else _as_lines
    try:
        with interrupts.job(str):
            return label(folder, images, show)
    except KeyboardInterrupt:
        interrupts.announce("interrupted")
        return interrupts.EXIT_CODE


def _arguments(words: list[str]) -> tuple[str, list[str]]:
    if len(words) < 2:
        missing = "no model is given" if not words else "no images are given"
        raise errors.ConfigError(missing, "Write python -m ncap_jax predict MODEL IMAGES")
    return words[0], words[1:]


Show = Callable[["Winner", "list[Answer]"], None]


def label(folder: str, images: list[str], show: Show) -> int:
    """Label images and show the answers; returns the exit code."""
    # Imported here: a misspelt command need not wait for JAX.
    from ncap_jax.report import text
    from ncap_jax.winner.package import load

    winner = load(folder)
    answers = winner.answers(images)
    show(winner, answers)
    broken = [answer for answer in answers if answer.problem]
    for answer in broken:
        print(text.visible(f"error: {answer.name}: {answer.problem}"), file=sys.stderr)
    if not broken:
        return 0
    return 3 if len(broken) == len(answers) else 5


def _as_lines(winner: Winner, answers: list[Answer]) -> None:
    from ncap_jax.report import text

    labels = {answer.label: text.visible(answer.label) for answer in answers}
    width = max(map(len, labels.values()))
    for answer in answers:
        if not answer.problem:
            share = text.percent(answer.probability)
            print(f"{share:>7}  {labels[answer.label]:<{width}}  {text.visible(answer.name)}")


def _as_csv(winner: Winner, answers: list[Answer]) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "label", "probability", "problem"])
    for answer in answers:
        share = "" if answer.problem else f"{answer.probability:.6f}"
        rows.writerow([answer.name, answer.label, share, answer.problem])


def _as_json(winner: Winner, answers: list[Answer]) -> None:
    def fields(answer: Answer) -> dict[str, Any]:
        if answer.problem:
            return {"image": answer.name, "problem": answer.problem}
        return {
            "image": answer.name,
            "label": answer.label,
            "probability": answer.probability,
            "probabilities": dict(zip(winner.class_names, answer.probabilities.tolist())),
        }

    print(files.to_json([fields(answer) for answer in answers], indent=1))
