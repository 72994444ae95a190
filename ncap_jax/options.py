"""Every option of a run once: its type, default, help text and check.

The command line makes its flags of these fields, `check` refuses wrong values by the same fields,
and `help(ncap_jax.RankConfig)` shows their texts. Whether options go together, with the models and
with the machine, is checked where that is known (`ncap_jax.run.checks`).
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from ncap_jax import errors

Head = Literal["probe", "trainable_probe", "linear"]
HEADS: tuple[Head, ...] = ("probe", "trainable_probe", "linear")
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
OPTIMIZERS = ("adam", "sgd")
DTYPES = ("float32", "bfloat16")
WEIGHTS = ("pretrained", "random")
LICENCES = ("any", "commercial")
AUGMENT = ("off", "recommended")
BETA_EFF = ("auto", "off", "every_epoch")
STRATEGIES = ("auto", "full", "race", "halving")
EXECUTORS = ("local", "processes", "ray")
SCHEDULES = ("cosine", "plateau", "constant")
CLASS_WEIGHTS = ("off", "balanced")
RECALL_PARTS = ("prior", "features", "diversity")
SEEDS = 2**32  # what every generator in use takes
MIN_HIDDEN_LAYERS = 3
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 4096

Record = TypeVar("Record")


@dataclass(frozen=True)
class Check:
    """What a value of the right type must satisfy.

    Attributes:
        admits: whether a value is fine.
        remedy: what to give instead.
        choices: the known names, where there is a list of them.
        cause: what to say of a wrong value after the option's name; None: only the value.
    """

    admits: Callable[[Any], bool]
    remedy: str = ""
    choices: Sequence[str] = ()
    cause: Callable[[Any], str] | None = None

    def refuse(self, name: str, value: Any) -> errors.ConfigError:
        """The error for a wrong value."""
        if self.choices:
            return errors.ConfigError(*errors.unknown_name(name, str(value), self.choices))
        reason = f", {self.cause(value)}" if self.cause else ""
        return errors.ConfigError(f"{name}={shown(value)}{reason}", self.remedy)


def at_least(minimum: int) -> Check:
    """A whole number from `minimum` on."""
    return Check(lambda value: value >= minimum, f"Give a whole number of at least {minimum}")


def within(low: int, high: int, what: str) -> Check:
    """A whole number from `low` to `high`."""
    return Check(lambda value: low <= value <= high, f"Give {what} from {low} to {high}")


def one_of(*choices: str) -> Check:
    """One of some names."""
    return Check(lambda value: value in choices, choices=choices)


def fraction(example: str) -> Check:
    """A number between 0 and 1, both excluded."""
    return Check(lambda value: 0 < value < 1, f"Give a number between 0 and 1, such as {example}")


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _too_shallow(widths: Sequence[int]) -> str:
    if len(widths) >= MIN_HIDDEN_LAYERS:
        return "not all of which are positive"
    return (
        f"with which the signed beta_eff is exactly 0: a probe of {len(widths)} hidden layers is "
        "too shallow, because the output gradients of softmax and cross-entropy sum to 0"
    )


RATE = Check(_positive, "Give a positive number, such as 1e-3")
RATES = Check(lambda rates: all(map(_positive, rates)), "Give positive numbers, such as 3e-4")
SECONDS = Check(_positive, "Give a positive number of seconds")
MILLISECONDS = Check(_positive, "Give a positive number of milliseconds")
POINTS = Check(lambda points: 0 <= points <= 100, "Give a number of points from 0 to 100")
MEASURED = Check(
    lambda size: size >= 1,
    "Give a whole number of at least 1. To measure no beta_eff, use beta_eff='off'",
)
SEED = within(0, SEEDS - 1, "a whole number")
PARTS_OF_RECALL = Check(
    lambda parts: set(parts) <= set(RECALL_PARTS), f"Give some of {', '.join(RECALL_PARTS)}"
)
HIDDEN_WIDTHS = Check(
    lambda widths: len(widths) >= MIN_HIDDEN_LAYERS and min(widths) >= 1,
    f"Give at least {MIN_HIDDEN_LAYERS} positive widths, such as 256,128,64",
    cause=_too_shallow,
)


def option(default: Any, text: str, check: Check | None = None, *, path: bool = False) -> Any:
    """A field of an options record.

    Args:
        default: its value where nothing is given.
        text: what it means, for `--help` and for Python's `help`.
        check: what its values must satisfy beside their type. None passes where the type admits it.
        path: whether an `os.PathLike` may stand for the text.
    """
    return dataclasses.field(default=default, metadata={"text": text, "check": check, "path": path})


class Option(NamedTuple):
    """One option, as flags and documents need it."""

    name: str
    hint: Any
    default: Any
    text: str
    check: Check | None
    path: bool


def options_of(record: type) -> Iterator[Option]:
    """The options that a record declares, in order."""
    hints = typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        yield Option(field.name, hints[field.name], field.default, **field.metadata)


def check(record: Any) -> None:
    """Refuse an options record with a value of the wrong type, or one that cannot work.

    Raises:
        ConfigError: names the option, its value and what it may be.
    """
    for each in options_of(type(record)):
        check_value(each, getattr(record, each.name))


def check_value(each: Option, value: Any) -> None:
    """Refuse one value of an option; see `check`."""
    if each.path and isinstance(value, os.PathLike):
        return
    if not admits(each.hint, value):
        raise errors.ConfigError(
            f"{each.name}={shown(value)} is not {described(each.hint)}",
            f"The default is {each.default!r}",
        )
    if value is not None and each.check is not None and not each.check.admits(value):
        raise each.check.refuse(each.name, value)


# type -> what it admits, and what that is called. A bool is not a number, though Python says so.
ADMITTED: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "None"),
}


def admits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type: of `ADMITTED`, a union, a literal, or a tuple of one kind."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(admits(part, value) for part in parts)
    if origin is typing.Literal:
        return isinstance(value, str)  # which names are known is the option's own check
    if origin is tuple:
        return isinstance(value, tuple | list) and all(admits(parts[0], item) for item in value)
    kinds, _ = ADMITTED[hint]
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def described(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(described(part) for part in parts)
    if origin is typing.Literal:
        return "text"
    if origin is tuple:
        return f"a list of {plural(parts[0])}"
    return ADMITTED[hint][1]


def plural(hint: Any) -> str:
    """Several values of a type in words."""
    return {int: "whole numbers", float: "numbers", str: "texts"}[hint]


def parse_list(each: Option, words: Sequence[str]) -> tuple[Any, ...]:
    """The values of an option that is a list, from the words of a flag.

    Raises:
        ConfigError: a word is not a number of the option's kind.
    """
    kind = next(iter_kinds(each.hint))
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        example = ",".join(f"{value:g}" for value in each.default or (3e-4, 1e-4))
        raise errors.ConfigError(
            f"{each.name}={','.join(words)} is not {described(each.hint)}",
            f"Write it like {example}",
        ) from None


def iter_kinds(hint: Any) -> Iterator[type]:
    """The element types of the tuples in a type."""
    if typing.get_origin(hint) is tuple:
        yield typing.get_args(hint)[0]
    for part in typing.get_args(hint):
        yield from iter_kinds(part)


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def documented(record: type[Record]) -> type[Record]:
    """Class decorator: the options' texts become the record's documentation."""
    lines = (
        f"    {o.name} ({described(o.hint)}, default {o.default!r}): {o.text}"
        for o in options_of(record)
    )
    record.__doc__ = "\n".join([record.__doc__ or "", "", "Attributes:", *lines])
    return record


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how: decides the numbers that a run records."""

    epochs: int = option(
        5, "Fine-tuning epochs per model; epoch 0 is measured before training.", at_least(1)
    )
    head: Head = option(
        "linear",
        "What stands on the backbone: linear (ordinary fine-tuning), trainable_probe, or probe "
        "(frozen and random, as published).",
        one_of(*HEADS),
    )
    seed: int = option(0, "Seed of the batches' order, of the splits and of a trained head.", SEED)
    probe_seed: int = option(
        0, "Seed of the probe's weights; models of equal feature width get the same probe.", SEED
    )
    batch_size: int = option(32, "Samples in a training step.", at_least(1))
    optimizer: str = option("adam", "adam, or sgd (momentum 0.9).", one_of(*OPTIMIZERS))
    learning_rate: float = option(1e-3, "Constant learning rate.", RATE)
    trial_rates: tuple[float, ...] | None = option(
        None,
        "Learning rates to try beside learning_rate: every model trains its first epoch at each "
        "and continues at the one with the lowest validation loss. An empty list tries none. By "
        "default a model is trained at the rate that suited it on other data, where that is known, "
        "and 3e-4 is tried where it is not. If you set the optimizer or the learning rate, nothing "
        "is tried.",
        RATES,
    )
    measure_size: int = option(
        2048,
        "Training samples, at most, on which the training loss and a probe's beta_eff are "
        "measured. The beta_eff of a whole network takes a fortieth of the training part, at least "
        "32 samples.",
        MEASURED,
    )
    beta_eff: str = option(
        "auto",
        "When beta_eff is measured: every_epoch; off; or auto, which is every epoch where the "
        "ranking uses it or it takes at most a tenth of a run of five epochs, and otherwise "
        "after the last epoch, signed alone.",
        one_of(*BETA_EFF),
    )
    probe_widths: tuple[int, ...] = option(
        (256, 128, 64), "Hidden widths of the probe, at least three.", HIDDEN_WIDTHS
    )
    num_probes: int = option(
        1, "Independent probes on one backbone; their losses are averaged.", at_least(1)
    )
    predictor: str = option(
        "default", "The method that ranks, a name in ncap_jax.predictor.PREDICTORS."
    )
    metric: Metric = option(
        "accuracy",
        "By what models are predicted, ranked and finished, on the validation part: accuracy; "
        "balanced_accuracy, the mean of the classes' recalls; or macro_f1, the mean of their F1.",
        one_of(*METRICS),
    )
    dtype: str = option(
        "float32",
        "Arithmetic of the fine-tuning: float32 or bfloat16; parameters stay float32.",
        one_of(*DTYPES),
    )
    input_size: int | None = option(
        None,
        "Side of the input in pixels, for every model (default: each model's own).",
        at_least(1),
    )
    weights: str = option(
        "pretrained", "pretrained, or random: every model from scratch.", one_of(*WEIGHTS)
    )
    weights_dir: str | None = option(
        None,
        "Folder with weight files under their published names (default: NCAP_WEIGHTS_DIR, then the "
        "cache and the publisher).",
        path=True,
    )
    licence: str = option(
        "any",
        "any, or commercial: only models whose weights' licence allows commercial use. A licence "
        "that is unknown, or has terms of its own, counts as one that does not.",
        one_of(*LICENCES),
    )
    augment: str = option(
        "off", "off, or recommended: flips and crops as they suit the data set.", one_of(*AUGMENT)
    )
    validation_splits: int = option(
        1,
        "Every model is trained this many times, each time with other images held out to validate, "
        "as many as at first; its figures are means. For sets with few validation images: a run "
        "takes as many times as long.",
        at_least(1),
    )


