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
# reach. Then it trains the first two to the end and hands over the better one. This notebook does
# so with a pool of small pretrained models on real handwritten digits. It needs no accelerator and
# downloads nothing but the package.

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
# CIFAR-10; `digits` are scikit-learn's handwritten digits. A fifth of them is set aside as a test
# part, which nothing sees before the winner is chosen.

# %% tags=["parameters"]
MODELS = ["tiny_resnet", "tiny_plain", "tiny_senet", "tiny_convnext", "tiny_resnet_random"]
EPOCHS, FINISH_EPOCHS = 5, 10
OUTPUT = "runs/quickstart"

# %%
import jax

import ncap_jax as ncap

print(f"ncap_jax {ncap.__version__} on {jax.devices()[0].device_kind}")

# %% [markdown]
# One call loads data and weights, fine-tunes, measures after every epoch, predicts and ranks. On a
# free Colab runtime this takes a few minutes, most of it compilation.

# %%
data_config = ncap.DataConfig(test_fraction=0.2)
ranking = ncap.rank_models(
    MODELS,
    dataset="digits",
    config=ncap.RankConfig(epochs=EPOCHS, seed=0, beta_eff="every_epoch"),
    data_config=data_config,
    output_dir=OUTPUT,
)
ranking

# %% [markdown]
# **How to read the table.**
#
# - *predicted*: accuracy at the end of full fine-tuning, with a standard deviation where the
#   method has one. The method is named in the title.
# - *P(best)*: how often this model comes out on top when accuracies are drawn from the
#   predictions. *within 1 pt*: how often it is at most a point below the best.
# - *shortlist*: with 90 % certainty, one of these models is within a point of the best. Choose
#   among them by size or speed.
# - *β_eff*: the neural capacitance after the last epoch.
# - *stopped*: the race let better models go on. With `strategy="full"` all train all epochs.
# - A `!` in the status means that the number is in doubt; the line below the table says why.

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
# ## The winner
#
# `finish` goes on with the first two models where the ranking left them, trains each until its
# validation accuracy no longer rises, and keeps the better one. The table says how well it does on
# the test part.

# %%
winner = ncap.finish(ranking, top=2, config=ncap.FinishConfig(max_epochs=FINISH_EPOCHS))
winner

# %% [markdown]
# A picture of the test part, as a file like any of yours, and what the model sees in it:

# %%
from PIL import Image

from ncap_jax.data import load_test_part

images, labels = load_test_part("digits", data_config, seed=0)
Image.fromarray(images[0]).save("picture.png")
(answer,) = winner.answers("picture.png")
plt.figure(figsize=(2, 2))
plt.imshow(Image.open("picture.png"))
plt.title(f"{answer.label}, {answer.probability:.1%} sure")
plt.axis("off")
plt.show()

# %% [markdown]
# The model stays in the folder `winner` beside the results. `ncap.load` reads it back wherever the
# package is installed; in a shell, `python -m ncap_jax predict runs/quickstart/winner picture.png`
# does the same. All figures and curves are in `report.html`: open it in a browser, on Colab
# download it from the file list on the left.

# %%
ncap.load(f"{OUTPUT}/winner").predict(["picture.png"])

# %% [markdown]
# Next: `own_model_and_data.ipynb` goes the same way with your photos and your models, and
# `understanding_beta_eff.ipynb` shows what β_eff is.
