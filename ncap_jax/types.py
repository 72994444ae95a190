"""The immutable records that the stages hand to one another.

data -> zoo -> finetune -> capacitance -> predictor -> selection -> report

No stage's logic lives here, and nothing heavy is imported: arrays are NumPy, models are opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ncap_jax import errors

Strength = Literal["signed", "absolute", "squared", "total"]
Head = Literal["probe", "trainable_probe", "linear"]
Status = Literal["ok", "diverged", "out_of_memory", "failed", "stopped"]

STRENGTHS: tuple[Strength, ...] = ("signed", "absolute", "squared", "total")
# What is recorded of whole networks (head `linear`): each further strength compiles for seconds.
NETWORK_STRENGTHS: tuple[Strength, ...] = ("signed", "absolute")
HEADS: tuple[Head, ...] = ("probe", "trainable_probe", "linear")
STATUSES: tuple[Status, ...] = ("ok", "diverged", "out_of_memory", "failed", "stopped")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with integer labels, and a validation part that selection may look at.

    Attributes:
        images: (n, height, width, channels) uint8 in 0..255; channels 1 or 3. Where they are
            streamed, an `ncap_jax.data.images.ImageStore` of that shape and type.
        labels: (n,) integers 0..K-1.
        validation_images: (m, height, width, channels) uint8, or None: split off `images`.
        validation_labels: (m,) integers, or None.
        class_names: K names in label order, or None: the numbers are the names.
        name: what the report calls the set.
        info: what was done to the source on the way here (label mapping, skipped files, ...).
    """

    images: np.ndarray
    labels: np.ndarray
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    name: str = "arrays"
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        if self.class_names is not None:
            return len(self.class_names)
        return int(np.max(self.labels)) + 1


@dataclass(frozen=True)
class ModelSpec:
    """How to build one candidate, feed it, and find its weights.

    Attributes:
        name: the registry's name, lower case.
        build: called with `flax.nnx.Rngs`, returns an `nnx.Module` whose `features(x)` maps
            preprocessed float images (batch, height, width, 3) to (batch, feature_width).
        input_size: side of the square input in pixels.
        feature_width: width of `features(x)`.
        preprocessing: how uint8 pixels become input, a key of `ncap_jax.zoo.preprocess.MODES`.
        weights: where the pretrained weights are: a file name, path or URL, or None.
        parameters: number of trainable scalars below the head, or None if not stated.
        sha256: of the weights file, where known.
        licence: of the weights.
        citation: the paper.
        description: one line for people.
        family: the architecture family, for tables and the contract tests.
        extra: what only this family's loader needs.
    """

    name: str
    build: Callable[..., Any]
    input_size: int
    feature_width: int
    preprocessing: str = "unit"
    weights: str | None = None
    parameters: int | None = None
    sha256: str | None = None
    licence: str = ""
    citation: str = ""
    description: str = ""
    family: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankConfig:
    """Everything that decides a run, apart from the models and the data.

    Attributes:
        epochs: fine-tuning epochs per model; epoch 0 is measured before training on top of these.
        head: `linear` (ordinary fine-tuning; the default: it ranks best, docs/results.md),
            `trainable_probe`, `probe` (frozen random probe, the paper's).
        seed: of the batches' order and of a trainable head.
        probe_seed: of the probe's weights: equal feature widths get equal probes.
        batch_size: samples a step.
        optimizer: `adam` or `sgd` (momentum 0.9).
        learning_rate: of the optimizer, constant.
        trial_rates: other learning rates; every model takes its first epoch at each, and goes on at
            the one of the lowest validation loss (`ncap_jax.finetune.rates`). None: 3e-4 where
            `optimizer` and `learning_rate` are left as they are, but for the embedded models;
            (): none.
        measure_size: at most this many training samples measure the training loss and the
            probe's beta_eff; a whole network's takes a fortieth of the training part.
        probe_widths: hidden widths of the probe, three at least.
        num_probes: independent probes over one backbone; their losses are averaged.
        predictor: the method that ranks, a key of `ncap_jax.predictor.PREDICTORS`.
        dtype: of the fine-tuning arithmetic: `float32` or `bfloat16` (parameters stay float32).
        input_size: side of the input in pixels for every model, or None: each model's own.
        weights: `pretrained`, or `random` for every model from scratch.
        weights_dir: folder that holds published weight files under their published names; None:
            `NCAP_WEIGHTS_DIR`, then the cache and the publisher.
        augment: `off`, or `recommended`: flips and crops as suit the data set
            (`ncap_jax.data.augment.RECOMMENDED`).
        strategy: `full`: every model runs all epochs; `halving`: models that have hardly a chance
            are stopped on the way (`ncap_jax.selection.halving`).
        halving_top: a model goes on while it may be among this many best.
        halving_threshold: chance of that under which it is stopped.
        time_budget: seconds of wall time for the models of one call, divided over them
            (`ncap_jax.selection.budget`); None: no limit.
        model_time_budget: seconds that one model may take in one call; None: no limit.
        epochs_budget: epochs of all models together; None: `epochs` each.
        executor: `local`: in this process; `processes`: worker processes on this machine, one a
            device; `ray`: workers on a Ray cluster (extra `ray`).
        workers: how many; None: one a GPU, or one for every two cores.
        ray_address: of an existing cluster; None: one is started on this machine.
        mesh: `data:8`: every batch is divided over 8 devices (`ncap_jax.finetune.parallel`);
            None: one device.
    """

    epochs: int = 5
    head: Head = "linear"
    seed: int = 0
    probe_seed: int = 0
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    trial_rates: tuple[float, ...] | None = None
    measure_size: int = 2048
    probe_widths: tuple[int, ...] = (256, 128, 64)
    num_probes: int = 1
    predictor: str = "default"
    dtype: str = "float32"
    input_size: int | None = None
    weights: str = "pretrained"
    weights_dir: str | None = None
    augment: str = "off"
    strategy: str = "full"
    halving_top: int = 3
    halving_threshold: float = 0.1
    time_budget: float | None = None
    model_time_budget: float | None = None
    epochs_budget: int | None = None
    executor: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    mesh: str | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RankConfig:
        """The configuration that `dataclasses.asdict` and JSON made these fields of.

        Raises:
            TypeError: a field is unknown or of another kind.
        """
        tuples = {
            name: tuple(fields[name])
            for name in ("probe_widths", "trial_rates")
            if fields.get(name) is not None
        }
        return cls(**{**fields, **tuples})


