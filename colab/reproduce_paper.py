# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reproducing the paper's experiment
#
# *Neural Capacitance: A New Perspective of Neural Network Selection via Edge Dynamics*
# ([arXiv 2201.04194](https://arxiv.org/abs/2201.04194)) ranks 17 ImageNet models on five data
# sets from the first epochs of fine-tuning below a frozen random probe. This notebook runs one
# data set of that experiment and draws figures like the paper's.
#
# **Choose the size below.** `small` ranks the embedded models on digits and runs anywhere in a
# few minutes. `paper` needs a GPU or TPU (*Runtime → Change runtime type*), downloads the published
# weights (about 2 GB for all 17) and needs the data set prepared by TFDS.

# %%
import importlib.util
import subprocess
import sys

REPOSITORY = ""  # @param {type:"string"}
if importlib.util.find_spec("ncap_jax") is None:  # as on Colab; takes about a minute
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    if subprocess.run([*pip, "ncap_jax"]).returncode != 0:
        if not REPOSITORY:
            raise SystemExit(
                "pip cannot install ncap_jax by its name. Write the Git address of the project "
                "into REPOSITORY and run this cell again."
            )
        subprocess.run([*pip, f"git+{REPOSITORY}"], check=True)

# %% tags=["parameters"]
SIZE = "small"  # or "paper"
DATASET = "cifar10"  # of "paper": cifar10, cifar100, svhn_cropped, fashion_mnist, or a folder
DATA_DIR = None  # where TFDS prepared it; None: TFDS's own place
SMALL_MODELS = ["tiny_plain", "tiny_resnet", "tiny_densenet", "tiny_senet", "tiny_plain_barely"]
EPOCHS = 8  # watched
EARLY = 5  # epochs that predict
PROBE_WIDTHS = (256, 128, 64)

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import ncap_jax as ncap
from ncap_jax.predictor import PREDICTORS

PAPER_MODELS = [
    "alexnet",
    "vgg16",
    "vgg19",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet50v2",
    "resnet101v2",
    "resnet152v2",
    "densenet121",
    "densenet169",
    "densenet201",
    "mobilenet",
    "mobilenetv2",
    "inceptionv3",
    "inceptionresnetv2",
    "xception",
]
accelerator = jax.default_backend() != "cpu"
print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")
if SIZE == "paper" and not accelerator:
    print(
        "No accelerator: the 17 models will take days. Change the runtime, or use SIZE = 'small'."
    )

# %% [markdown]
# The switches that differ by size and device: bfloat16 arithmetic on accelerators (parameters stay
# float32), and how many images. The paper's probe, head and first-epochs protocol are the same.

# %%
config = ncap.RankConfig(
    epochs=EPOCHS,
    head="probe",
    probe_widths=PROBE_WIDTHS,
    dtype="bfloat16" if accelerator else "float32",
    predictor="published_ridge",
    strategy="full",  # the paper watches every model for all epochs
)
data = (
    ncap.DataConfig(data_dir=DATA_DIR) if SIZE == "paper" else ncap.DataConfig(max_validation=500)
)
ranking = ncap.rank_models(
    PAPER_MODELS if SIZE == "paper" else SMALL_MODELS,
    dataset=DATASET if SIZE == "paper" else "digits",
    config=config,
    data_config=data,
)
ranking

# %% [markdown]
# ## β_eff against accuracy, epoch by epoch
#
# The paper's regression: accuracy = θ₀ + θ₁ β_eff, Bayesian ridge, read at β_eff = 0. Left: the
# signed β_eff of the paper. Right: the absolute form, whose sums do not cancel.

# %%
runs = [run for run in ranking.trajectories if run.status == "ok"]
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
for axis, strength in zip(axes, ("signed", "absolute")):
    for run in runs:
        axis.plot(
            run.beta_eff(strength)[1:],
            run.series("validation_accuracy")[1:],
            marker="o",
            label=run.model,
        )
    axis.set(xlabel=f"β_eff ({strength})", ylabel="validation accuracy")
axes[0].axvline(0, color="#999999", linewidth=1)
axes[1].legend(fontsize="x-small")
plt.show()

# %% [markdown]
# ## What the first epochs predict
#
# Each method sees the first `EARLY` epochs only. Kendall's τ compares its order with the one after
# the last epoch watched here. That is not the end of full fine-tuning; for that comparison, with
# seeds and intervals, see `docs/results/index.md`.

# %%
from scipy.stats import kendalltau

final = np.array([run.series("validation_accuracy")[-1] for run in runs])
for name, predictor in PREDICTORS.items():
    if predictor.min_epochs > EARLY:
        continue
    scores = [prediction.mean for prediction in predictor(runs, epochs=EARLY)]
    tau = kendalltau(scores, final).statistic if np.all(np.isfinite(scores)) else np.nan
    print(f"{name:>22}: τ = {tau:+.2f}")

# %% [markdown]
# ## Predicted against seen, by the number of epochs watched

# %%
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name in ("published_ridge", "scaled_ridge", "last_seen"):
    predictor = PREDICTORS[name]
    watched = range(max(predictor.min_epochs, 1), EPOCHS + 1)
    errors = []
    for n in watched:
        means = np.array([prediction.mean for prediction in predictor(runs, epochs=n)])
        errors.append(np.nanmean(np.abs(means - final)))
    axis.plot(list(watched), errors, marker="o", label=name)
axis.set(xlabel="epochs watched", ylabel="mean |predicted - accuracy at the end|")
axis.legend()
plt.show()

# %% [markdown]
# The whole experiment (17 models, five sets, several seeds, the rivals, the effects of the
# starting epoch, the number of epochs and the probe's widths) runs from a checkout:
# `python -m experiments.reproduce_paper`. It names missing weights and sets before it starts,
# resumes where it stopped, and writes one report with all tables and figures.
