"""The immutable records that the stages hand to one another.

data -> zoo -> finetune -> measure -> predictor -> selection -> winner -> report

`run` knows all stages; `api`, `commands` and `__main__` call it. No stage's logic lives here, and
nothing heavy is imported: arrays are NumPy, models are opaque. The options of a run are in
`ncap_jax.options`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ncap_jax import errors

if TYPE_CHECKING:
    from ncap_jax.options import Head, RankConfig

Strength = Literal["signed", "absolute", "squared", "total"]
Status = Literal["ok", "diverged", "out_of_memory", "failed", "stopped"]

# What can be wrong with a model's features on the data.
FeatureFlaw = Literal["", "constant", "not finite"]

STRENGTHS: tuple[Strength, ...] = ("signed", "absolute", "squared", "total")
# A point: how far below the first a smaller model may be predicted to be named beside it.
SMALLEST_WITHIN = 0.01
# What is recorded of whole networks (head `linear`): each further strength compiles for seconds.
NETWORK_STRENGTHS: tuple[Strength, ...] = ("signed", "absolute")
STATUSES: tuple[Status, ...] = ("ok", "diverged", "out_of_memory", "failed", "stopped")
# What one measurement of beta_eff gives: strength -> one value, or one status, per probe (one for
# a whole network).
Values = dict[str, tuple[float, ...]]
Statuses = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with integer labels, and a validation part that selection may look at.

    Attributes:
        images: (n, height, width, channels) uint8 in 0..255; channels 1 or 3. Where they are
            streamed, an `ncap_jax.data.images.EncodedImages` of that shape and type.
        labels: (n,) integers 0..K-1.
        validation_images: (m, height, width, channels) uint8, or None: split off `images`.
        validation_labels: (m,) integers, or None.
        class_names: K names in label order, or None: the numbers are the names.
        name: what the report calls the set.
        info: what was done to the source on the way here (label mapping, skipped files, ...).
        test_images: (l, height, width, channels) uint8, or None. No ranking sees them: only the
            finished winner is tested on them (`ncap_jax.data.load_test_part`).
        test_labels: (l,) integers, or None.
    """

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "arrays"
    info: Mapping[str, Any] = field(default_factory=dict)
    test_images: np.ndarray | None = None
    test_labels: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        if self.class_names is not None:
            return len(self.class_names)
        return int(np.max(self.labels)) + 1

    def __repr__(self) -> str:
        # Never the arrays, and never an error: also what has not been checked is printed.
        shape = " × ".join(map(str, np.shape(self.images)[1:]))
        count = str(np.size(self.labels))
        if self.validation_labels is not None:
            count += f" + {np.size(self.validation_labels)}"
        return f"Dataset({self.name!r}: {count} images of {shape or 'unknown shape'})"


@dataclass(frozen=True)
class WeightsLayout:
    """How a publisher names a weights file and the arrays in it.

    Attributes:
        convention: whose names and axis orders the arrays have: `keras`, `torch`, `timm` (a model
            that runs PyTorch's own code), or None: ours.
        classifier: layers of the file that the module has no place for.
        file: name of the file in `weights_dir`, where its address does not end in a telling one.
        other_files: further names under which it may lie there.
        md5: of the file, as its publisher states it, in hex.
        sha256_prefix: first digits of the file's SHA-256, as its publisher states them.
    """

    convention: Literal["keras", "torch", "timm"] | None = None
    classifier: tuple[str, ...] = ()
    file: str = ""
    other_files: tuple[str, ...] = ()
    md5: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """How to build one candidate, feed it, and find its weights.

    Attributes:
        name: the registry's name, lower case.
        build: called with `flax.nnx.Rngs`, returns an `nnx.Module` whose `features(x)` maps
            preprocessed float images (batch, height, width, 3) to (batch, feature_width).
        input_size: side of the square input in pixels.
        feature_width: width of `features(x)`; None: found from the network before a run
            (`ncap_jax.zoo.shapes`).
        preprocessing: how uint8 pixels become input: a key of `ncap_jax.zoo.preprocess.MODES`, or
            a text as `ncap_jax.zoo.preprocess.Scaling.text` gives it.
        weights: where the pretrained weights are: a file name, path, URL or `hf://` name;
            `random`: this model
            is drawn at random, in a run of pretrained models too; None: there are none.
        parameters: number of trainable scalars below the head; None: counted before a run.
        sha256: of the weights file, where known.
        licence: of the weights.
        citation: the paper.
        description: one line for people.
        family: the architecture family, for tables and the contract tests.
        layout: how the weights file is named and laid out.
        build_pretrained: as `build`, but returns the module with its weights; for modules that
            exist in memory, or whose weights were fetched already. None: `weights` says where.
        source: TFDS's name of the data set that the weights were trained on, such as
            `imagenet2012`; empty: not known. A model recalls its own images
            (`ncap_jax.data.seen`).
    """

    name: str
    build: Callable[..., Any]
    input_size: int
    feature_width: int | None = None
    preprocessing: str = "unit"
    weights: str | None = None
    parameters: int | None = None
    sha256: str | None = None
    licence: str = ""
    citation: str = ""
    description: str = ""
    family: str = ""
    layout: WeightsLayout = WeightsLayout()
    build_pretrained: Callable[..., Any] | None = None
    source: str = ""