# Fields of RankConfig that decide how far models get and where they run, not what they do on the
# way: a run may be taken up with other values.
FREE_FIELDS = (
    "strategy",
    "halving_top",
    "halving_threshold",
    "time_budget",
    "model_time_budget",
    "epochs_budget",
    "executor",
    "workers",
    "ray_address",
)


@dataclass(frozen=True)
class DataConfig:
    """How a data set is read; the options of `ncap_jax.load_dataset`.

    Attributes:
        data_dir: where prepared TFDS data lies; None: TFDS's own place.
        validation_fraction: split off the training part where a set has no validation part.
        max_train: at most this many training samples, stratified.
        max_validation: at most this many validation samples, stratified.
        image_size: side in pixels at which images from files are kept; None: chosen.
        skip_broken: leave out files that cannot be read, and report them, instead of stopping.
        remap_labels: number integer labels with gaps afresh instead of refusing them.
        stream: decode while training instead of keeping all images in memory; None: by size.
    """

    data_dir: str | None = None
    validation_fraction: float = 0.2
    max_train: int | None = None
    max_validation: int | None = None
    image_size: int | None = None
    skip_broken: bool = False
    remap_labels: bool = False
    stream: bool | None = None


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
        learning_rate: at which the model goes on, where several were tried; else None.
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

    def series(self, name: str) -> np.ndarray:
        """One field of all records as float64 (epochs + 1,); None becomes NaN."""
        values = (getattr(record, name) for record in self.records)
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def beta_eff(self, strength: Strength) -> np.ndarray:
        """beta_eff of each epoch, averaged over probes: (epochs + 1,) float64, or empty."""
        rows = [record.beta_eff.get(strength) for record in self.records]
        if not rows or any(not row for row in rows):
            return np.zeros(0)
        return np.array([np.mean(row) for row in rows if row], dtype=np.float64)


@dataclass(frozen=True)
class Prediction:
    """A predictive distribution of one model's accuracy at convergence.

    Attributes:
        mean: predicted accuracy; for methods that only score, the score (higher is better).
        std: standard deviation of the prediction in the unit of `mean`; NaN if the method
            has none.
        flag: empty, or why the number should not be trusted.
        own_std: the part of `std` that is not common to all models of the pool, which decides
            who is better; NaN: all of it.
    """

    mean: float
    std: float = float("nan")
    flag: str = ""
    own_std: float = float("nan")


@dataclass(frozen=True)
class RankedModel:
    """One row of a ranking: the fields of `ranking.json`, same names."""

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

    @property
    def flag(self) -> str:
        """Why the ranking's prediction should not be trusted; empty if nothing speaks against."""
        return self.message if self.status == "ok" else ""


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
        info: run facts for the report (versions, device, data statistics).
    """

    dataset: str
    config: RankConfig
    models: tuple[RankedModel, ...]
    trajectories: tuple[Trajectory, ...] = ()
    predictor: str = ""
    strength: Strength = "signed"
    info: Mapping[str, Any] = field(default_factory=dict)

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

    def __str__(self) -> str:
        # Imported here: records know nothing of the report, printing alone needs it.
        from ncap_jax.report import console

        return console.format_ranking(self)

    def _repr_html_(self) -> str:
        # What a notebook shows for a ranking on the last line of a cell.
        from ncap_jax.report import console

        return console.notebook_ranking(self)
