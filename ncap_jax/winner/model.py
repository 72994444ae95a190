"""The fine-tuned model that a user holds: labels, probabilities and features of images."""

from __future__ import annotations

import collections
import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ncap_jax import errors
from ncap_jax.data.decode import BrokenImageError, pillow_silenced
from ncap_jax.data.held_out import HeldOut
from ncap_jax.data.pairs import DataSource
from ncap_jax.finetune import steps
from ncap_jax.ops.effort import Effort, Jitted
from ncap_jax.winner import storage
from ncap_jax.winner.calibration import calibrated_metrics, scaled_probabilities
from ncap_jax.winner.facts import ModelFacts, Preprocessing
from ncap_jax.winner.images import Form, Picture, collect, decoded
from ncap_jax.winner.labelled import labelled
from ncap_jax.winner.metrics import ClassificationMetrics

# Images at a time. All batches have this shape, the last one filled up: one program serves all.
CPU_BATCH, ACCELERATOR_BATCH = 16, 128
# In pixels: of images with a larger side there are fewer in a batch, at least one.
FULL_BATCH_SIDE = 512
# Batches on the device before the oldest is waited for.
AHEAD = 2
# Broken images that an error names.
MAX_SHOWN = 10
# Of compilation; the same for few images and many, for the numbers depend on it.
EFFORT: Effort = "some"
head_logits = Jitted(steps.head_logits, static_argnames=("head", "train"))


class Answer(NamedTuple):
    """What the model says of one image.

    Attributes:
        name: of the image: its path, or its number.
        label: name of the class; empty if the image is broken.
        probabilities: (K,) float32; NaN if it is broken.
        problem: why it is broken; else empty.
    """

    name: str
    label: str
    probabilities: np.ndarray
    problem: str = ""

    @property
    def probability(self) -> float:
        """Of the label; NaN if the image is broken."""
        return float(np.max(self.probabilities))


