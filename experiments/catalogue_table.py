"""The table of published accuracies that a recall goes by.

    python -m experiments.catalogue_table                 # prints how many models it has
    python -m experiments.catalogue_table --catalogue=../shared/data/catalogue     # makes it anew

timm's models come from the tables in its repository (`results/`): top-1 on ImageNet at the smallest
size of images that it was measured at, parameters with the classifier, and as family the file of
timm's that holds the architecture. The zoo's other models come from where their publishers say it:

    Keras Applications       README of github.com/keras-team/keras-applications
    MobileNets of TFLite     research/slim/nets/mobilenet_v1.md of github.com/tensorflow/models
    MobileNet v2 of TFLite   "List of Hosted Models" of TensorFlow Lite
    AlexNet, SqueezeNet 1.1  documentation of torchvision
    CIFAR ResNets            README of github.com/akamaster/pytorch_resnet_cifar10, on CIFAR-10
    ViT, ConvNeXt            timm's tables, by the name of the weights

Written to ncap_jax/zoo/catalogue.json with the date of timm's tables. Needs the extra `timm`.

Expected result: the number of models in docs/models.md.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence

from absl import app, flags

from experiments.model_lists import ACCURACY, number, table
from ncap_jax import files
from ncap_jax.zoo.catalogue import FILE

FLAGS = flags.FLAGS
# Top-1 in percent, as published.
ZOO = {
    "vgg16": 71.27,
    "vgg19": 71.26,
    "resnet50": 74.70,
    "resnet101": 76.4,
    "resnet152": 76.6,
    "resnet50v2": 76.0,
    "resnet101v2": 77.2,
    "resnet152v2": 78.0,
    "inceptionv3": 77.90,
    "inceptionresnetv2": 80.26,
    "xception": 79.01,
    "densenet121": 74.52,
    "densenet169": 76.07,
    "densenet201": 77.06,
    "mobilenet_025": 51.58,
    "mobilenet_050": 64.29,
    "mobilenet_075": 68.41,
    "mobilenet": 70.42,
    "mobilenetv2_035": 60.09,
    "mobilenetv2_050": 65.19,
    "mobilenetv2_075": 69.53,
    "mobilenetv2": 71.34,
    "mobilenetv2_130": 74.68,
    "mobilenetv2_140": 75.23,
    "mobilenet_025_folded": 39.9,
    "mobilenet_050_folded": 57.7,
    "mobilenet_075_folded": 66.2,
    "mobilenet_folded": 69.7,
    "mobilenetv2_folded": 70.8,
    "alexnet": 56.52,
    "squeezenet": 58.18,
    "cifar_resnet20": 91.73,
    "cifar_resnet32": 92.63,
    "cifar_resnet44": 93.10,
    "cifar_resnet56": 93.39,
}
# Models of the zoo whose weights are timm's.
TIMMS = {
    "vit_ti16": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_s16": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_b16": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "convnext_tiny": "convnext_tiny.fb_in1k",
}


def content(folder: pathlib.Path) -> dict:
    """What catalogue.json holds."""
    from timm.models import _registry

    smallest: dict[str, dict[str, str]] = {}
    for row in table(folder / ACCURACY):
        known = smallest.get(row["model"])
        if known is None or int(row["img_size"]) < int(known["img_size"]):
            smallest[row["model"]] = row
    families: dict[str, dict[str, list[float]]] = {}
    for name, row in sorted(smallest.items()):
        if (family := _registry._model_to_module.get(name.split(".")[0])) is not None:
            figures = [round(float(row["top1"]), 2), number(row["param_count"])]
            families.setdefault(family, {})[name] = figures
    tops = {name: figures[0] for models in families.values() for name, figures in models.items()}
    dates = re.findall(r"commit of (\d{4}-\d\d-\d\d)", (folder / "README.md").read_text("utf-8"))
    return {
        "source": "results/ of github.com/huggingface/pytorch-image-models, Apache-2.0; for the "
        "zoo: experiments/catalogue_table.py",
        "date": dates[0],
        "zoo": dict(sorted({**ZOO, **{ours: tops[name] for ours, name in TIMMS.items()}}.items())),
        "timm": dict(sorted(families.items())),
    }


def written(made: dict) -> str:
    """The text of catalogue.json: a line a family, which keeps a change of it readable."""
    lines = [f" {json.dumps(key)}: {json.dumps(made[key])}" for key in ("source", "date", "zoo")]
    families = [
        f"  {json.dumps(family)}: {json.dumps(models, separators=(',', ':'))}"
        for family, models in made["timm"].items()
    ]
    return "{\n" + ",\n".join(lines) + ',\n "timm": {\n' + ",\n".join(families) + "\n }\n}\n"


def summary(made: dict) -> str:
    """How many models there are."""
    timm = sum(map(len, made["timm"].values()))
    return f"{timm:,} of timm's in {len(made['timm'])} families, {len(made['zoo'])} of the zoo"


def main(argv: Sequence[str]) -> None:
    """Make the table where a catalogue is given, and print its size."""
    del argv
    if FLAGS.catalogue:
        files.write_atomically(FILE, written(content(pathlib.Path(FLAGS.catalogue))))
    print(summary(json.loads(FILE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    flags.DEFINE_string("catalogue", "", "Folder with timm's tables; empty: only print.")
    app.run(main)