@dataclass(frozen=True)
class Limits:
    """How far models get: who is stopped early, and what a run may spend."""

    strategy: str = option(
        "auto",
        "race: after 1, 2, 3 and 4 epochs the best half, third, quarter and fifth continue, and "
        "whoever the validation images cannot tell from these; full: every model trains all "
        "epochs; halving: hopeless models stop early; auto: race, but full with at most three "
        "models, with epochs_budget or model_time_budget, or in several processes (--distributed).",
        one_of(*STRATEGIES),
    )
    halving_top: int = option(
        3, "Halving keeps the models that may be among this many best.", at_least(1)
    )
    halving_threshold: float = option(
        0.1,
        "Halving stops a model whose chance of being among the halving_top best is below this.",
        fraction("0.1"),
    )
    time_budget: float | None = option(
        None,
        "Seconds for all models of this call; as many race as there is time for, and one model "
        "always has its first epoch (default: unlimited).",
        SECONDS,
    )
    model_time_budget: float | None = option(
        None,
        "Seconds that one model may take in this call; it has its first epoch all the same, if "
        "time_budget allows (default: unlimited).",
        SECONDS,
    )
    epochs_budget: int | None = option(
        None, "Epochs for all models together (default: as many as epochs gives each).", at_least(1)
    )
    recall: int | None = option(
        None,
        "Of a longer list of candidates, this many are fine-tuned, chosen before any training by "
        "published accuracy, by the features of the untouched models and by family; 0: all "
        "(default: 12 of more than 24; within time_budget as many as a race may have time for, and "
        "no recall below recall_seconds).",
        at_least(0),
    )
    recall_parts: tuple[str, ...] = option(
        RECALL_PARTS,
        "What a recall goes by: prior, published accuracy; features, LogME, a linear probe "
        "and k-NN on features of the untouched models; diversity, recall_family.",
        PARTS_OF_RECALL,
    )
    recall_family: int = option(
        3,
        "A recall chooses at most this many models of one family, as long as there are others.",
        at_least(1),
    )
    recall_seconds: float = option(
        600.0,
        "A recall begins with no further model's features after these seconds, and with a "
        "time_budget after a third of it at most. Features that were scored before take none.",
        SECONDS,
    )
    shortlist_points: float = option(
        1.0,
        "The shortlist holds a model within this many points of the best, with 90 %.",
        POINTS,
    )
    keep_states: int = option(
        2,
        "Of this many first models the fine-tuned state is kept, for finish to go on from, and of "
        "those on the shortlist up to five in all. 0 keeps none.",
        at_least(0),
    )


