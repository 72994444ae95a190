"""What the data stage costs: batching in memory against a training step, decoding against Pillow.

    python -m benchmarks.data --output=benchmarks/results/data_cpu.json

1. `in_memory`: drawing an epoch's order, sending its indices to the device and gathering a batch
   of uint8 images there, as a share of one training step (forward, backward, Adam; batch 64) of
   the smallest model in the zoo.
2. `streaming`: JPEG files through `stream_batches` with one thread, against the same files opened,
   converted, resized and turned into arrays by Pillow alone, per image. `decode` is the part of
   `stream` that makes the batches in host memory; the rest are threads and the transfer.
   `checksum` is the part of `decode` that compares an image with what it was at the start.

Shares are of CPU time (all threads) on the CPU, of wall time on an accelerator. The photographs
are the two that scikit-learn ships, cut into pieces.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from PIL import Image

from benchmarks import timing
from ncap_jax.data import batching, load_dataset, stream
from ncap_jax.data.images import checksum, gather
from ncap_jax.data.threads import WORKERS
from ncap_jax.run import facts
from ncap_jax.zoo import MODELS, functional, load_model, preprocess

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Repeats; the minimum counts.", lower_bound=1)

BATCH_SIZE = 64
SAMPLES = 8192  # images on the device, 32×32×3: a small set such as CIFAR-10's subset
EPOCHS = 10  # orders drawn per repeat
GATHERS = 50  # per repeat, so that the call's own overhead, which a jitted step hides, overlaps
FILES = {96: 1024, 256: 256, 400: 256}  # by side: about as long a run for each
STREAM_BATCH = 64  # the default of fine-tuning, whose hand-over is a batch at a time


def training_step() -> tuple[str, Callable[[], Any]]:
    """The smallest model's name, and one jitted training step on a batch that is ready."""
    spec = min(MODELS.values(), key=lambda spec: spec.parameters or np.inf)
    definition, params, state = functional.split(load_model(spec, weights=None))
    head = jnp.zeros((spec.feature_width, 10))
    optimizer = optax.adam(1e-3)
    moments = optimizer.init((params, head))
    images = jnp.zeros((BATCH_SIZE, 32, 32, 3), jnp.uint8)
    labels = jnp.arange(BATCH_SIZE) % 10

    def loss_of(trained: Any, state: Any) -> tuple[jax.Array, Any]:
        inputs = preprocess.preprocess(images, spec.preprocessing, spec.input_size)
        features, state = functional.apply(definition, trained[0], state, inputs, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ trained[1], labels)
        return losses.mean(), state

    @jax.jit
    def step(trained: Any, state: Any, moments: Any) -> Any:
        (_, state), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, state)
        updates, moments = optimizer.update(gradients, moments, trained)
        return optax.apply_updates(trained, updates), state, moments

    return spec.name, lambda: step((params, head), state, moments)


def in_memory() -> dict[str, Any]:
    """Milliseconds of batching per step beside those of the step itself."""
    images = jnp.zeros((SAMPLES, 32, 32, 3), jnp.uint8)
    labels = jnp.zeros(SAMPLES, jnp.int32)
    take = jax.jit(lambda indices: (images[indices], labels[indices]))
    indices = jnp.asarray(batching.epoch_batches(0, 0, SAMPLES, BATCH_SIZE)[0])

    def draw() -> list[jax.Array]:
        orders = (batching.epoch_batches(0, e, SAMPLES, BATCH_SIZE) for e in range(EPOCHS))
        return [jnp.asarray(order) for order in orders]

    model, step = training_step()
    times = timing.take_turns(
        {"order": draw, "gather": lambda: [take(indices) for _ in range(GATHERS)], "step": step},
        _REPEATS.value,
    )
    steps = EPOCHS * batching.steps_per_epoch(SAMPLES, BATCH_SIZE)
    counts = {"order": steps, "gather": GATHERS, "step": 1}
    per_step = {n: {k: v / counts[n] for k, v in times[n].items()} for n in times}
    key = "cpu_ms" if jax.default_backend() == "cpu" else "wall_ms"
    batch = per_step["order"][key] + per_step["gather"][key]
    return {
        "model": model,
        "batch_size": BATCH_SIZE,
        "samples": SAMPLES,
        "per_step": per_step,
        "share_of_step": batch / per_step["step"][key],
    }


def write_photos(folder: pathlib.Path, side: int) -> None:
    """JPEG pieces of two real photographs, `side` pixels square, in two classes."""
    from sklearn import datasets

    photos = {name: datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    rng = np.random.default_rng(0)
    for number in range(FILES[side]):
        name, photo = list(photos.items())[number % 2]
        y, x = rng.integers(0, 428 - side), rng.integers(0, 641 - side)
        path = folder / name / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(photo[y : y + side, x : x + side]).save(path, quality=90)


def pillow_alone(paths: list[str], size: int) -> None:
    """The least that any loader must do, one file after the other."""
    for path in paths:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        np.asarray(resized)


def decode_batches(store: Any) -> None:
    """The batches of a stream, in order, in host memory."""
    for start in range(0, len(store), STREAM_BATCH):
        gather(store, np.arange(start, start + STREAM_BATCH))


def streaming(side: int, size: int) -> dict[str, Any]:
    """Microseconds per image of JPEGs of `side` pixels, stored at `size`."""
    with tempfile.TemporaryDirectory() as folder:
        write_photos(pathlib.Path(folder), side)
        # A quarter validates, so that the training part fills its batches exactly.
        loaded = load_dataset(folder, image_size=size, stream=True, validation_fraction=0.25)
        store: Any = loaded.images
        count = len(store)
        assert count % STREAM_BATCH == 0
        pixels = np.asarray(store)
        paths = [store.source.paths[index] for index in store.indices]

        def run(workers: int) -> None:
            order = batching.epoch_batches(0, 0, count, STREAM_BATCH)
            for batch in stream.stream_batches(store, loaded.labels, order, workers=workers):
                jax.block_until_ready(batch)

        times = timing.take_turns(
            {
                "pillow": lambda: pillow_alone(paths, size),
                "checksum": lambda: [checksum(image) for image in pixels],
                "decode": lambda: decode_batches(store),
                "stream": lambda: run(1),
                f"stream, {WORKERS} threads": lambda: run(WORKERS),
            },
            _REPEATS.value,
        )
    per_image = {
        name: {key.replace("ms", "us"): 1e3 * value / count for key, value in row.items()}
        for name, row in times.items()
    }
    cpu = {name: row["cpu_us"] for name, row in per_image.items()}
    return {
        "jpeg_side": side,
        "stored_size": size,
        "per_image": per_image,
        "decode_over_pillow": cpu["decode"] / cpu["pillow"],
        "stream_over_pillow": cpu["stream"] / cpu["pillow"],
    }


def main(argv: list[str]) -> None:
    """Measure, print, and write the file if one is named."""
    del argv
    result = {
        "environment": facts.describe(),
        # More than the number of cores: the machine was busy, and wall times are worth little.
        "load_average": os.getloadavg()[0],
        "in_memory": in_memory(),
        "streaming": [streaming(96, 96), streaming(256, 224), streaming(400, 128)],
    }
    timing.report(result, _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
