"""The embedded pool: builds, is small, is what the manifest says, and was really trained."""

from __future__ import annotations

import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ncap_jax.zoo.weights
from ncap_jax import data
from ncap_jax.zoo import find_models, load_model, tiny
from ncap_jax.zoo.preprocess import preprocess
from ncap_jax.zoo.weights import sources, store

FOLDER = pathlib.Path(ncap_jax.zoo.weights.__file__).parent
NAMES = [spec.name for spec in tiny.SPECS]


@pytest.mark.parametrize("spec", tiny.SPECS, ids=NAMES)
def test_feature_width_and_parameter_count(spec):
    module = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    assert count == spec.parameters

    def features(x):
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
def test_the_manifest_describes_the_shipped_file(name):
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


def test_random_weights_are_asked_for_explicitly():
    trained, fresh = load_model("tiny_plain"), load_model("tiny_plain", weights=None)
    again = load_model("tiny_plain", weights=None)
    kernel = "blocks.0.conv.kernel"
    assert np.any(store.state_arrays(trained)[kernel] != store.state_arrays(fresh)[kernel])
    np.testing.assert_array_equal(
        store.state_arrays(again)[kernel], store.state_arrays(fresh)[kernel]
    )


def test_source_accuracy_is_reached_again_by_a_linear_probe(shared_data):
    """The shipped features separate CIFAR-10 far better than the untrained network's."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, labels = data.load_test_split("cifar10", shared_data / "tfds")

    def accuracy(weights):
        model = load_model("tiny_resnet", weights)
        x = preprocess(jnp.asarray(images[:1200]), "unit", 32)
        features = np.asarray(model.features(x))
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        return probe.fit(features[:800], labels[:800]).score(features[800:], labels[800:1200])

    assert accuracy("pretrained") > accuracy(None) + 0.2


def test_patterns_and_names():
    assert [spec.name for spec in find_models(["tiny_*"])] == NAMES
    assert [s.name for s in find_models(["tiny_senet", "tiny_se*", tiny.SPECS[0]])] == [
        "tiny_senet",
        "tiny_plain",
    ]
