"""beta_eff under fine-tuning: of the probe, or of the whole network, and once compiled."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ncap_jax.capacitance import beta_eff, network
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import evaluation, loop, steps
from ncap_jax.finetune.candidate import prepare
from ncap_jax.finetune.programs import compile_programs
from ncap_jax.measure import epochs, training
from ncap_jax.measure.network import accumulate, batches_of, split_model
from ncap_jax.measure.probe import measure_probes
from ncap_jax.ops import effort
from ncap_jax.types import NETWORK_STRENGTHS, STRENGTHS, ModelSpec
from ncap_jax.zoo import functional
from tests.support.compilations import compilations
from tests.support.small import (
    cheap_init,
    deep_spec,
    small_config,
    small_digits,
    small_feed,
    small_spec,
    timeless,
)


def start(spec=None, feed=None, **changes):
    return training.start(spec or small_spec(), feed or small_feed(), small_config(**changes))


def test_a_probe_is_measured_on_the_features_of_every_epoch():
    def tuned():
        return start(measure_size=60, epochs=1)

    first, last = loop.run(tuned())
    tuning = tuned()
    train_state = loop.starting_state(tuning, None, None)
    for record in (first, last):
        train_state, _ = loop.train_epoch(tuning, train_state, record.epoch)
        features = evaluation.measurement_features(tuning, train_state)
        expected, statuses = measure_probes(train_state.params["head"], *features)
        assert set(expected) == set(STRENGTHS)
        assert (record.beta_eff, record.beta_eff_status) == (expected, statuses)
        assert record.seconds >= record.measure_seconds > 0
    assert first.beta_eff != last.beta_eff


class Dense(nnx.Module):
    """Two dense layers on the flattened pixels: can learn any small training set by heart."""

    def __init__(self, *, rngs, dtype=None):
        options = {"kernel_init": cheap_init, "dtype": dtype, "rngs": rngs}
        self.one, self.two = nnx.Linear(192, 64, **options), nnx.Linear(64, 12, **options)

    def features(self, x):
        return nnx.relu(self.two(nnx.relu(self.one(x.reshape(len(x), -1)))))


@pytest.mark.parametrize(("head", "vanishes"), [("trainable_probe", True), ("probe", False)])
def test_beta_eff_vanishes_at_zero_loss(head, vanishes):
    """Theorem 1 of the paper: at zero loss g -> 0, hence P -> 0 and beta_eff -> 0.

    A frozen probe with batch norm bounds the logits, so its loss stays above 0 and so does
    beta_eff: the value at beta_eff = 0 is an extrapolation there, never a limit that is reached.
    """
    few = make_feed(small_digits(train=60, validation=60))
    spec = ModelSpec("dense", Dense, input_size=8, feature_width=12)
    options = {"epochs": 60, "batch_size": 30, "learning_rate": 1e-2, "probe_seed": 1}
    first, last = loop.run(start(spec, few, head=head, **options), {0, 60})
    assert first.train_loss > 1
    assert (last.train_loss < 0.05) == vanishes
    for strength in ("signed", "absolute", "squared"):
        assert (abs(last.beta_eff[strength][0]) < 0.05) == vanishes


class DeepClassifier(nnx.Module):
    def __init__(self, backbone, head):
        self.backbone, self.head = backbone, head

    def __call__(self, x):
        return self.head(self.backbone.features(x))


@pytest.fixture(scope="module")
def deep():
    return start(deep_spec(), head="linear", epochs=1, beta_eff="every_epoch")


def test_ordinary_fine_tuning_records_the_whole_network(deep):
    """The recorded values are those of the module put together by hand, on the same samples."""
    candidate = deep.candidate
    (batch,) = deep.measure.batches
    assert len(batch.labels) == 32
    record = evaluation.observe(deep, candidate.train_state)
    params, state = candidate.train_state[:2]
    first = jax.tree.map(lambda leaf: leaf[0], params["head"])
    model = DeepClassifier(
        functional.merge(candidate.network.backbone, params["backbone"], state["backbone"]),
        functional.merge(candidate.network.head, first, {}),
    )
    inputs, labels = candidate.network.preprocess(batch.inputs), batch.labels
    assert set(record.beta_eff) == set(NETWORK_STRENGTHS)
    split = split_model(model)
    empty = network.init(*split, inputs, NETWORK_STRENGTHS)
    results = beta_eff.from_state(accumulate(empty, split, batches_of(inputs, labels, 32)))
    for strength, expected in results.items():
        # The same float32 arithmetic in another program: rounding only, see docs/numerics.md.
        assert record.beta_eff[strength][0] == pytest.approx(float(expected), rel=1e-4)
        assert record.beta_eff_status[strength] == (expected.status,)


def test_a_network_is_measured_in_float32_whatever_it_is_trained_in(deep):
    config = dataclasses.replace(deep.config, dtype="bfloat16")
    narrow = training.start(deep_spec(), deep.feed, config)
    sums = narrow.measure.sums_of_one(narrow.candidate.train_state).sums
    assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {np.dtype(np.float32)}


def test_several_batches_are_measured_as_one_is(deep, monkeypatch):
    monkeypatch.setattr(epochs, "NETWORK_BATCH", 12)
    parts = training.make_measure(deep.candidate, deep.feed, deep.config)
    assert [len(batch.labels) for batch in parts.batches] == [12, 12, 12]
    state = deep.candidate.train_state
    values, _ = parts(state, np.zeros(()), np.zeros(()))
    whole, _ = deep.measure(state, np.zeros(()), np.zeros(()))
    for strength in NETWORK_STRENGTHS:
        # Sums of float32 in another order, see docs/numerics.md.
        assert values[strength][0] == pytest.approx(whole[strength][0], rel=1e-4)


def test_one_architecture_is_measured_by_one_program(deep):
    """Other names and weights, and a candidate that is prepared again after a pause."""
    deep.measure(deep.candidate.train_state, jnp.zeros(()), jnp.zeros(()))
    found = []
    for name, seed in (("deep", 0), ("other", 5)):
        config = dataclasses.replace(deep.config, seed=seed)
        spec = dataclasses.replace(deep_spec(), name=name)
        candidate = prepare(spec, deep.feed, config)
        with compilations() as programs:
            measure = training.make_measure(candidate, deep.feed, config)
            values, _ = measure(candidate.train_state, jnp.zeros(()), jnp.zeros(()))
        assert programs == []
        found.append(values)
    assert found[0] != found[1]


def test_a_network_that_is_too_short_is_fine_tuned_all_the_same():
    """It is said once, however often it would have been measured, and wherever it is compiled."""
    reason = "the longest path has 2 weight layers and ends in head/output/kernel"
    tuning = start(head="linear", beta_eff="every_epoch")
    with pytest.warns(UserWarning, match=f"small: no whole-network beta_eff: {reason}"):
        compile_programs(tuning, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajectory = loop.finetune(tuning)
    assert trajectory.status == "ok"
    assert all(not record.beta_eff for record in trajectory.records)


def test_start_hands_on_what_a_run_needs():
    def check():
        pass

    def augment(key, images):
        return images

    config = small_config()
    tuning = training.start(small_spec(), small_feed(), config, augment, 2, check)
    program = tuning.candidate.program
    assert (program.augment, program.micro_batches) == (augment, 2)
    assert (tuning.feed, tuning.config, tuning.deadline) == (small_feed(), config, check)


@pytest.mark.parametrize(
    ("choice", "epochs", "strengths"),
    [("auto", [3], ("signed",)), ("every_epoch", [0, 1, 2, 3], NETWORK_STRENGTHS)],
)
def test_a_network_is_measured_as_chosen(choice, epochs, strengths):
    records = list(loop.run(start(deep_spec(), head="linear", epochs=3, beta_eff=choice)))
    assert [r.epoch for r in records if set(r.beta_eff) == set(strengths)] == epochs
    for record in records:
        if record.epoch not in epochs:
            assert (record.beta_eff, record.beta_eff_status) == ({}, {})


def test_how_often_it_is_measured_changes_nothing_else():
    """Losses and states are those of another run, to the last bit.

    So is beta_eff, to float32's rounding: one strength is another program than two.
    """
    runs = [
        timeless(loop.run(start(deep_spec(), head="linear", epochs=2, beta_eff=choice)))
        for choice in ("off", "auto", "every_epoch")
    ]
    bare = [[dataclasses.replace(r, beta_eff={}, beta_eff_status={}) for r in run] for run in runs]
    assert bare[0] == bare[1] == bare[2] == runs[0]
    some, every = (run[-1].beta_eff["signed"] for run in runs[1:])
    assert some == pytest.approx(every, rel=1e-5)


@pytest.mark.parametrize("head", ["linear", "trainable_probe"])
def test_switched_off_nothing_is_measured_or_compiled_for_it(head):
    tuning = start(deep_spec(), head=head, beta_eff="off", epochs=1)
    assert (tuning.measure, tuning.measured) == (None, frozenset())
    with compilations() as programs:
        records = list(loop.run(tuning))
    assert all(record.beta_eff == {} for record in records)
    measuring = {"jit(add_batch)", "jit(from_state)", "jit(_probes)"}
    assert measuring.isdisjoint(programs)


def test_a_network_that_is_too_short_is_not_warned_of_when_nothing_is_measured(recwarn):
    start(head="linear", beta_eff="off")
    assert not [w for w in recwarn if "beta_eff" in str(w.message)]


EFFORTS = ("least", "some", "full")
# On this backend explicitly: elsewhere in the tests the full effort is cheap as well.
FULL = {"xla_backend_optimization_level": "3", "xla_cpu_use_fusion_emitters": True}


@pytest.fixture
def real_efforts(monkeypatch):
    """Every program is compiled anew, as hard as users have it at each effort."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(effort, "OPTIONS", {"cpu": {**effort.OPTIONS["cpu"], "full": FULL}})
    programs = steps._step, steps.features, steps.head_sums, training.add_batch
    for jitted in (*programs, beta_eff.from_state):
        monkeypatch.setattr(jitted, "_by_effort", {})
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    effort.compiler_options.cache_clear()
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    effort.compiler_options.cache_clear()