@dataclass(frozen=True)
class Usage:
    """What a model may cost those who will use it, and whether that is measured."""

    max_parameters: int | None = option(
        None,
        "Models with more parameters, those of the classifier not counted, are left out before "
        "anything is trained (default: none is).",
        at_least(1),
    )
    max_latency_ms: float | None = option(
        None,
        "Models that take more milliseconds to label one image are left out before anything is "
        "trained; they are timed on this machine, with random weights (default: none is).",
        MILLISECONDS,
    )
    max_input_size: int | None = option(
        None,
        "Models whose own input has a longer side in pixels are left out before anything is "
        "trained (default: none is). With input_size, which all models take, none is.",
        at_least(1),
    )
    measure_inference: bool = option(
        False,
        "Once all models are trained, measure on this machine how fast they label images, one and "
        "64 at a time, and in how much memory.",
    )


@dataclass(frozen=True)
class Execution:
    """Where a run executes."""

    executor: str = option(
        "local",
        "local: this process; processes: one worker per device; ray: a Ray cluster.",
        one_of(*EXECUTORS),
    )
    workers: int | None = option(
        None, "Number of workers (default: one for each GPU, or for every two cores).", at_least(1)
    )
    ray_address: str | None = option(
        None, "Address of an existing Ray cluster (default: one is started on this machine)."
    )
    mesh: str | None = option(
        None, "Divide every batch over this many devices, written data:8 (default: one device)."
    )


