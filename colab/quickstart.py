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
# # Which pretrained model should I fine-tune?
#
# `ncap_jax` fine-tunes each candidate for a few epochs, measures how it learns, among other things
# its *neural capacitance* β_eff, and ranks the candidates by the accuracy they are predicted to
# reach. This notebook ranks a pool of small pretrained models on real handwritten digits. It
# needs no accelerator and downloads nothing but the package.

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

# %% [markdown]
# What to rank. `tiny_*` are 13 convolutional networks that come with the package, pretrained on
# CIFAR-10; `digits` are scikit-learn's handwritten digits (500 for training, 1,297 for
# validation).

# %% tags=["parameters"]
MODELS = ["tiny_resnet", "tiny_plain", "tiny_senet", "tiny_convnext", "tiny_resnet_random"]
EPOCHS = 5
OUTPUT = "runs/quickstart"

# %%
import jax

import ncap_jax as ncap

print(f"ncap_jax {ncap.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# One call loads data and weights, fine-tunes, measures after every epoch, predicts and ranks. On a
# free Colab runtime this takes a few minutes, most of it compilation.

# %%
ranking = ncap.rank_models(
    MODELS,
    dataset="digits",
    config=ncap.RankConfig(epochs=EPOCHS, seed=0, beta_eff="every_epoch"),
    output_dir=OUTPUT,
)
ranking

# %% [markdown]
# **How to read the table.**
#
# - *predicted*: accuracy at the end of full fine-tuning, with a standard deviation where the
#   method has one. The method is named in the title.
# - *P(best)*: how often this model comes out on top when accuracies are drawn from the
#   predictions. Models marked *tied with 1* cannot be told apart from the first: choose among
#   them by size or speed.
# - *β_eff*: the neural capacitance after the last epoch.
# - A `!` in the status means that the number is in doubt; the line below the table says why.

# %%
best = ranking.best
print(f"Fine-tune {best.name}: {best.predicted_accuracy:.1%}, P(best) {best.p_best:.0%}")

# %% [markdown]
# The same run as curves: validation accuracy and β_eff after each epoch.

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for trajectory in ranking.trajectories:
    left.plot(trajectory.series("validation_accuracy"), marker="o", label=trajectory.model)
    right.plot(trajectory.beta_eff("absolute"), marker="o")
left.set(xlabel="epoch", ylabel="validation accuracy")
right.set(xlabel="epoch", ylabel="β_eff (absolute)", yscale="log")
left.legend(fontsize="small")
plt.show()

# %% [markdown]
# The folder holds the results as files: `report.html` (open it in a browser; on Colab download it
# from the file list on the left), `report.md`, `ranking.json`, `ranking.csv`, `run.json` and, under
# `trajectories/`, one line per epoch.

# %%
import pathlib

for path in sorted(pathlib.Path(OUTPUT).rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:>9,} bytes  {path}")

# %% [markdown]
# Next: `own_model_and_data.ipynb` ranks your models on your images,
# and `understanding_beta_eff.ipynb` shows what β_eff is.
