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
# # Your own model and your own data
#
# From a folder of photos to a fine-tuned model that labels new ones. Candidates are models that
# come with the package and models of your own, in Flax NNX, Flax Linen or Keras 3. The last part
# measures β_eff in a training loop of your own.

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
EPOCHS, FINISH_EPOCHS, BATCH_SIZE = 5, 10, 8
TRAIN, VALIDATION = 500, 500  # images of the digits used here
PROBE_WIDTHS = (256, 128, 64)
WITH_KERAS = True

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before Keras is imported; it is used below

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from PIL import Image

import ncap_jax as ncap

# %% [markdown]
# ## Data
#
# **A folder** with a subfolder for each class: `<class>/*`, or `train/<class>/*`,
# `validation/<class>/*` and `test/<class>/*`. The cell writes one, of handwritten digits; use the
# path of your own instead. On Colab, `from google.colab import drive` and
# `drive.mount("/content/drive")` reach a folder of your Drive. Where parts are missing, they are
# split off: here a fifth to validate, which chooses the model, and a fifth to test it, which
# nothing sees before.

# %%
digits = ncap.load_dataset("digits", max_train=TRAIN, max_validation=VALIDATION)
names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
folder = pathlib.Path(tempfile.mkdtemp()) / "photos"
for number, (image, label) in enumerate(zip(digits.images, digits.labels)):
    path = folder / names[label] / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
data_config = ncap.DataConfig(validation_fraction=0.2, test_fraction=0.2)
photos = ncap.load_dataset(folder, data_config)
print(photos.images.shape, photos.validation_images.shape, photos.class_names)

# %% [markdown]
# **Arrays** work as well: uint8 images (n, height, width, channels) and labels. Labels of another
# form are mapped or refused, never guessed.

# %%
words = np.array(names)[digits.labels]
arrays = ncap.Dataset(images=digits.images, labels=words, name="digits in words")
print(ncap.load_dataset(arrays).class_names)

# %% [markdown]
# ## Models
#
# **Flax NNX.** Any module with `features(x)`: preprocessed images (batch, height, width, 3) to
# (batch, width). With a `build` function it can also be drawn at random.


# %%
class Small(nnx.Module):
    """Two strided convolutions."""

    def __init__(self, width=32, *, rngs, dtype=None):
        self.one = nnx.Conv(3, 16, (3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.two = nnx.Conv(16, width, (3, 3), strides=2, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, dtype=dtype, rngs=rngs)

    def features(self, x):
        x = nnx.relu(self.two(nnx.relu(self.one(x))))
        return jnp.mean(self.norm(x), axis=(1, 2))


# A model in memory, with the weights it has now. To rank weights from a file, use
# ncap.ModelSpec(name, build, input_size, feature_width, weights="mine.safetensors").
mine = ncap.from_module(Small(rngs=nnx.Rngs(0)), name="my_nnx", input_size=32)
mine

# %% [markdown]
# **Flax Linen.** Give the module and its variables; `method` names the method that returns
# the features, so that the classifier is left out.


# %%
class LinenNet(linen.Module):
    """A small network with a classifier."""

    def setup(self):
        self.conv = linen.Conv(24, (4, 4), strides=4)
        self.norm = linen.BatchNorm(momentum=0.9)
        self.classifier = linen.Dense(1000)

    def features(self, x, train: bool):
        return linen.relu(self.norm(self.conv(x), use_running_average=not train))

    def __call__(self, x, train: bool = False):
        return self.classifier(self.features(x, train).mean(axis=(1, 2)))


network = LinenNet()
variables = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
from_linen = ncap.from_linen(network, variables, name="my_linen", input_size=32, method="features")

# %% [markdown]
# **Keras 3** on the JAX backend. `layer` names the layer whose output gives the features.

# %%
models = ["tiny_plain", "tiny_depthwise", mine, from_linen]
if WITH_KERAS:
    import keras

    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(24, 4, strides=4),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(name="features"),
            keras.layers.Dense(1000),
        ]
    )
    models.append(ncap.from_keras(model, name="my_keras", layer="features"))

# %% [markdown]
# **Hugging Face Hub.** Where the architecture is in the zoo, a checkpoint's name is enough:
# `"hf://timm/<repository>"` in place of a model's name (needs `pip install ncap_jax[hf]`).
#
# ## Ranking
#
# The embedded `tiny_*` models were pretrained on other pictures. Your models have random weights
# here, and three hundred photos teach a network little from scratch: they should come last. If
# yours are pretrained, they take part on equal terms. Few photos need small batches, and networks
# from scratch higher rates: in batches of 8, five epochs are 200 steps of training, and every model
# takes the better of two rates. After 50 steps at the usual rate a model has hardly begun, and any
# prediction of its end is a guess with a wide ±.

# %%
ranking = ncap.rank_models(
    models,
    dataset=folder,
    config=ncap.RankConfig(
        epochs=EPOCHS, batch_size=BATCH_SIZE, trial_rates=(1e-2, 1e-3), beta_eff="off"
    ),
    data_config=data_config,
    output_dir=folder.with_name("run"),
)
ranking

# %% [markdown]
# ## The fine-tuned model
#
# The first two are trained to the end; the better one is yours. It labels files, folders, arrays
# and images of Pillow's.

# %%
winner = ncap.finish(ranking, top=2, config=ncap.FinishConfig(max_epochs=FINISH_EPOCHS))
winner

# %%
some = sorted(folder.glob("*/*.png"))[::100]
for answer in winner.answers(list(map(str, some))):
    print(f"{answer.probability:.1%}  {answer.label:6} {pathlib.Path(answer.name).parent.name}")

# %% [markdown]
# Save it where you like. `ncap.load` reads it back; a model of your own code needs that code again:
# `ncap.load(path, spec=mine)`.

# %%
winner.save(folder.with_name("model"))
sorted(path.name for path in folder.with_name("model").iterdir())

# %% [markdown]
# ## β_eff in your own training loop
#
# `CapacitanceMonitor` measures a model on the same samples whenever you call it. It changes
# nothing in the model, and takes anything that maps a batch to features. `log` is called like
# TensorBoard's `add_scalar`.

# %%
backbone = Small(rngs=nnx.Rngs(1))
head = nnx.Linear(32, 10, rngs=nnx.Rngs(2))
x = jnp.asarray(digits.images[:200], jnp.float32) / 127.5 - 1
y = jnp.asarray(digits.labels[:200])
monitor = ncap.CapacitanceMonitor(
    x, y, probe_widths=PROBE_WIDTHS, strengths=["absolute"], log=lambda *entry: print(*entry)
)
optimizer = nnx.Optimizer((backbone, head), optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def train_step(models, optimizer):
    def loss_of(models):
        backbone, head = models
        logits = head(backbone.features(x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(models)
    optimizer.update(models, gradients)
    return loss


for epoch in range(EPOCHS):
    for _ in range(10):
        loss = train_step((backbone, head), optimizer)
    monitor(backbone, epoch)
print(f"loss {loss:.3f}; β_eff", [round(m.values["absolute"], 3) for m in monitor.history])
