"""The lists of timm's models that have names of their own: small, base, edge, diverse12.

    python -m experiments.model_lists                 # prints the table of what is committed
    python -m experiments.model_lists --catalogue=../shared/data/catalogue     # makes it anew

Made from the tables that timm publishes (`results/` of its repository): top-1 on ImageNet, the
size of images that this was measured at, parameters, multiplications. A candidate is a model of
timm with weights, measured at 288 pixels at most. A list takes the best of every family (a file of
timm's), and of these the most accurate; `diverse12` takes the two most accurate families of each of
six kinds. The lists are written to ncap_jax/zoo/lists.json with the date of the tables. Needs the
extra `timm`.

Expected result: the table in docs/models.md.
"""

from __future__ import annotations

import csv
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from absl import app, flags

from ncap_jax import files
from ncap_jax.zoo.lists import FILE

FLAGS = flags.FLAGS
ACCURACY = "results-imagenet.csv"
COST = "benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
LARGEST_SIDE = 288
# What each file of timm's mainly holds; those that are not here are in no kind.
KINDS = {
    "residual": ("resnet", "resnetv2", "regnet", "byobnet", "cspnet", "densenet", "hgnet", "nfnet"),
    "mobile": ("efficientnet", "mobilenetv3", "rexnet", "repvit", "ghostnet", "starnet"),
    "modern convolutional": ("convnext", "mambaout", "inception_next", "rdnet", "focalnet"),
    "plain transformer": ("vision_transformer", "deit", "eva", "beit", "xcit", "cait", "volo"),
    "windowed transformer": ("swin_transformer", "swin_transformer_v2", "gcvit", "davit", "hiera"),
    "hybrid": ("maxxvit", "metaformer", "tiny_vit", "edgenext", "nextvit", "fastvit", "levit"),
}


class Rule(NamedTuple):
    """Who may be on a list.

    Attributes:
        about: in words.
        parameters: of a model, in millions: more than, at most.
        multiplications: at most, in billions, for one image.
        length: of the list.
    """

    about: str
    parameters: tuple[float, float]
    multiplications: float
    length: int


RULES = {
    "edge": Rule("at most 6 million parameters and 1 billion multiplications", (0, 6), 1, 8),
    "small": Rule("6 to 32 million parameters", (6, 32), 8, 8),
    "base": Rule("32 to 100 million parameters", (32, 100), 32, 8),
    "diverse12": Rule("at most 32 million parameters, two families of each kind", (0, 32), 8, 12),
}


class Row(NamedTuple):
    """One model of the tables: parameters in millions, multiplications in billions an image."""

    name: str
    family: str
    top1: float
    parameters: float
    multiplications: float
    size: int


def rows(folder: pathlib.Path) -> Iterator[Row]:
    """Every model that both tables and timm know, has weights, and is small enough in pixels."""
    from timm.models import _registry

    cost = {row["model"]: row for row in table(folder / COST)}
    for row in table(folder / ACCURACY):
        architecture = row["model"].split(".")[0]
        known = _registry._model_pretrained_cfgs.get(row["model"])
        spent = cost.get(row["model"]) or cost.get(architecture)
        size = int(row["img_size"])
        if known is None or not known.has_weights or spent is None or size > LARGEST_SIDE:
            continue
        scale = (size / int(spent["infer_img_size"])) ** 2
        yield Row(
            row["model"],
            _registry._model_to_module[architecture],
            float(row["top1"]),
            number(row["param_count"]),
            round(number(spent["infer_gmacs"]) * scale, 2),
            size,
        )


def table(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float:
    """A number that may have commas between its digits."""
    return float(text.replace(",", ""))


def chosen(rule: Rule, candidates: Iterable[Row], *, kinds: bool) -> list[Row]:
    """The models of a list, the most accurate first."""
    low, high = rule.parameters
    best: dict[str, Row] = {}
    for row in sorted(candidates, key=lambda row: (-row.top1, row.name)):
        if low < row.parameters <= high and row.multiplications <= rule.multiplications:
            best.setdefault(row.family, row)
    if not kinds:
        return list(best.values())[: rule.length]
    each = rule.length // len(KINDS)
    parts = [
        [row for row in best.values() if row.family in families][:each]
        for families in KINDS.values()
    ]
    return sorted((row for part in parts for row in part), key=lambda row: (-row.top1, row.name))


def content(folder: pathlib.Path) -> dict:
    """What lists.json holds."""
    found = list(rows(folder))
    dates = re.findall(r"commit of (\d{4}-\d\d-\d\d)", (folder / "README.md").read_text("utf-8"))
    return {
        "source": "results/ of github.com/huggingface/pytorch-image-models, Apache-2.0",
        "date": dates[0],
        "lists": {
            name: {
                "about": rule.about,
                "models": [row._asdict() for row in chosen(rule, found, kinds=name == "diverse12")],
            }
            for name, rule in RULES.items()
        },
    }


def model_table(lists: dict) -> str:
    """Every list with its models."""
    lines = ["| list | model | family | top-1 | parameters | side |", "|---|---|---|---|---|---|"]
    for name, entry in lists["lists"].items():
        for place, row in enumerate(entry["models"]):
            head = f"`{name}`: {entry['about']}" if place == 0 else ""
            figures = f"{row['top1']:.1f} | {row['parameters']:.1f} M | {row['size']}"
            lines.append(f"| {head} | `timm:{row['name']}` | {row['family']} | {figures} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Make the lists where a catalogue is given, and print them."""
    del argv
    if FLAGS.catalogue:
        made = content(pathlib.Path(FLAGS.catalogue))
        files.write_atomically(FILE, json.dumps(made, indent=1) + "\n")
    print(model_table(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    flags.DEFINE_string("catalogue", "", "Folder with timm's tables; empty: only print.")
    app.run(main)