@dataclass(frozen=True)
class ClassCounts:
    """The answers on the validation part, counted by class.

    Attributes:
        images: of each class, K numbers.
        correct: how many of these were given their class; K numbers per probe, of which a linear
            head is one.
        predicted: how many images were given each class, likewise.
    """

    images: tuple[int, ...]
    correct: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EpochRecord:
    """What is known of one model after one epoch of fine-tuning.

    Attributes:
        epoch: 0 is before training.
        train_loss: mean cross-entropy in nats on the measurement subset, inference mode.
        train_accuracy: on the measurement subset, inference mode, in [0, 1].
        validation_loss: mean cross-entropy in nats on the validation part.
        validation_accuracy: on the validation part, in [0, 1].
        running_loss: mean minibatch loss of the epoch in training mode; None at epoch 0.
        beta_eff: strength -> one value per probe (one value for the whole network); empty
            where it is not measured.
        beta_eff_status: strength -> one status per value (`ncap_jax.capacitance.beta_eff`).
        seconds: wall time of the epoch's training and measurements.
        measure_seconds: the part of `seconds` that beta_eff took.
        learning_rate: at which the model goes on, where it is not the run's own; else None.
        features: what is wrong with the features of the measurement subset: empty, `constant` or
            `not finite`.
        validation_counts: the answers behind `validation_accuracy`, by class; None in files of
            versions that did not count them.
        steps: of the optimiser so far; None in files of versions that did not count them.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    running_loss: float | None = None
    beta_eff: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    beta_eff_status: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    measure_seconds: float = 0.0
    learning_rate: float | None = None
    features: FeatureFlaw = ""
    validation_counts: ClassCounts | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Trajectory:
    """One model's fine-tuning, epoch by epoch, starting with epoch 0.

    Attributes:
        model: the model's name.
        head: which of the three ways it ran.
        records: one per epoch, in order.
        status: how it ended; `message` says more where it is not `ok`.
        message: for people.
        seconds: wall time in all, compilation included.
    """

    model: str
    head: Head
    records: tuple[EpochRecord, ...]
    status: Status = "ok"
    message: str = ""
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """Number of epochs trained (epoch 0 does not count)."""
        return max(len(self.records) - 1, 0)

    @property
    def validation_images(self) -> tuple[int, ...]:
        """The number of validation images of each class; empty where no record has counts."""
        counts = (record.validation_counts for record in self.records)
        return next((found.images for found in counts if found is not None), ())

    def series(self, name: str) -> np.ndarray:
        """One field of all records as float64 (epochs + 1,); None becomes NaN."""
        values = (getattr(record, name) for record in self.records)
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def beta_eff(self, strength: Strength) -> np.ndarray:
        """beta_eff of each epoch, averaged over probes.

        Returns:
            (epochs + 1,) float64, NaN where it was not measured; empty if it never was.
        """
        rows = [record.beta_eff.get(strength) for record in self.records]
        if not any(rows):
            return np.zeros(0)
        return np.array([np.mean(row) if row else np.nan for row in rows], dtype=np.float64)


@dataclass(frozen=True)
class Prediction:
    """A predictive distribution of one model's accuracy at convergence, or of another metric.

    Attributes:
        mean: predicted accuracy; for methods that only score, the score (higher is better).
        std: standard deviation of the prediction in the unit of `mean`; NaN if the method
            has none.
        flag: empty, or why the number should not be trusted.
        own_std: standard deviation, as of a normal, of what is not common to all models of the
            pool, which decides who is better; NaN: `std`.
    """

    mean: float
    std: float = float("nan")
    flag: str = ""
    own_std: float = float("nan")

    @property
    def spread(self) -> float:
        """The standard deviation that decides who is better; what all share decides nothing."""
        return self.std if math.isnan(self.own_std) else self.own_std


@dataclass(frozen=True)
class InferenceSpeed:
    """How fast a model labels a batch of images on the run's machine.

    Attributes:
        batch: number of images.
        seconds: of the batch, from uint8 images in the machine's memory to their logits there.
        memory: bytes on the device; None: not known.
    """

    batch: int
    seconds: float
    memory: int | None = None

    @property
    def images_per_second(self) -> float:
        """Images that are labelled in a second."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class InferenceCost:
    """What a model costs those who use it; `ncap_jax.measure.inference` defines the figures.

    Attributes:
        parameters: number of trainable scalars below the head; None: not known.
        flops: operations for one scaled image, head included; None: not known.
        licence: of the weights; empty: not known.
        speeds: on the run's machine, by batch size; empty: not measured.
        problem: what kept a figure from being found; empty: nothing did.
    """

    parameters: int | None = None
    flops: float | None = None
    licence: str = ""
    speeds: tuple[InferenceSpeed, ...] = ()
    problem: str = ""


