"""The 16 Keras models: features, stages, statistics and gradients equal Keras's own.

A representative third runs by default, all of them with `make test-all`; so do native sizes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from ncap_jax.zoo import MODELS
from tests.zoo import keras_parity

# Keras's own way of turning its variables into NumPy arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Case(NamedTuple):
    """A model: its name in Keras, options there, and an odd size of input."""

    application: str
    size: int = 47
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


CASES = {
    "vgg16": Case("vgg16", 33),
    "vgg19": Case("vgg19", 33),
    "resnet50": Case("resnet50"),
    "resnet101": Case("resnet101"),
    "resnet152": Case("resnet152"),
    "resnet50v2": Case("resnet50v2"),
    "resnet101v2": Case("resnet101v2"),
    "resnet152v2": Case("resnet152v2"),
    "densenet121": Case("densenet121"),
    "densenet169": Case("densenet169"),
    "densenet201": Case("densenet201"),
    "mobilenet": Case("mobilenet", 65),
    "mobilenetv2": Case("mobilenetv2", 65),
    "inceptionv3": Case("inceptionv3", 79),
    "inceptionresnetv2": Case("inceptionresnetv2", 79),
    "xception": Case("xception", 79),
}
VARIANTS = {
    "mobilenet_025": Case("mobilenet", 33, {"alpha": 0.25}),
    "mobilenet_050": Case("mobilenet", 33, {"alpha": 0.5}),
    "mobilenet_075": Case("mobilenet", 33, {"alpha": 0.75}),
    "mobilenetv2_035": Case("mobilenetv2", 33, {"alpha": 0.35}),
    "mobilenetv2_050": Case("mobilenetv2", 33, {"alpha": 0.5}),
    "mobilenetv2_075": Case("mobilenetv2", 33, {"alpha": 0.75}),
    "mobilenetv2_130": Case("mobilenetv2", 33, {"alpha": 1.3}),
    "mobilenetv2_140": Case("mobilenetv2", 33, {"alpha": 1.4}),
}
ALL = CASES | VARIANTS


def models(names, quick: tuple[str, ...] = ()):
    """Parameters of a test: the quick ones by default, the rest slow."""
    slow = (pytest.mark.slow, pytest.mark.timeout(3600))
    return [pytest.param(name, marks=() if name in quick else slow) for name in names]


def check(
    name: str,
    dtype: str,
    folder,
    *,
    train: bool,
    size: int | None = None,
    samples: int = keras_parity.BATCH,
) -> None:
    case = ALL[name]
    errors, outcomes = keras_parity.compare(
        MODELS[name],
        case.application,
        size or case.size,
        dtype,
        folder,
        train=train,
        samples=samples,
        **case.options,
    )
    for outcome in outcomes:
        assert outcome.features.shape == (samples, MODELS[name].feature_width)
        assert np.abs(outcome.features).max() > 1e-3  # no comparison of zeros
        assert bool(outcome.gradients) == train
    # `not <=`: NaN fails too.
    wrong = {leaf: e for leaf, e in errors.items() if not e <= keras_parity.TOLERANCE[dtype]}
    assert not wrong


QUICK = ("vgg16", "resnet50", "mobilenet_025", "mobilenetv2_035", "xception")


@pytest.mark.parametrize("name", models(ALL, QUICK))
def test_inference_float32(name, tmp_path):
    check(name, "float32", tmp_path, train=False)


# Slow throughout: in float32 an activation within rounding of a ReLU's kink can fall to its other
# side when the threads split the sums differently, and the gradient jumps (seen: 1.5e-3, once in
# three full runs). The default suite compares training in float64, at 1e-9, where it does not.
@pytest.mark.parametrize("name", models(ALL))
def test_training_float32(name, tmp_path):
    check(name, "float32", tmp_path, train=True)


@pytest.mark.parametrize("name", models(CASES))
def test_inference_float64(name, tmp_path):
    check(name, "float64", tmp_path, train=False)


@pytest.mark.parametrize("name", models([*CASES, "mobilenet_025"], ("mobilenet_025",)))
def test_training_float64(name, tmp_path):
    check(name, "float64", tmp_path, train=True)


@pytest.mark.parametrize("name", models(CASES))
def test_inference_float32_native_size(name, tmp_path):
    check(name, "float32", tmp_path, train=False, size=MODELS[name].input_size)


# In float64 alone: at this size some activation always lies within float32's rounding of a kink.
# Two images a batch: batch norm has pixels enough to average, and float64 is slow on a CPU.
@pytest.mark.parametrize("name", models(CASES))
def test_training_float64_native_size(name, tmp_path):
    check(name, "float64", tmp_path, train=True, size=MODELS[name].input_size, samples=2)
