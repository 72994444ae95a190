"""Which of these pretrained models should I fine-tune on my data?

The public names. Nothing heavy is imported before it is used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ncap_jax._version import __version__

# public name -> the module that holds it
_PUBLIC = {
    "rank_models": "ncap_jax.api",
    "rank_trajectories": "ncap_jax.selection.ranking",
    "load_trajectories": "ncap_jax.finetune.records",
    "load_model": "ncap_jax.zoo",
    "from_module": "ncap_jax.zoo.adapters",
    "from_linen": "ncap_jax.zoo.adapters",
    "from_keras": "ncap_jax.zoo.keras_models",
    "MODELS": "ncap_jax.zoo",
    "ModelSpec": "ncap_jax.types",
    "Dataset": "ncap_jax.types",
    "RankConfig": "ncap_jax.types",
    "DataConfig": "ncap_jax.types",
    "Ranking": "ncap_jax.types",
    "Trajectory": "ncap_jax.types",
    "NcapError": "ncap_jax.errors",
    "load_dataset": "ncap_jax.data",
    "mlp_beta_eff": "ncap_jax.capacitance.beta_eff",
    "network_beta_eff": "ncap_jax.zoo.capacitance",
    "edge_degrees": "ncap_jax.zoo.capacitance",
    "CapacitanceMonitor": "ncap_jax.finetune.monitor",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from ncap_jax.api import rank_models
    from ncap_jax.capacitance.beta_eff import mlp_beta_eff
    from ncap_jax.data import load_dataset
    from ncap_jax.errors import NcapError
    from ncap_jax.finetune.monitor import CapacitanceMonitor
    from ncap_jax.finetune.records import load_trajectories
    from ncap_jax.selection.ranking import rank_trajectories
    from ncap_jax.types import DataConfig, Dataset, ModelSpec, RankConfig, Ranking, Trajectory
    from ncap_jax.zoo import MODELS, load_model
    from ncap_jax.zoo.adapters import from_linen, from_module
    from ncap_jax.zoo.capacitance import edge_degrees, network_beta_eff
    from ncap_jax.zoo.keras_models import from_keras


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    try:  # the stages themselves: ncap_jax.predictor.logme.logme(...)
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted(__all__)