@documented
@dataclass(frozen=True)
class RankConfig(Execution, Usage, Limits, Recipe):
    """Everything that decides a run, apart from the models and the data.

    One flat constructor; behind it stand four parts, `Recipe` (what is trained), `Limits` (how
    far), `Usage` (what the models may cost) and `Execution` (where). A function that needs one part
    alone says so by its type.
    """

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RankConfig:
        """The configuration from which `dataclasses.asdict` and JSON made these fields.

        Raises:
            TypeError: a field is unknown or of another kind.
        """
        tuples = {
            name: tuple(fields[name])
            for name in ("probe_widths", "trial_rates", "recall_parts")
            if fields.get(name) is not None
        }
        return cls(**{**fields, **tuples})


# A run resumes even when these have changed: they decide which models take part, how far they get
# and where they run, not what they do on the way. A mesh is not among them, for it changes the
# order of sums.
FREE_FIELDS = tuple(
    field.name
    for part in (Limits, Usage, Execution)
    for field in dataclasses.fields(part)
    if field.name != "mesh"
)


# What may change in a folder that holds a run: epochs are added, models are left out, or ranked in
# another way. Of what was recorded, none of these changes a number.
GROWING_FIELDS = ("epochs", "predictor", "licence", "metric")

# Epochs for which it is weighed what is worth its price (how hard to compile, when to measure
# beta_eff). Not those of the run: else one that grows would round differently, or be measured after
# other epochs, than it was begun.
USUAL_EPOCHS = Recipe().epochs


