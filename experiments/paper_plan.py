"""What `experiments.reproduce_paper` is asked to do, and what of it can be done here."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal, NamedTuple

from experiments import paper_tables
from ncap_jax import caching, errors
from ncap_jax.data.published import list_published
from ncap_jax.options import RankConfig
from ncap_jax.types import ModelSpec
from ncap_jax.zoo.weights import sources

MODELS = (
    *("alexnet", "vgg16", "vgg19", "resnet50", "resnet101", "resnet152"),
    *("resnet50v2", "resnet101v2", "resnet152v2", "densenet121", "densenet169", "densenet201"),
    *("mobilenet", "mobilenetv2", "inceptionv3", "inceptionresnetv2", "xception"),
)
# Fields of RankConfig that the plan has under the same names.
SHARED = ("batch_size", "learning_rate", "dtype", "input_size", "weights", "weights_dir")
SETS = ("cifar10", "cifar100", "svhn_cropped", "fashion_mnist", "birds")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The experiment; the flags of the same names say what each field means."""

    models: tuple[str, ...] = MODELS
    sets: tuple[str, ...] = SETS
    data_dir: str | None = None
    birds: str = "caltech_birds2011"
    weights_dir: str | None = None
    weights: str = "pretrained"
    epochs: int = 10
    full_epochs: int = 50
    seeds: tuple[int, ...] = (0,)
    truths: tuple[str, ...] = ("probe", "linear")
    probe_widths: tuple[int, ...] = (256, 128, 64)
    other_probes: tuple[tuple[int, ...], ...] = ((64, 32, 16), (512, 256, 128))
    max_train: int | None = None
    max_validation: int | None = None
    input_size: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    dtype: str = "float32"
    output_dir: str = "runs/paper"
    check_only: bool = False

    def source(self, name: str) -> str:
        """What `load_dataset` is asked for."""
        return self.birds if name == "birds" else name

    def configs(self, seed: int) -> dict[str, RankConfig]:
        """Kind of run -> configuration; the other probes are only looked at early."""
        common: Any = RankConfig(
            head="probe",  # frozen
            epochs=self.full_epochs,
            seed=seed,
            probe_seed=seed,
            probe_widths=self.probe_widths,
            trial_rates=(),  # the paper has one rate
            strategy="full",
            beta_eff="every_epoch",
            **{name: getattr(self, name) for name in SHARED},
        )
        found = {"probe": common}
        if "linear" in self.truths:
            found["linear"] = dataclasses.replace(common, head="linear")
        for widths in self.other_probes:
            kind = "probe_" + "x".join(map(str, widths))
            found[kind] = dataclasses.replace(common, probe_widths=widths, epochs=self.epochs)
        return found


class Item(NamedTuple):
    """A model's weights or a data set: `yes` (it is there), `download` or `missing`, and more."""

    name: str
    there: Literal["yes", "download", "missing"]
    note: str

    @property
    def usable(self) -> bool:
        """Whether the experiment can try it."""
        return self.there != "missing"


def model_item(spec: ModelSpec, plan: Plan) -> Item:
    """Where a model's weights would come from."""
    if plan.weights == "random":
        return Item(spec.name, "yes", "random weights")
    if spec.family == "tiny":
        return Item(spec.name, "yes", "embedded")
    if local := sources.find_local(spec, plan.weights_dir):
        return Item(spec.name, "yes", local.name)
    if spec.weights is None:
        return Item(spec.name, "missing", "no pretrained weights: --weights=random")
    if sources.cache_entry(spec):
        return Item(spec.name, "yes", "in the cache")
    wanted = f"put {sources.published_name(spec)} into --weights_dir"
    if "://" not in spec.weights:
        return Item(spec.name, "missing", wanted)
    if caching.offline():
        return Item(spec.name, "missing", f"{wanted} ({spec.weights}), or unset NCAP_OFFLINE")
    return Item(spec.name, "download", f"will be downloaded from {spec.weights}")


def set_item(name: str, plan: Plan) -> Item:
    """Whether a data set is there; nothing of it is decoded."""
    source = plan.source(name)
    if source == "digits":
        return Item(name, "yes", "embedded")
    if os.sep in source or os.path.isdir(source):
        found = os.path.isdir(source)
        note = source if found else f"no such folder: {source}"
        return Item(name, "yes" if found else "missing", note)
    try:
        list_published(source, plan.data_dir, parts=())
    except errors.DataError as error:
        return Item(name, "missing", error.remedy)
    return Item(name, "yes", "prepared")


def inventory(models: list[Item], sets: list[Item]) -> str:
    """The tables of what is there and what is missing."""
    return "\n\n".join(
        paper_tables.table(
            [kind, "there", "where, or what to do"],
            [f"{i.name} | {i.there if i.usable else '**missing**'} | {i.note} |" for i in items],
        )
        for kind, items in (("model", models), ("data set", sets))
    )
