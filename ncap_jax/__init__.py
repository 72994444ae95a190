"""Which of these pretrained models should I fine-tune on my data?

The public names. Nothing heavy is imported before it is used (PEP 562).
"""

import importlib
from typing import TYPE_CHECKING, Any

from ncap_jax._version import __version__

# public name -> the module that holds it
_PUBLIC = {
    "rank_models": "ncap_jax.api",
    "finish": "ncap_jax.api",
    "rank_trajectories": "ncap_jax.selection.ranking",
    "load_trajectories": "ncap_jax.finetune.trajectory_files",
    "load": "ncap_jax.winner.package",
    "export": "ncap_jax.winner.export",
    "load_model": "ncap_jax.zoo",
    "from_module": "ncap_jax.zoo.adapters",
    "from_linen": "ncap_jax.zoo.adapters",
    "from_keras": "ncap_jax.zoo.keras_models",
    "from_torch": "ncap_jax.zoo.torch_models",
    "MODELS": "ncap_jax.zoo",
    "ModelSpec": "ncap_jax.types",
    "Dataset": "ncap_jax.types",
    "RankConfig": "ncap_jax.options",
    "DataConfig": "ncap_jax.options",
    "FinishConfig": "ncap_jax.options",
    "Ranking": "ncap_jax.types",
    "Winner": "ncap_jax.winner.model",
    "Trajectory": "ncap_jax.types",
    "NcapError": "ncap_jax.errors",
    "load_dataset": "ncap_jax.data",
    "mlp_beta_eff": "ncap_jax.capacitance.beta_eff",
    "network_beta_eff": "ncap_jax.measure.network",
    "edge_degrees": "ncap_jax.measure.network",
    "CapacitanceMonitor": "ncap_jax.measure.monitor",
}

# What `Ranking` and `Winner` print themselves with: found by name, so that they need not know the
# report.
_PRESENTATION = {
    "format_ranking": "ncap_jax.report.console",
    "notebook_ranking": "ncap_jax.report.notebook",
    "notebook_winner": "ncap_jax.report.notebook",
}
_HOMES = {**_PUBLIC, **_PRESENTATION}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from ncap_jax.api import finish, rank_models
    from ncap_jax.capacitance.beta_eff import mlp_beta_eff
    from ncap_jax.data import load_dataset
    from ncap_jax.errors import NcapError
    from ncap_jax.finetune.trajectory_files import load_trajectories
    from ncap_jax.measure.monitor import CapacitanceMonitor
    from ncap_jax.measure.network import edge_degrees, network_beta_eff
    from ncap_jax.options import DataConfig, FinishConfig, RankConfig
    from ncap_jax.selection.ranking import rank_trajectories
    from ncap_jax.types import Dataset, ModelSpec, Ranking, Trajectory
    from ncap_jax.winner.export import export
    from ncap_jax.winner.model import Winner
    from ncap_jax.winner.package import load
    from ncap_jax.zoo import MODELS, load_model
    from ncap_jax.zoo.adapters import from_linen, from_module
    from ncap_jax.zoo.keras_models import from_keras
    from ncap_jax.zoo.torch_models import from_torch


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
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
