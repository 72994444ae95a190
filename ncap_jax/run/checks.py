"""Refusals before any work is done: options that do not go together, weights that are missing.

`ncap_jax.options` checks each option by itself. What depends on other options, on the models or on
the machine is checked here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence

import jax

from ncap_jax import caching, distributed, errors
from ncap_jax.finetune import mesh
from ncap_jax.options import Execution, Limits, RankConfig, Usage
from ncap_jax.predictor.validation_size import doubt
from ncap_jax.run import processes
from ncap_jax.run.ray_workers import import_ray
from ncap_jax.selection import ranking, recall
from ncap_jax.types import ModelSpec
from ncap_jax.zoo import licences
from ncap_jax.zoo.registry import Found
from ncap_jax.zoo.weights import places, sources

# A warning names at most this many models.
NAMED = 40


def licensed(found: Found, config: RankConfig) -> Found:
    """The models of which the licence of the weights allows what the run is for.

    Args:
        found: the models; those that it does not allow are left out, with a warning.
        config: says what the run is for; random weights need no licence.

    Raises:
        ModelError: none is left.
    """
    if config.licence == "any" or config.weights == sources.RANDOM:
        return found
    refused = [spec for spec in found.specs if not _allowed(spec)]
    words = _some(list(map(licences.in_words, refused)))
    rule = "A licence that is unknown, or has terms of its own, counts as not commercial"
    if len(refused) == len(found.specs):
        raise errors.ModelError(
            f"licence='commercial' leaves no model: {words}. {rule}",
            "Choose other models or licence='any'. If you know the licence, give the model as a "
            "ModelSpec with it: dataclasses.replace(ncap_jax.zoo.find_model(name), licence='MIT')",
        )
    if refused:
        warnings.warn(
            f"{len(refused)} of {len(found.specs)} models are left out, because the licence of "
            f"their weights does not say that it allows commercial use: {words}. {rule}",
            stacklevel=2,
        )
    kept = tuple(spec for spec in found.specs if spec not in refused)
    return Found(kept, found.by_pattern & {spec.name for spec in kept})


def _allowed(spec: ModelSpec) -> bool:
    """Whether commercial use is allowed; random weights are nobody's."""
    absent = spec.weights is None and spec.build_pretrained is None
    return absent or spec.weights == sources.RANDOM or licences.is_commercial(spec.licence)


def obtainable(found: Found, config: RankConfig) -> tuple[ModelSpec, ...]:
    """The models of a run, once it is known of each that its weights can be had.

    Nothing is read or downloaded: a published file counts unless `NCAP_OFFLINE` forbids it.

    Args:
        found: the models; those that only a pattern asked for are left out, with a warning, where
            their weights are missing.
        config: says where weights are; of random ones none are missing.

    Raises:
        WeightsError: `weights_dir` does not exist; weights of models that were asked for by name,
            or of all models, are missing: all are named.
    """
    if config.weights_dir is not None and not on_a_cluster(config):
        sources.folders(config.weights_dir)
    if config.weights == sources.RANDOM or on_a_cluster(config):
        return found.specs
    located = {spec.name: places.locate(spec, config.weights_dir) for spec in found.specs}
    missing = {name: place.why for name, place in located.items() if place.kind == "missing"}
    # Several processes must not choose different models.
    optional = frozenset() if distributed.is_distributed() else found.by_pattern
    if len(missing) == len(found.specs) or not missing.keys() <= optional:
        raise _missing_weights(missing, len(found.specs))
    if missing:
        warnings.warn(
            f"{len(missing)} of the models that the patterns match are left out, because their "
            f"weights are not on this machine: {_some(list(missing))}. --list_models says what is",
            stacklevel=2,
        )
    return tuple(spec for spec in found.specs if spec.name not in missing)


