"""beta_eff in a training loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ncap_jax import errors
from ncap_jax.capacitance import beta_eff, checks
from ncap_jax.capacitance import network as kernel
from ncap_jax.measure.network import accumulate, batches_of, split_model
from ncap_jax.measure.probe import as_records, measure_probes
from ncap_jax.types import NETWORK_STRENGTHS, STRENGTHS, Statuses, Strength, Values
from ncap_jax.zoo import functional, probe

# (tag, value, step): the signature of TensorBoard's `SummaryWriter.add_scalar`.
Log = Callable[[str, float, int], Any]
Model = nnx.Module | Callable[[Any], Any]


@dataclass(frozen=True)
class Measurement:
    """What one call measured.

    Attributes:
        step: as the caller counts.
        values: strength -> beta_eff; NaN where the status says so.
        statuses: strength -> one of `ncap_jax.capacitance.beta_eff.STATUSES`.
    """

    step: int
    values: dict[Strength, float]
    statuses: dict[Strength, str]


class CapacitanceMonitor:
    """Measures beta_eff of a model in training, on the same samples every time.

        monitor = ncap.CapacitanceMonitor(inputs, labels, log=writer.add_scalar)
        for step in range(steps):
            train_step(model, ...)
            monitor(model, step)

    The model is measured in inference mode and left as it is: its parameters, its statistics and
    its mode.

    Args:
        inputs: (n, ...) floating point, as the model takes them; some hundred samples of the
            training set suffice.
        labels: (n,) integers from 0 on.
        of: `probe`: a frozen random probe on the model's features stands in for the model, as in
            the paper; `network`: every weight layer of the model itself.
        every: only steps divisible by it are measured.
        strengths: which forms; None: all that `of` offers.
        num_classes: outputs of the probe; None: the labels' maximum + 1.
        probe_widths: hidden widths of the probe, three at least.
        probe_seed: of the probe's weights.
        batch_size: samples at a time; memory depends on it, the result does not.
        log: called as log("beta_eff/<strength>", value, step) for each value.

    Attributes:
        history: a `Measurement` per measured step, in order.

    Raises:
        ConfigError: an option that cannot work.
        KernelError: inputs or labels for which beta_eff is not defined.
    """

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        *,
        of: Literal["probe", "network"] = "probe",
        every: int = 1,
        strengths: Sequence[Strength] | None = None,
        num_classes: int | None = None,
        probe_widths: Sequence[int] = (256, 128, 64),
        probe_seed: int = 0,
        batch_size: int = 256,
        log: Log | None = None,
    ):
        offered = {"probe": STRENGTHS, "network": NETWORK_STRENGTHS}
        if of not in offered:
            raise errors.ConfigError(*errors.unknown_name("of", str(of), offered))
        if every < 1 or batch_size < 1:
            raise errors.ConfigError(
                f"every={every}, batch_size={batch_size}", "Give whole numbers of at least 1"
            )
        self.strengths = tuple(strengths or offered[of])
        checks.check_strengths(self.strengths, offered[of])
        probe.check_widths(probe_widths)
        self.inputs, self.labels = np.asarray(inputs), np.asarray(labels)
        checks.check_inputs(self.inputs)
        self.num_classes = num_classes or int(np.max(self.labels, initial=0)) + 1
        checks.check_labels(self.labels, len(self.inputs), self.num_classes)
        self.of, self.every, self.log = of, every, log
        self.probe_widths, self.probe_seed = tuple(probe_widths), probe_seed
        self.batch_size = min(batch_size, len(self.inputs))
        self.history: list[Measurement] = []
        self._probe: Any = None
        self._width = 0

    def __call__(self, model: Model, step: int) -> Measurement | None:
        """Measure, unless `every` says to skip this step.

        Args:
            model: for `probe`, an `nnx.Module` with `features(x)` -> (batch, width), or any
                function of a batch of inputs that returns that; for `network`, an `nnx.Module`
                that returns logits (batch, classes) when called.
            step: as the caller counts: steps, epochs.

        Raises:
            ModelError: the model returns no features, or another number than at the first call.
            KernelError: a model that cannot be treated.
        """
        if step % self.every:
            return None
        measure = self._measure_probe if self.of == "probe" else self._measure_network
        values, statuses = measure(model)
        measurement = Measurement(
            step,
            {strength: values[strength][0] for strength in self.strengths},
            {strength: statuses[strength][0] for strength in self.strengths},
        )
        self.history.append(measurement)
        if self.log is not None:
            for strength, value in measurement.values.items():
                self.log(f"beta_eff/{strength}", value, step)
        return measurement

    def _measure_probe(self, model: Model) -> tuple[Values, Statuses]:
        features = jnp.asarray(self._features(model), jnp.float32)
        if features.ndim != 2 or len(features) != len(self.labels):
            raise errors.ModelError(
                f"the model returns {features.shape[1:]} for a sample instead of (width,)",
                "Give a function that returns features (batch, width)",
            )
        if self._probe is not None and features.shape[1] != self._width:
            raise errors.ModelError(
                f"the model returns {features.shape[1]} features, but {self._width} at the first "
                "call",
                "Make a monitor for each model",
            )
        if self._probe is None:
            self._width = features.shape[1]
            _, self._probe, _ = probe.make_probes(
                self._width, self.num_classes, self.probe_widths, seed=self.probe_seed
            )
        return measure_probes(self._probe, features, jnp.asarray(self.labels))

    def _features(self, model: Model) -> np.ndarray:
        function: Callable[[Any], Any]
        if isinstance(model, nnx.Module):
            function = partial(_apply, *functional.as_function(model, "features"))
        else:
            function = model
        starts = range(0, len(self.inputs), self.batch_size)
        parts = [function(self.inputs[start : start + self.batch_size]) for start in starts]
        return np.concatenate([np.asarray(part) for part in parts])

    def _measure_network(self, model: Any) -> tuple[Values, Statuses]:
        if not isinstance(model, nnx.Module) or not callable(model):
            raise errors.ModelError(
                f"{type(model).__name__} is not an nnx.Module that can be called",
                "Give the whole classifier, or measure with a probe",
            )
        split = split_model(model)
        if not self.history:  # later a network that diverged is a status, not an error
            kernel.check(*split, self.inputs, self.labels)
        size = self.batch_size
        empty = kernel.init(*split, self.inputs[:size], self.strengths)
        sums = accumulate(empty, split, batches_of(self.inputs, self.labels, size))
        return as_records(beta_eff.from_state(sums))


@partial(jax.jit, static_argnames="function")
def _apply(function: functional.Inference, params: Any, state: Any, x: jax.Array) -> jax.Array:
    return function(params, state, x)
