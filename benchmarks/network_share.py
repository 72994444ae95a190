"""What whole-network beta_eff adds to an epoch of ordinary fine-tuning (head=linear, digits).

    python -m benchmarks.network_share --output=benchmarks/results/network_share_cpu.json

For each model the share is the measurement's seconds over the epoch's (training, evaluation and
measurement together), after the epochs that compile; median and range over the epochs.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
from absl import app, flags

from ncap_jax import data
from ncap_jax.data.feeding import make_feed
from ncap_jax.finetune import loop
from ncap_jax.measure import epochs, training
from ncap_jax.options import RankConfig
from ncap_jax.run import facts
from ncap_jax.zoo import find_models

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_MODELS = flags.DEFINE_list(
    "models", ["tiny_plain", "tiny_resnet", "tiny_depthwise", "tiny_convnext"], "Names."
)
_EPOCHS = flags.DEFINE_integer("epochs", 6, "Epochs; the first two are left out.", lower_bound=3)


def main(argv: list[str]) -> None:
    """Measure every model and print the table."""
    del argv
    feed = make_feed(data.load_dataset("digits"))
    config = RankConfig(epochs=_EPOCHS.value, head="linear", batch_size=64, beta_eff="every_epoch")
    rows = {}
    for spec in find_models(_MODELS.value):
        records = list(loop.run(training.start(spec, feed, config)))[2:]
        shares = np.array([record.measure_seconds / record.seconds for record in records])
        rows[spec.name] = {
            "samples": epochs.network_samples(len(feed.labels), config.measure_size),
            "median": round(float(np.median(shares)), 4),
            "least": round(float(shares.min()), 4),
            "most": round(float(shares.max()), 4),
            "epoch_seconds": round(float(np.median([r.seconds for r in records])), 3),
        }
        print(f"{spec.name:16s} {rows[spec.name]}", flush=True)
    if _OUTPUT.value:
        content = {"environment": facts.describe(), "config": vars(config), "rows": rows}
        path = pathlib.Path(_OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    app.run(main)