def compiled_at(tuning, level):
    """The same fine-tuning with all its programs compiled at one effort."""
    program = dataclasses.replace(tuning.candidate.program, effort=level)
    return dataclasses.replace(
        tuning,
        candidate=dataclasses.replace(tuning.candidate, program=program),
        measure=dataclasses.replace(tuning.measure, effort=level),
    )


@pytest.mark.usefixtures("real_efforts")
def test_records_of_every_effort_agree_to_rounding():
    """docs/numerics.md: 1e-6 before training, 1e-5 after an epoch of SGD; ten times that signed."""
    options = {"head": "linear", "epochs": 1, "optimizer": "sgd", "beta_eff": "every_epoch"}
    with compilations() as programs:
        runs = [list(loop.run(compiled_at(start(deep_spec(), **options), e))) for e in EFFORTS]
    for name in ("train_step", "features", "head_sums", "add_batch", "from_state"):
        assert programs.count(f"jit({name})") == 3, name
    for found in runs[:2]:
        for record, expected, tolerance in zip(found, runs[2], (1e-6, 1e-5), strict=True):
            assert record.train_loss == pytest.approx(expected.train_loss, rel=tolerance)
            assert record.validation_loss == pytest.approx(expected.validation_loss, rel=tolerance)
            assert record.validation_accuracy == expected.validation_accuracy
            assert record.beta_eff_status == expected.beta_eff_status
            for strength, factor in (("absolute", 1), ("signed", 10)):
                value = pytest.approx(expected.beta_eff[strength][0], rel=factor * tolerance)
                assert record.beta_eff[strength][0] == value
