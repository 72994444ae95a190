"""The epoch loop: records, reproducibility, pauses, divergence."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ncap_jax import data
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import evaluation, loop, outcome
from ncap_jax.finetune.candidate import FineTuning, prepare
from ncap_jax.finetune.checkpoints import Checkpoints
from ncap_jax.options import Recipe
from ncap_jax.selection.ranking import rank_trajectories
from ncap_jax.types import ModelSpec
from tests.support.small import (
    SmallNet,
    small_config,
    small_digits,
    small_spec,
    small_tuning,
    timeless,
)


def tuned(**changes):
    return small_tuning(**{"epochs": 3, "head": "linear", **changes})


@pytest.fixture(scope="module")
def whole():
    """A run of three epochs without an interruption."""
    return loop.finetune(tuned())


@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
def test_records(head):
    told, tuning = [], small_tuning(head=head)
    trajectory = loop.finetune(tuning, on_record=told.append)
    assert list(trajectory.records) == told
    assert [r.epoch for r in trajectory.records] == [0, 1, 2]
    batches = [len(c.indices) for c in tuning.feed.train(0, 1, tuning.config.batch_size)]
    assert [r.steps for r in trajectory.records] == [0, sum(batches), 2 * sum(batches)]
    assert (trajectory.model, trajectory.head, trajectory.status) == ("small", head, "ok")
    assert (trajectory.epochs, trajectory.message) == (2, "")
    assert trajectory.records[0].running_loss is None
    assert trajectory.seconds >= sum(r.seconds for r in trajectory.records)
    for record in trajectory.records:
        assert 0 <= record.train_accuracy <= 1
        assert 0 <= record.validation_accuracy <= 1
        assert record.seconds >= record.measure_seconds > 0
    for record in trajectory.records[1:]:
        assert record.running_loss > 0
    if head != "probe":  # two epochs below a frozen random probe may not suffice
        assert trajectory.records[-1].train_loss < trajectory.records[0].train_loss


def test_same_seed_same_trajectory(whole):
    assert timeless(loop.finetune(tuned()).records) == timeless(whole.records)
    assert timeless(loop.finetune(tuned(seed=6)).records) != timeless(whole.records)


def test_observed_epochs_only_leaves_the_training_as_it_is(whole):
    some = list(loop.run(tuned(), {0, 3}))
    assert [r.epoch for r in some] == [0, 3]
    assert timeless(some) == timeless([whole.records[0], whole.records[3]])


def test_a_pause_changes_nothing(whole, tmp_path):
    store, seen = Checkpoints(tmp_path / "c"), ()
    for until, status in ((1, "stopped"), (2, "stopped"), (3, "ok")):
        part = loop.finetune(tuned(), checkpoints=store, seen=seen, until=until)
        assert (part.status, part.epochs) == (status, until)
        seen = part.records
        assert store.latest() == min(until, 2)  # after the last epoch nothing is left to resume
    assert timeless(seen) == timeless(whole.records)


def test_epochs_that_are_recorded_are_trained_again_but_not_measured(whole, tmp_path):
    """From the start, and from a state that lies behind; the states are kept on the way."""
    store = Checkpoints(tmp_path / "c")
    told = []
    part = loop.finetune(tuned(), recorded=whole.records[:2], checkpoints=store, until=1)
    assert (part.records, store.latest()) == (whole.records[:2], 1)
    rest = loop.finetune(
        tuned(),
        seen=whole.records[:2],
        recorded=whole.records[2:3],
        checkpoints=store,
        on_record=told.append,
    )
    assert [record.epoch for record in told] == [3]
    assert timeless(rest.records) == timeless(whole.records)


class Stop(Exception):
    pass


def test_a_check_is_asked_before_every_step_and_may_stop_the_run(whole):
    """96 samples in batches of 32: three steps an epoch; 70 to validate on: one batch."""
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 6:
            raise Stop

    records = []
    with pytest.raises(Stop):
        loop.finetune(dataclasses.replace(tuned(), deadline=check), on_record=records.append)
    # Epoch 0: one batch measured; epoch 1: three steps, one batch; stopped in epoch 2.
    assert [record.epoch for record in records] == [0, 1]
    assert timeless(records) == timeless(whole.records[:2])


def test_a_probe_starts_with_the_statistics_of_the_untrained_features():
    """Layer by layer, by hand."""
    tuning = small_tuning()
    features, _ = evaluation.measurement_features(tuning, tuning.candidate.train_state)
    train_state = loop.starting_state(tuning, None, None)
    params, state = (
        jax.tree.map(lambda leaf: np.array(leaf[0]), part["head"]) for part in train_state[:2]
    )
    x = np.asarray(features)
    for number in range(3):
        x = x @ params["dense"][number]["kernel"] + params["dense"][number]["bias"]
        found = state["norm"][number]
        np.testing.assert_allclose(found["mean"], x.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["var"], x.var(axis=0), rtol=1e-4, atol=1e-5)
        x = np.maximum((x - found["mean"]) / np.sqrt(found["var"] + 1e-5), 0)
    linear = tuned()
    assert loop.starting_state(linear, None, None) is linear.candidate.train_state


def test_divergence_is_a_status():
    trajectory = loop.finetune(tuned(optimizer="sgd", learning_rate=1e30, epochs=4))
    assert trajectory.status == "diverged"
    assert trajectory.message == outcome.divergence(trajectory.epochs, Recipe())
    assert 1 <= trajectory.epochs < 4


class Broken(SmallNet):
    """Whose weights are not numbers."""

    def features(self, x):
        return super().features(x) * jnp.nan


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_is_broken_is_not_trained(dtype):
    spec = ModelSpec("broken", build=Broken, input_size=8, feature_width=12)
    trajectory = loop.finetune(small_tuning(spec, head="linear", dtype=dtype))
    assert (trajectory.status, trajectory.epochs) == ("diverged", 0)
    assert trajectory.message == outcome.divergence(0, Recipe(dtype=dtype))


def test_input_size_is_overridable(whole):
    """Twice the side: four times the pixels, another trajectory, the same feature width."""
    large = loop.finetune(tuned(input_size=16, epochs=1))
    assert large.status == "ok"
    assert large.records[-1].train_loss != whole.records[1].train_loss


def test_streamed_equals_resident(tmp_path):
    """Streaming changes where the images lie, not what is learnt."""
    digits, results = small_digits(), []
    for part, images, labels in (
        ("train", digits.images, digits.labels),
        ("validation", digits.validation_images, digits.validation_labels),
    ):
        for number, (image, label) in enumerate(zip(images, labels)):
            path = tmp_path / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    for stream in (False, True):
        feed = make_feed(data.load_dataset(str(tmp_path), image_size=8, stream=stream))
        config = small_config(head="linear")
        tuning = FineTuning(prepare(small_spec(), feed, config), feed, config)
        results.append(timeless(loop.finetune(tuning).records))
    assert results[0] == results[1]


class Dead(SmallNet):
    """Whose convolution does not reach its features."""

    def features(self, x):
        return super().features(x) * 0 + 1


def test_a_model_whose_features_are_constant_is_flagged():
    """It trains, for its head learns the shares of the classes, but nobody should choose it."""
    tuning = small_tuning(ModelSpec("dead", Dead, input_size=8), head="linear")
    trajectory = loop.finetune(tuning)
    assert [record.features for record in trajectory.records] == ["constant"] * 3
    assert (trajectory.status, trajectory.epochs) == ("ok", 2)
    message = (
        "its features are the same for all images after epoch 2: its weights may be damaged, or "
        "its preprocessing wrong"
    )
    assert trajectory.message == message
    assert rank_trajectories([trajectory], "digits").models[0].flag.startswith(message)


def test_features_that_are_not_finite_are_named_where_the_losses_hide_them(monkeypatch):
    monkeypatch.setattr(evaluation, "feature_flaw", lambda features: "not finite")
    trajectory = loop.finetune(tuned())
    assert (trajectory.status, trajectory.epochs) == ("diverged", 0)
    assert trajectory.message == (
        "the features are not finite after epoch 0, before any training: its weights do not fit "
        "its preprocessing, or are damaged"
    )