# Where a candidate is left out before training: by an option's limit, by the recall's choice, or
# because it could not be loaded or looked at.
LeftOutStep = Literal["filter", "recall", "failed"]


@dataclass(frozen=True)
class LeftOut:
    """A model that was left out before anything was trained.

    Attributes:
        name: of the model.
        reason: for people, with the option that decided.
        step: that left it out.
    """

    name: str
    reason: str
    step: LeftOutStep = "filter"


@dataclass(frozen=True)
class FunnelStep:
    """How many models a step of a run leaves.

    Attributes:
        step: `candidates`, `filtered`, `recalled`, `raced` (or `trained`, where nobody is stopped
            early), `finished`.
        models: that are left after it.
        seconds: that it took; None: not known.
    """

    step: str
    models: int
    seconds: float | None = None


@dataclass(frozen=True)
class RankedModel:
    """One row of a ranking: the fields of `ranking.json`, same names.

    `predicted_accuracy`, `std`, `best_seen`, `last_seen` and `predictions` are of the metric that
    ranks (`RankConfig.metric`); `validation_accuracy` is the accuracy whatever ranks.
    """

    name: str
    status: Status
    rank: int | None
    predicted_accuracy: float
    std: float
    best_seen: float
    last_seen: float
    epochs: int
    beta_eff: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    seconds: float
    message: str = ""
    p_best: float = float("nan")
    tied_with_best: bool = False
    learning_rate: float | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    cost: InferenceCost = InferenceCost()
    p_within: float = float("nan")
    shortlisted: bool = False

    @property
    def flag(self) -> str:
        """Why the ranking's prediction should not be trusted; empty if nothing speaks against."""
        return self.message if self.status == "ok" else ""