def _some(names: Sequence[str]) -> str:
    """Names for a message; of a long list the first, and how many more."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED:,} more"


def _missing_weights(missing: Mapping[str, str], models: int) -> errors.WeightsError:
    """Names all models whose weights are missing, a line each."""
    lines = "".join(f"\n  {name}: {why}" for name, why in missing.items())
    network = "unset NCAP_OFFLINE, " if caching.offline() else ""
    return errors.WeightsError(
        f"the weights of {len(missing)} of {models} models are missing:{lines}",
        "Put the files into the folder given by weights_dir (NCAP_WEIGHTS_DIR), give a file's path "
        f"as weights of a ModelSpec, {network}leave these models out, or draw them at random: "
        'weights="random" in a ModelSpec for that model alone, in the run for all models',
    )


def on_a_cluster(execution: Execution) -> bool:
    """Whether the models are loaded on machines of which this one knows nothing."""
    address = execution.ray_address or os.environ.get("RAY_ADDRESS")
    return execution.executor == "ray" and bool(address)


def check_run(config: RankConfig, specs: Sequence[ModelSpec], kept: int = 0) -> None:
    """Refuse what cannot be carried out.

    Args:
        config: each of its options has been checked by itself (`ncap_jax.options.check`).
        specs: the models.
        kept: how many of them are fine-tuned; 0: all.

    Raises:
        ConfigError: options contradict one another, or a model cannot be sent to a process.
    """
    if config.head == "linear" and config.num_probes != 1:
        raise errors.ConfigError(
            f"num_probes={config.num_probes} with head='linear', which has no probe",
            "Use num_probes=1, or head='probe'",
        )
    ranking.check_config(config)
    ranking.check_epochs_budget(config, kept or len(specs))
    check_processes(config)
    mesh.check_mesh(config)
    check_execution(config, specs)


def recalled(config: RankConfig, candidates: int) -> int:
    """How many of the candidates a recall keeps; 0: all are fine-tuned.

    Raises:
        ConfigError: it was asked for where one process cannot decide for all.
    """
    kept = recall.kept(config, candidates)
    if not kept or not (problem := _no_recall(config)):
        return kept
    if config.recall is None:
        return 0
    raise errors.ConfigError(*problem)


def _no_recall(config: RankConfig) -> tuple[str, str] | None:
    """Why there can be no recall, and the remedy; None: there can."""
    if distributed.is_distributed():
        return (
            f"recall={config.recall} with several processes, each of which would decide for itself",
            "Recall in one process, and give the models that it chose",
        )
    return None


def warn_of_few_images(num_validation: int) -> None:
    """Say before any training that the validation part is too small to trust, where it is."""
    if reason := doubt(num_validation):
        few = "with this few, most models cannot be told apart"
        warnings.warn(f"{reason}. Give more, or set validation_splits=5: {few}", stacklevel=2)


def check_execution(execution: Execution, specs: Sequence[ModelSpec]) -> None:
    """Refuse an executor that cannot work.

    Raises:
        ConfigError: the executor takes no workers, or no Ray address; Ray is missing; a model
            cannot be sent to a process.
    """
    executor = execution.executor
    if executor == "local" and execution.workers not in (None, 1):
        raise errors.ConfigError(
            f"workers={execution.workers} with executor='local', which runs in one process",
            "Use executor='processes' or 'ray'",
        )
    if execution.ray_address is not None and executor != "ray":
        raise errors.ConfigError(
            f"ray_address={execution.ray_address!r} with executor={executor!r}",
            "Use executor='ray'",
        )
    if executor == "processes":
        processes.check_picklable({f"the model {spec.name!r}": spec for spec in specs})
        # This process opens the devices as well, and must leave their memory to the workers.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if executor == "ray":
        import_ray()


# Options by which one of several processes could stop before another.
STOPPING = ("strategy", "time_budget", "model_time_budget", "epochs_budget")
# Options by which one process computes something of its own.
MEASURING = ("max_latency_ms", "measure_inference")


def check_processes(config: RankConfig) -> None:
    """Refuse what several processes that train one model together cannot do.

    Raises:
        ConfigError: the mesh is missing, or an option could stop one process before another, or
            measures one machine.
    """
    if not distributed.is_distributed():
        return
    if config.mesh is None:
        raise errors.ConfigError(
            "several processes, but no mesh", f"Use mesh='{mesh.AXIS}:{len(jax.devices())}'"
        )
    for name in STOPPING:
        value = getattr(config, name)
        if value not in (getattr(Limits(), name), "full"):  # a strategy that stops nobody
            raise errors.ConfigError(
                f"{name}={value!r} with several processes, which would have to agree when to stop",
                "Leave it out, or run in one process",
            )
    for name in MEASURING:
        value = getattr(config, name)
        if value != getattr(Usage(), name):
            raise errors.ConfigError(
                f"{name}={value!r} with several processes, whose machines may differ",
                "Leave it out, or run in one process",
            )