@dataclass(frozen=True, eq=False, repr=False)
class Winner:
    """A fine-tuned model with all that it takes to use it; immutable.

    Images go the way that training images went, through the same code: decoded to one size
    (`facts.preprocessing.image_size`), scaled on the device, through the network in inference
    mode. What `images` may be is told by `ncap_jax.winner.images.collect`: paths, folders,
    patterns, arrays, images of Pillow's, lists of these.

    Attributes:
        network: backbone, one linear head and preprocessing, static.
        params: {"backbone", "head"} parameters.
        state: {"backbone", "head"} batch statistics and the like.
        facts: what `model.json` holds.

    Raises:
        ModelError: the head is not one linear head for as many classes as there are names.
    """

    network: steps.Network
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    facts: ModelFacts

    def __post_init__(self) -> None:
        leaves = jax.tree.leaves(self.params["head"])
        if any(leaf.shape[0] != 1 or leaf.shape[-1] != self.num_classes for leaf in leaves):
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise errors.ModelError(
                f"the head has parameters of shapes {shapes}, not those of one linear head for "
                f"{self.num_classes} classes",
                "Finish the model with head=linear",
            )

    @property
    def name(self) -> str:
        """Of the model, as the ranking calls it."""
        return self.facts.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, in the order of the probabilities."""
        return self.facts.class_names

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.facts.class_names)

    @property
    def validation_accuracy(self) -> float | None:
        """On the validation part, in [0, 1]; None: not measured."""
        return self.facts.accuracy("validation")

    @property
    def test_accuracy(self) -> float | None:
        """On the test part, in [0, 1]; None: there was none."""
        return self.facts.accuracy("test")

    def predict(self, images: Any) -> list[str]:
        """The name of the likeliest class of every image.

        Raises:
            DataError: `images` is nothing that holds images, or some are broken (all are named).
            ModelError: the network does not give numbers.
        """
        best = np.argmax(self.logits(images), axis=1)
        return [self.class_names[number] for number in best]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Probabilities (n, K) float32, calibrated by `facts.temperature`; raises as `predict`."""
        return scaled_probabilities(self.logits(images), self.facts.temperature)

    def logits(self, images: Any) -> np.ndarray:
        """Logits (n, K) float32, before temperature; raises as `predict`."""
        return self._outputs(collect(images), self._logits)

    def features(self, images: Any) -> np.ndarray:
        """Features (n, width) float32 of the backbone; raises as `predict`."""
        return self._outputs(collect(images), self._features)

    def answers(self, images: Any) -> list[Answer]:
        """What the model says of every image; broken ones have a `problem` in place of a label.

        Raises:
            DataError: `images` is nothing that holds images.
            ModelError: the network does not give numbers.
        """
        pictures = collect(images)
        logits, broken = self._run(pictures, self._logits)
        sound = len(broken) < len(pictures)
        rows = iter(scaled_probabilities(logits, self.facts.temperature) if sound else ())
        nothing = np.full(self.num_classes, np.nan, np.float32)
        found = []
        for index, picture in enumerate(pictures):
            if index in broken:
                found.append(Answer(picture.name, "", nothing, broken[index]))
                continue
            row = next(rows)
            found.append(Answer(picture.name, self.class_names[int(np.argmax(row))], row))
        return found

    def evaluate(
        self, dataset: DataSource | HeldOut, data_dir: str | None = None
    ) -> ClassificationMetrics:
        """How well the model does on images whose classes are known.

        Args:
            dataset: an image folder `<class>/<image>` or a CSV file; the name of a TFDS set, of
                which the test part counts; `(images, labels)`; a Dataset; or what
                `load_test_part` returns. See `ncap_jax.winner.labelled.labelled`.
            data_dir: of TFDS sets.

        Returns:
            Accuracy with its interval, figures of every class, confusion matrix and more.

        Raises:
            DataError: no such data, broken images (they are named), or a class that the model
                does not know.
            ModelError: the network does not give numbers.
        """
        pictures, labels = labelled(dataset, self.class_names, data_dir)
        logits = self._outputs(pictures, self._logits)
        return calibrated_metrics(logits, labels, self.class_names, self.facts.temperature)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model to a folder of its own, from which `ncap_jax.load` reads it.

        The folder holds `model.safetensors`, `model.json` and `README.md`; a model that is there
        is replaced. After a kill or with a full disk it is whole or absent.

        Raises:
            OutputError: it cannot be written, or holds something else.
            WeightsError: a weight is not finite.
            PackageError: `facts` hold what `model.json` may not.
        """
        storage.write(folder, self.network, self.params, self.state, self.facts)

    def _repr_html_(self) -> str:
        # What a notebook shows for a winner on the last line of a cell; by its public name, for
        # this room knows nothing of the report.
        import ncap_jax

        return ncap_jax.notebook_winner(self.facts)

    def __repr__(self) -> str:
        parts = [f"{self.num_classes} classes"]
        for what, share in (("test", self.test_accuracy), ("validation", self.validation_accuracy)):
            parts += [] if share is None else [f"{what} accuracy {100 * share:.1f} %"]
        return f"Winner({self.name!r}: {', '.join(parts)})"

    def _features(self, batch: jax.Array) -> jax.Array:
        return steps.features(self.network, self.params, self.state, batch, effort=EFFORT)

    def _logits(self, batch: jax.Array) -> jax.Array:
        head = self.network.head, self.params["head"], self.state["head"]
        logits, _ = head_logits(*head, self._features(batch), train=False, effort=EFFORT)
        return logits[0]

    def _outputs(
        self, pictures: list[Picture], compute: Callable[[jax.Array], jax.Array]
    ) -> np.ndarray:
        """One row for every image, none of which may be broken."""
        outputs, broken = self._run(pictures, compute)
        if broken:
            raise _broken({pictures[index].name: why for index, why in broken.items()})
        return outputs

    def _run(
        self, pictures: list[Picture], compute: Callable[[jax.Array], jax.Array]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """One row for every sound image, in order, and what is wrong with the others."""
        pixels = self.facts.preprocessing
        form = Form(pixels.image_size, pixels.channels)
        broken: dict[int, str] = {}
        waiting: collections.deque[tuple[jax.Array, int]] = collections.deque()
        rows = [np.empty((0, self.num_classes), np.float32)]
        with pillow_silenced(), self._memory_watched():
            for batch, count in _batches(pictures, form, broken, _batch_size(pixels)):
                waiting.append((compute(batch), count))
                if len(waiting) > AHEAD:
                    rows.append(_fetched(*waiting.popleft()))
            rows += [_fetched(*each) for each in waiting]
        outputs = np.concatenate(rows[1:] or rows)
        if not np.isfinite(outputs).all():
            raise errors.ModelError(
                f"the network of {self.name} does not give numbers for "
                f"{np.count_nonzero(~np.isfinite(outputs).all(axis=1))} of {len(outputs)} images",
                "Its weights are damaged: make the model again",
            )
        return outputs, broken

    @contextlib.contextmanager
    def _memory_watched(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not errors.is_out_of_memory(error):
                raise
            side = self.facts.preprocessing.input_size
            raise errors.ModelError(
                f"there is too little memory for {self.name} with an input of {side} × {side} "
                "pixels",
                "Free memory, or use a machine that has more",
            ) from error


def _batch_size(pixels: Preprocessing) -> int:
    """Images at a time; the same wherever the model is loaded, for the numbers depend on it."""
    most = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    area = max(pixels.input_size**2, math.prod(pixels.image_size))
    return max(1, min(most, most * FULL_BATCH_SIDE**2 // area))


def _batches(
    pictures: list[Picture], form: Form, broken: dict[int, str], size: int
) -> Iterator[tuple[jax.Array, int]]:
    """Batches of one shape with the number of images in each; broken ones are entered."""
    # A new array for each: the device may still read the one before, which it need not copy.
    batch, count = np.zeros((size, *form.size, form.channels), np.uint8), 0
    for index, pixels in enumerate(decoded(pictures, form)):
        if isinstance(pixels, BrokenImageError):
            broken[index] = pixels.cause
            continue
        batch[count] = pixels
        count += 1
        if count == size:
            yield jax.device_put(batch), count
            batch, count = np.zeros_like(batch), 0
    if count:
        yield jax.device_put(batch), count


def _fetched(outputs: jax.Array, count: int) -> np.ndarray:
    """The rows of the images in a batch, on the host."""
    return np.asarray(outputs)[:count]


def _broken(problems: Mapping[str, str]) -> errors.DataError:
    some = "; ".join(f"{name}: {why}" for name, why in list(problems.items())[:MAX_SHOWN])
    more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
    what = "1 image is broken" if len(problems) == 1 else f"{len(problems)} images are broken"
    return errors.DataError(
        f"{what}: {some}{more}",
        "Leave them out, or ask for answers(images), which labels the others",
    )