@documented
@dataclass(frozen=True)
class FinishConfig:
    """How the first models of a ranking are trained to the end; the options of `ncap_jax.finish`.

    What the ranking was made with (seed, batch size, optimizer, head, input size) stays.
    """

    top: int = option(
        2,
        "This many first models of the ranking are trained on; the one with the best validation "
        "score wins, in the ranking's metric.",
        at_least(1),
    )
    max_epochs: int = option(25, "Epochs at most, beyond those of the ranking.", at_least(1))
    patience: int = option(
        10,
        "Training stops after this many epochs without a better validation score.",
        at_least(1),
    )
    schedule: str = option(
        "cosine",
        "How the learning rate goes on from the ranking's: cosine, which falls to 0 over "
        "max_epochs; plateau, which falls to a third whenever the validation loss has not become "
        "lower for 2 epochs; or constant.",
        one_of(*SCHEDULES),
    )
    warmup_epochs: int = option(
        0, "Epochs in which the learning rate first rises from 0 to the ranking's.", at_least(0)
    )
    augment: str = option(
        "recommended",
        "off, or recommended: flips and crops as they suit the data set.",
        one_of(*AUGMENT),
    )
    freeze_stages: int = option(
        0,
        "Quarters of the backbone, from the input on, whose parameters stay as the ranking left "
        "them.",
        within(0, 4, "a whole number"),
    )
    class_weights: str = option(
        "off",
        "off, or balanced: in the loss every class counts alike, however many images it has.",
        one_of(*CLASS_WEIGHTS),
    )


@documented
@dataclass(frozen=True)
class DataConfig:
    """How a data set is read; the options of `ncap_jax.load_dataset`."""

    data_dir: str | None = option(
        None, "Where prepared TFDS data lies (default: TFDS's own place).", path=True
    )
    validation_fraction: float = option(
        0.2,
        "Share of the training part that becomes the validation part where a set has none.",
        fraction("0.2"),
    )
    test_fraction: float | None = option(
        None,
        "Share of the training part that is set aside for the winner's test, before validation is "
        "split off, where a set has no test part (default: nothing).",
        fraction("0.2"),
    )
    max_train: int | None = option(
        None, "At most this many training samples, stratified.", at_least(1)
    )
    max_validation: int | None = option(
        None, "At most this many validation samples, stratified.", at_least(1)
    )
    image_size: int | None = option(
        None,
        "Side in pixels at which image files are stored (default: their common size, else the "
        "median of the short sides, at most 256).",
        within(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, "a side in pixels"),
    )
    skip_broken: bool = option(
        False, "Leave out unreadable files and report them, instead of stopping."
    )
    remap_labels: bool = option(False, "Renumber labels that have gaps, instead of refusing them.")
    stream: bool | None = option(
        None,
        "Decode images while training instead of holding them all in memory (default: beyond 2 "
        "GiB).",
    )
