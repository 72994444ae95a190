"""A candidate: what decides its program, what decides its arrays, what it is measured on."""

from __future__ import annotations

import dataclasses

import chex
import jax
import numpy as np
import pytest

from ncap_jax import errors
from ncap_jax.finetune import candidate as candidates
from ncap_jax.finetune.candidate import prepare
from tests.support.small import small_config, small_digits, small_feed, small_spec


def prepared(name="small", width=12, augment=None, micro_batches=1, **changes):
    config = small_config(**changes)
    return prepare(small_spec(name, width), small_feed(), config, augment, micro_batches)


def flip(key, images):
    return images[:, :, ::-1]


@pytest.mark.parametrize(
    "changes",
    [{"name": "other"}, {"seed": 5}, {"probe_seed": 5}, {"learning_rate": 1e-2}, {"epochs": 9}],
)
def test_candidates_of_one_architecture_have_one_program(changes):
    one, other = prepared(), prepared(**changes)
    assert other.program == one.program
    assert hash(other.program) == hash(one.program)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 8},
        {"head": "probe"},
        {"probe_widths": (24, 16, 13)},
        {"optimizer": "sgd"},
        {"dtype": "bfloat16"},
        {"input_size": 16},
        {"augment": flip},
        {"micro_batches": 2},
        {"mesh": "data:1"},
    ],
)
def test_what_trains_otherwise_has_another_program(changes):
    assert prepared(**changes).program != prepared().program


def test_which_seed_draws_which_part():
    """`seed` the backbone and a linear head; `probe_seed` a probe, the same for all seeds."""

    def parts(**changes):
        return jax.tree.map(np.array, prepared(**changes).train_state.params)

    plain, seeded, drawn = parts(), parts(seed=5), parts(probe_seed=5)
    chex.assert_trees_all_equal(parts(), plain)
    chex.assert_trees_all_equal(seeded["head"], plain["head"])
    chex.assert_trees_all_equal(drawn["backbone"], plain["backbone"])
    assert np.any(seeded["backbone"]["conv"]["kernel"] != plain["backbone"]["conv"]["kernel"])
    assert np.any(drawn["head"]["output"]["kernel"] != plain["head"]["output"]["kernel"])
    linear, seeded, drawn = (
        parts(head="linear", **changes)["head"] for changes in ({}, {"seed": 5}, {"probe_seed": 5})
    )
    chex.assert_trees_all_equal(drawn, linear)
    assert np.any(seeded["output"]["kernel"] != linear["output"]["kernel"])


def test_every_leaf_has_a_buffer_of_its_own():
    """The first step donates all of them; two leaves in one buffer would be donated twice."""
    leaves = jax.tree.leaves(prepared().train_state)
    addresses = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    assert len(addresses) == len(leaves)


def test_probes_are_stacked_and_the_first_is_that_of_a_single_one():
    single, stacked = (
        jax.tree.map(np.array, prepared(num_probes=count).train_state.params["head"])
        for count in (1, 3)
    )
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stacked)} == {3}
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[:1], stacked), single)
    assert np.any(stacked["output"]["kernel"][1] != stacked["output"]["kernel"][2])


@pytest.mark.parametrize("head", ["probe", "trainable_probe", "linear"])
def test_moments_are_held_of_what_trains_alone(head):
    candidate = prepared(head=head)
    moments = candidate.train_state.optimizer.inner_state[0].mu
    trained = {"backbone"} if head == "probe" else {"backbone", "head"}
    assert set(moments) == set(candidate.network.trained) == trained


def test_parameters_are_float32_in_bfloat16_arithmetic():
    candidate = prepared(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(candidate.train_state.params)} == {
        np.dtype(np.float32)
    }
    assert candidate.network.preprocess.dtype == np.dtype("bfloat16")


@pytest.mark.parametrize(("parts", "batch"), [(1, 128), (3, 42), (1000, 1)])
def test_evaluation_takes_as_much_memory_as_a_part_of_a_training_batch(parts, batch):
    assert prepared(micro_batches=parts).evaluation_batch == batch


def test_an_evaluation_batch_divides_over_the_mesh(monkeypatch):
    monkeypatch.setattr(candidates, "EVALUATION_BATCH", 10)
    candidate = prepared()

    @dataclasses.dataclass
    class FourDevices:
        size: int = 4

    program = dataclasses.replace(candidate.program, mesh=FourDevices())
    assert dataclasses.replace(candidate, program=program).evaluation_batch == 12


def test_the_measurement_subset_is_stratified_and_the_seed_s():
    labels = small_digits().labels
    one, same, other = (prepared(measure_size=40, seed=seed) for seed in (0, 0, 1))
    assert len(one.measurement) == len(set(one.measurement.tolist())) == 40
    np.testing.assert_array_equal(one.measurement, same.measurement)
    assert np.any(one.measurement != other.measurement)
    assert np.ptp(np.bincount(labels[one.measurement]) - 40 / 96 * np.bincount(labels)) < 2
    assert len(prepared(measure_size=4096).measurement) == 96  # no more than there are


def test_a_large_network_is_compiled_at_full_effort(monkeypatch):
    assert prepared().program.effort == "some"
    monkeypatch.setattr(candidates, "LARGE", 100)
    assert prepared().program.effort == "full"


def test_rates_to_try_are_the_configuration_s():
    candidate = prepared(learning_rate=1e-2, trial_rates=(1e-3,))
    assert candidate.rates == (1e-2, 1e-3)
    assert candidate.train_state.optimizer.hyperparams["learning_rate"] == np.float32(1e-2)


def test_a_width_that_the_model_does_not_state_is_its_network_s():
    spec = dataclasses.replace(small_spec(width=10), feature_width=None)
    candidate = prepare(spec, small_feed(), small_config(head="linear"))
    assert candidate.train_state.params["head"]["output"]["kernel"].shape == (1, 10, 10)


def test_a_model_may_be_random_in_a_run_of_pretrained_ones():
    drawn = dataclasses.replace(small_spec(), weights="random")
    config = small_config(weights="pretrained", seed=5)
    alone = prepare(drawn, small_feed(), config).train_state.params["backbone"]
    all_of_them = prepared(seed=5).train_state.params["backbone"]
    chex.assert_trees_all_equal(alone, all_of_them)


def test_weights_that_are_not_there_are_refused():
    with pytest.raises(errors.WeightsError) as error:
        prepared(weights="pretrained")
    assert "small" in error.value.cause
    assert error.value.remedy
