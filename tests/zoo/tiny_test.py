"""The embedded pool: builds, is small, is what the manifest says, and was really trained."""

from __future__ import annotations

import hashlib
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax.zoo.weights
from ncap_jax import data
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import functional, load_model, tiny
from ncap_jax.zoo.preprocess import preprocess
from ncap_jax.zoo.weights import sources, store

FOLDER = pathlib.Path(ncap_jax.zoo.weights.__file__).parent
NAMES = [spec.name for spec in tiny.SPECS]


@pytest.mark.parametrize("spec", tiny.SPECS, ids=NAMES)
def test_feature_width_and_parameter_count(spec: ModelSpec):
    module = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count == spec.parameters

    def features(x: jax.Array) -> jax.Array:
        model = spec.build(rngs=nnx.Rngs(0))
        model.eval()
        return model.features(x)

    shape = jax.eval_shape(features, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)).shape
    assert shape == (2, spec.feature_width)


def test_the_pool_is_small_and_varied():
    sizes = {name: (FOLDER / sources.manifest()[name]["file"]).stat().st_size for name in NAMES}
    assert len(NAMES) >= 8
    assert max(sizes.values()) <= 300_000
    assert sum(sizes.values()) <= 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_describes_the_shipped_file(name: str):
    entry = sources.manifest()[name]
    assert hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    module = load_model(name)
    shipped = store.read_safetensors(FOLDER / entry["file"])
    for path, array in store.state_arrays(module).items():
        np.testing.assert_array_equal(array, shipped[path])
    assert entry["seed"] == 0
    assert 0 < entry["source_accuracy"] < 1


def test_controls_are_poor_and_the_rest_is_not():
    accuracy = {name: entry["source_accuracy"] for name, entry in sources.manifest().items()}
    controls = {"tiny_plain_barely", "tiny_resnet_random"}
    assert accuracy["tiny_resnet_random"] < 0.2
    assert accuracy["tiny_plain_barely"] < 0.45
    assert all(value > 0.5 for name, value in accuracy.items() if name not in controls)


def test_source_accuracy_is_reached_again_by_a_linear_probe(shared_data: pathlib.Path):
    """The shipped features separate CIFAR-10 far better than the untrained network's."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, labels = data.load_test_split("cifar10", data_dir=shared_data / "tfds")

    @partial(jax.jit, static_argnums=0)  # one program: both are of one architecture
    def run(definition: functional.Functional, params: Any, state: Any, x: jax.Array) -> jax.Array:
        return functional.apply(definition, params, state, x, train=False)[0]

    def accuracy(name: str) -> float:
        model = load_model(name)
        x = preprocess(jnp.asarray(images[:900]), "unit", 32)
        features = np.asarray(run(*functional.split(model), x))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        return probe.fit(features[:600], labels[:600]).score(features[600:], labels[600:900])

    assert accuracy("tiny_resnet") > accuracy("tiny_resnet_random") + 0.2
