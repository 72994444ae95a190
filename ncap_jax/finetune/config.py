"""Checks of a run's configuration before any work is done."""

from __future__ import annotations

import jax
import optax

from ncap_jax import errors
from ncap_jax.finetune import parallel
from ncap_jax.types import HEADS, RankConfig
from ncap_jax.zoo import probe

OPTIMIZERS = ("adam", "sgd")
DTYPES = ("float32", "bfloat16")
WEIGHTS = ("pretrained", "random")
AUGMENT = ("off", "recommended")
SGD_MOMENTUM = 0.9
SEEDS = 2**32  # what every generator in use takes
POSITIVE = ("epochs", "batch_size", "measure_size", "num_probes")


def check_config(config: RankConfig) -> None:
    """Refuse a configuration that cannot work.

    Raises:
        ConfigError: names the field, its value and what it may be.
    """
    for name in POSITIVE:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise errors.ConfigError(f"{name}={value!r}", "Give a whole number of at least 1")
    for name, rates in (
        ("learning_rate", (config.learning_rate,)),
        ("trial_rates", config.trial_rates or ()),
    ):
        if not all(0 < rate < float("inf") for rate in rates):
            raise errors.ConfigError(
                f"{name}={getattr(config, name)!r}", "Give positive numbers, such as 1e-3"
            )
    if config.input_size is not None and config.input_size < 1:
        raise errors.ConfigError(f"input_size={config.input_size}", "Give the side in pixels")
    for name in ("seed", "probe_seed"):
        value = getattr(config, name)
        if not 0 <= value < SEEDS:
            raise errors.ConfigError(f"{name}={value}", f"Give a whole number of 0 to {SEEDS - 1}")
    for name, known in (
        ("head", HEADS),
        ("optimizer", OPTIMIZERS),
        ("dtype", DTYPES),
        ("weights", WEIGHTS),
        ("augment", AUGMENT),
    ):
        value = getattr(config, name)
        if value not in known:
            raise errors.ConfigError(*errors.unknown_name(name, str(value), known))
    if config.head == "linear" and config.num_probes != 1:
        raise errors.ConfigError(
            f"num_probes={config.num_probes} with head=linear", "A linear head has no probe: use 1"
        )
    probe.check_widths(config.probe_widths)
    parallel.check(config)


def make_optimizer(config: RankConfig) -> optax.GradientTransformation:
    """The optimizer of a run: Adam (default), or SGD with momentum 0.9.

    The learning rate is a number in its state, not a constant of the compiled step: a run at
    another rate finds the program in the compilation cache.
    """

    def make(learning_rate: jax.Array) -> optax.GradientTransformation:
        if config.optimizer == "adam":
            return optax.adam(learning_rate)
        return optax.sgd(learning_rate, momentum=SGD_MOMENTUM)

    return optax.inject_hyperparams(make)(learning_rate=config.learning_rate)
