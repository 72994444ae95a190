"""What is refused, with the exact cause and remedy, and what cannot be looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ncap_jax.capacitance import checks
from ncap_jax.errors import ConfigError, KernelError
from ncap_jax.types import STRENGTHS
from tests.support.nets import Net, random_net

NET = random_net(4, (4, 5, 4, 3, 3), 6)
DAMAGED = "Lower the learning rate if the model diverged; otherwise reload its weights"
SHALLOW = "with fewer, softmax and cross-entropy make the signed value 0"


def with_nan(array: np.ndarray, count: int, value: float = np.nan) -> np.ndarray:
    changed = array.copy()
    changed.flat[:count] = value
    return changed


# what is wrong -> (arguments made of a sound net, cause, remedy)
MLP: dict[str, tuple[Callable[[Net], tuple[Any, ...]], str, str]] = {
    "two hidden layers": (
        lambda n: (n.kernels[1:], n.biases[1:], n.inputs, n.labels),
        f"the network has 2 hidden layers, but beta_eff needs at least 3: {SHALLOW}",
        "Use a deeper network or probe",
    ),
    "no layer": (
        lambda n: ([], [], n.inputs, n.labels),
        f"the network has 0 hidden layers, but beta_eff needs at least 3: {SHALLOW}",
        "Use a deeper network or probe",
    ),
    "missing bias": (
        lambda n: (n.kernels, n.biases[:-1], n.inputs, n.labels),
        "4 kernels but 3 biases",
        "Give one bias (n_out,) per layer, zeros where a layer has none",
    ),
    "images": (
        lambda n: (n.kernels, n.biases, n.inputs[:, :, None], n.labels),
        "the shape of inputs is (6, 4, 1), not (batch, n_in)",
        "Flatten each sample to a vector",
    ),
    "transposed": (
        lambda n: ([k.T for k in n.kernels], n.biases, n.inputs, n.labels),
        "kernel 1 has shape (5, 4), but its input has width 4",
        "Give kernels of shape (n_in, n_out); transpose those of PyTorch",
    ),
    "empty kernel": (
        lambda n: ([n.kernels[0][:, :0], *n.kernels[1:]], n.biases, n.inputs, n.labels),
        "kernel 1 has shape (4, 0), but its input has width 4",
        "Give kernels of shape (n_in, n_out); transpose those of PyTorch",
    ),
    "wrong bias": (
        lambda n: (n.kernels, [*n.biases[:-1], n.biases[0]], n.inputs, n.labels),
        "bias 4 has shape (5,), not (3,)",
        "Give one bias per output of the layer's kernel",
    ),
    "NaN weights": (
        lambda n: (
            [n.kernels[0], with_nan(n.kernels[1], 2), *n.kernels[2:]],
            n.biases,
            n.inputs,
            n.labels,
        ),
        "NaN or infinite values in kernel 2: 2 of 20",
        DAMAGED,
    ),
    "infinite bias": (
        lambda n: (
            n.kernels,
            [*n.biases[:-1], with_nan(n.biases[-1], 1, np.inf)],
            n.inputs,
            n.labels,
        ),
        "NaN or infinite values in bias 4: 1 of 3",
        DAMAGED,
    ),
    "NaN inputs": (
        lambda n: (n.kernels, n.biases, with_nan(n.inputs, 3), n.labels),
        "NaN or infinite values in inputs: 3 of 24",
        "Remove or repair these samples",
    ),
    "label too large": (
        lambda n: (n.kernels, n.biases, n.inputs, np.arange(6, dtype=np.int32)),
        "labels range from 0 to 5, but the network has 3 outputs",
        "Renumber the classes from 0 to 2",
    ),
}


@pytest.mark.parametrize("name", MLP)
def test_what_is_not_an_mlp_is_refused(name):
    change, cause, remedy = MLP[name]
    with pytest.raises(KernelError) as error:
        checks.check_mlp(*change(NET))
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_a_sound_mlp_passes():
    checks.check_mlp(*NET.plain)


INPUTS: dict[str, tuple[np.ndarray, str, str]] = {
    "integers": (
        NET.inputs.astype(np.int64),
        "the dtype of features is int64, not floating point",
        "Preprocess first, for example with images.astype('float32') / 255",
    ),
    "one sample": (
        NET.inputs[0],
        "the shape of features is (4,), which is not a batch",
        "Let the first axis count samples",
    ),
    "empty": (NET.inputs[:0], "the batch of features is empty", "Give at least one sample"),
    "infinite": (
        with_nan(NET.inputs, 1, -np.inf),
        "NaN or infinite values in features: 1 of 24",
        "Remove or repair these samples",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_bad_inputs_are_refused(name):
    inputs, cause, remedy = INPUTS[name]
    with pytest.raises(KernelError) as error:
        checks.check_inputs(inputs, "features")
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


LABELS: dict[str, tuple[np.ndarray, str, str]] = {
    "one-hot": (
        np.eye(3)[NET.labels],
        "labels have shape (6, 3) and dtype float64",
        "Give one class number per sample: (batch,) integers, not one-hot vectors",
    ),
    "fractions": (
        NET.labels.astype(np.float32),
        "labels have shape (6,) and dtype float32",
        "Give one class number per sample: (batch,) integers, not one-hot vectors",
    ),
    "too few": (NET.labels[:-1], "there are 5 labels for 6 samples", "Give one label per sample"),
    "negative": (
        np.array([-1, 0, 1, 2, 0, 1]),
        "labels range from -1 to 2, but the network has 3 outputs",
        "Renumber the classes from 0 to 2",
    ),
    "too large": (
        np.array([3, 0, 1, 2, 0, 1]),
        "labels range from 0 to 3, but the network has 3 outputs",
        "Renumber the classes from 0 to 2",
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_bad_labels_are_refused(name):
    labels, cause, remedy = LABELS[name]
    with pytest.raises(KernelError) as error:
        checks.check_labels(labels, 6, 3)
    assert (error.value.cause, error.value.remedy) == (cause, remedy)


def test_unknown_strengths_are_refused():
    checks.check_strengths(STRENGTHS)
    with pytest.raises(ConfigError) as error:
        checks.check_strengths(["signed", "absolut"])
    assert error.value.cause == "unknown strength 'absolut'"
    assert error.value.remedy == "Did you mean absolute"
    with pytest.raises(ConfigError) as error:
        checks.check_strengths(["total"], known=("signed", "squared"))
    assert error.value.cause == "unknown strength 'total'"
    assert error.value.remedy == "Known: signed, squared"


def test_batch_norm_that_does_not_fit_is_refused():
    good = [np.ones(5), np.ones(4), np.ones(3)]
    checks.check_probe(good, good, NET.kernels, ["signed"])
    with pytest.raises(KernelError) as error:
        checks.check_probe(good[:-1], good, NET.kernels, ["signed"])
    assert error.value.cause == "gammas have shapes [(5,), (4,)], not [(5,), (4,), (3,)]"
    assert error.value.remedy == "Give one vector (n_out,) per hidden layer"
    with pytest.raises(KernelError) as error:
        checks.check_probe(good, good[::-1], NET.kernels, ["signed"])
    assert error.value.cause == "betas have shapes [(3,), (4,), (5,)], not [(5,), (4,), (3,)]"
    with pytest.raises(ConfigError) as error:
        checks.check_probe(good, good, NET.kernels, ["nothing"])
    assert error.value.cause == "unknown strength 'nothing'"


@pytest.mark.parametrize("on_host", [True, False])
def test_the_damaged_array_is_named_wherever_it_lies(monkeypatch, on_host):
    monkeypatch.setattr(checks, "_is_on_host", lambda x: on_host)
    sound, damaged = jnp.ones((2, 3)), jnp.array([1, jnp.inf, jnp.nan], jnp.bfloat16)
    checks.check_finite({"one": sound, "two": np.ones(3)}, "Nothing to do")
    with pytest.raises(KernelError) as error:
        checks.check_finite({"one": sound, "two": damaged}, "Repair it")
    assert error.value.cause == "NaN or infinite values in two: 2 of 3"
    assert error.value.remedy == "Repair it"


def test_values_that_are_traced_are_not_looked_at():
    """Shapes are checked under `jit`; values, which are not known there, are not."""

    @jax.jit
    def measure(inputs: jax.Array, labels: jax.Array) -> jax.Array:
        assert not checks.is_concrete(inputs)
        checks.check_inputs(inputs)
        checks.check_labels(labels, 2, 3)
        checks.check_finite({"weight": jnp.ones(3)}, "none")  # a constant of what is traced
        return inputs

    assert checks.is_concrete(NET.inputs)
    inputs = jnp.full((2, 3), jnp.nan, jnp.float32)
    measure(inputs, jnp.array([7, -1]))
    with pytest.raises(KernelError) as error:
        measure(inputs, jnp.array([0, 1, 2]))
    assert error.value.cause == "there are 3 labels for 2 samples"


def test_three_hidden_layers_are_what_the_method_needs():
    assert checks.MIN_HIDDEN_LAYERS == 3