@dataclass(frozen=True)
class RunInfo:
    """Facts of a run that the report shows, each where it is there.

    Attributes:
        versions: package -> version.
        device: what it ran on.
        data: label -> value, statistics of the data set.
        majority_accuracy: share of validation images that always answering the largest class gets
            right; models that are not better are warned of.
        num_validation: number of validation images.
        class_names: in label order.
        contact_sheet_png: bytes of a PNG with training samples as a model sees them.
        seconds: wall time of the run, over all its calls.
        command: the shell command that repeats the run.
        full_epochs: epochs of full fine-tuning, against which the cost is compared; None: 30.
        seen: model -> how it has seen the images before, in words; of the others nothing is known.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    majority_accuracy: float | None = None
    num_validation: int | None = None
    class_names: tuple[str, ...] = ()
    contact_sheet_png: bytes | None = field(default=None, repr=False)
    seconds: float | None = None
    command: str | None = None
    full_epochs: int | None = None
    seen: Mapping[str, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Is told of a run while it goes on: a progress view, a writer of scalars."""

    def epoch(self, model: str, record: EpochRecord) -> None:
        """Called after every epoch of a model, epoch 0 included."""

    def finished(self, trajectory: Trajectory) -> None:
        """Called when a model ends, however it ends."""


@dataclass(frozen=True)
class Ranking:
    """The answer: the models in rank order, failed ones last with `rank` None.

    Attributes:
        dataset: name of the target data set.
        config: what decided the run.
        models: rows in rank order.
        trajectories: what the rows were computed from.
        predictor: the method that ranked.
        strength: which beta_eff the rows show (`beta_eff` of `RankedModel`).
        info: facts of the run, for the report.
        left_out: models that were asked for, but are too large or too slow for the options, were
            not recalled, or could not be looked at.
        funnel: how many models each step left, from the candidates to those that ran to the end.
        expected_regret: points of accuracy, in percent, by which the best model is expected to be
            better than the first; NaN where no deviations are known.
        source: where `ncap_jax.finish` finds the run; nothing for people.
    """

    dataset: str
    config: RankConfig
    models: tuple[RankedModel, ...]
    trajectories: tuple[Trajectory, ...] = ()
    predictor: str = ""
    strength: Strength = "signed"
    info: RunInfo = RunInfo()
    left_out: tuple[LeftOut, ...] = ()
    funnel: tuple[FunnelStep, ...] = ()
    expected_regret: float = float("nan")
    source: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # A copy elsewhere has the answer, not the folder, which belongs to this process.
        return {**self.__dict__, "source": None}

    @property
    def best(self) -> RankedModel:
        """The model to fine-tune.

        Raises:
            ModelError: no model could be ranked.
        """
        if not self.models or self.models[0].rank is None:
            raise errors.ModelError(
                "no model could be ranked", "See the status and message of each model"
            )
        return self.models[0]

    @property
    def smallest(self) -> RankedModel | None:
        """The model with the fewest parameters of those predicted within a point of the first.

        Looked for among the models that ended as the first one did, after as many epochs. None: no
        model is ranked, or the parameters or predictions are not known.
        """
        ranked = [row for row in self.models if row.rank is not None]
        near = [
            row
            for row in ranked
            if (row.status, row.epochs) == (ranked[0].status, ranked[0].epochs)
            and row.predicted_accuracy >= ranked[0].predicted_accuracy - SMALLEST_WITHIN
            and row.cost.parameters is not None
        ]
        return min(near, key=lambda row: (row.cost.parameters, row.rank), default=None)

    @property
    def shortlist(self) -> tuple[str, ...]:
        """Names of the smallest set that holds a model within a point of the best, with 90 %.

        In rank order, the first model among them. The number of points is
        `config.shortlist_points`. Empty where no deviations are known.
        """
        return tuple(row.name for row in self.models if row.shortlisted)

    def __repr__(self) -> str:
        best = "no model ranked"
        if self.models and self.models[0].rank is not None:
            best = f"best {self.models[0].name}"
        count = f"{len(self.models)} model{'s' if len(self.models) != 1 else ''}"
        epochs = f"{self.config.epochs} epoch{'s' if self.config.epochs != 1 else ''}"
        return f"Ranking({self.dataset!r}: {best}, {count}, {epochs})"

    def __str__(self) -> str:
        # By its public name: records know nothing of the report, and printing alone needs it.
        import ncap_jax

        return ncap_jax.format_ranking(self)

    def _repr_html_(self) -> str:
        # What a notebook shows for a ranking on the last line of a cell.
        import ncap_jax

        return ncap_jax.notebook_ranking(self)
