"""What the data stage costs: batching in memory against a training step, decoding against Pillow.

    python -m benchmarks.data --output=benchmarks/results/data_cpu.json

1. `in_memory`: drawing an epoch's order, sending its indices to the device and gathering a batch
   of uint8 images there, as a share of one training step (forward, backward, Adam; batch 64) of
   the smallest model in the zoo. Wall time, minimum over repeats, device synchronised.
2. `streaming`: JPEG files through `train_stream` against the same files opened, converted,
   resized and turned into arrays by Pillow alone, one after the other. Per-core figures are CPU
   time (all threads) per image, which a busy machine does not distort as it does wall time.

The photographs are the two that scikit-learn ships, cut into pieces.
"""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from PIL import Image

from ncap_jax import environment
from ncap_jax.data import batching, load_dataset, stream
from ncap_jax.data.images import WORKERS
from ncap_jax.zoo import MODELS, functional, load_model, preprocess

_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; printed in any case.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats; the minimum counts.", lower_bound=1)

BATCH_SIZE = 64
SAMPLES = 8192  # images on the device, 32×32×3: a small set such as CIFAR-10's subset
EPOCHS = 10  # orders drawn per repeat
FILES = 200


def best(
    function: Callable[[], Any],
    clock: Callable[[], float] = time.perf_counter,
    repeats: int | None = None,
) -> float:
    """Seconds of the fastest of some calls; the first one, which may compile, does not count."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats or _REPEATS.value):
        start = clock()
        jax.block_until_ready(function())
        seconds.append(clock() - start)
    return min(seconds)


def training_step() -> tuple[str, Callable[[], Any]]:
    """The smallest model's name, and one jitted training step on a batch that is ready."""
    spec = min(MODELS.values(), key=lambda spec: spec.parameters or np.inf)
    definition, params, state = functional.split(load_model(spec, weights=None))
    head = jnp.zeros((spec.feature_width, 10))
    optimizer = optax.adam(1e-3)
    moments = optimizer.init((params, head))
    images = jnp.zeros((BATCH_SIZE, 32, 32, 3), jnp.uint8)
    labels = jnp.arange(BATCH_SIZE) % 10

    def loss_of(trained, state):
        inputs = preprocess.preprocess(images, spec.preprocessing, spec.input_size)
        features, state = functional.apply(definition, trained[0], state, inputs, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ trained[1], labels)
        return losses.mean(), state

    @jax.jit
    def step(trained, state, moments):
        (_, state), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, state)
        updates, moments = optimizer.update(gradients, moments, trained)
        return optax.apply_updates(trained, updates), state, moments

    return spec.name, lambda: step((params, head), state, moments)


def in_memory() -> dict[str, Any]:
    """Microseconds of batching per step beside those of the step itself."""
    images = jnp.zeros((SAMPLES, 32, 32, 3), jnp.uint8)
    labels = jnp.zeros(SAMPLES, jnp.int32)
    steps = batching.steps_per_epoch(SAMPLES, BATCH_SIZE)
    take = jax.jit(lambda indices: (images[indices], labels[indices]))
    indices = jnp.asarray(batching.epoch_batches(0, 0, SAMPLES, BATCH_SIZE)[0])

    def orders():
        for epoch in range(EPOCHS):
            yield jnp.asarray(batching.epoch_batches(0, epoch, SAMPLES, BATCH_SIZE))

    order = best(lambda: list(orders())) / (EPOCHS * steps)
    # Many at once, so that the call's own overhead, which a jitted step does not have, is hidden.
    gather = best(lambda: [take(indices) for _ in range(50)]) / 50
    model, step = training_step()
    seconds = best(lambda: [step() for _ in range(5)]) / 5
    return {
        "model": model,
        "batch_size": BATCH_SIZE,
        "samples": SAMPLES,
        "order_us": order * 1e6,
        "gather_us": gather * 1e6,
        "step_us": seconds * 1e6,
        "share_of_step": (order + gather) / seconds,
    }


def write_photos(folder: pathlib.Path, side: int) -> list[pathlib.Path]:
    """`FILES` JPEG pieces of two real photographs, `side` pixels square, in two classes."""
    from sklearn import datasets

    photos = {name: datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    paths = []
    rng = np.random.default_rng(0)
    for number in range(FILES):
        name, photo = list(photos.items())[number % 2]
        y, x = rng.integers(0, 428 - side), rng.integers(0, 641 - side)
        path = folder / name / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(photo[y : y + side, x : x + side]).save(path, quality=90)
        paths.append(path)
    return paths


def pillow_alone(paths: list[pathlib.Path], size: int) -> None:
    """What any loader must do at least, one file after the other."""
    for path in paths:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        np.asarray(resized)


def streaming(side: int, size: int) -> dict[str, Any]:
    """CPU time and throughput of JPEGs of `side` pixels, stored at `size`."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(pathlib.Path(folder), side)
        loaded = load_dataset(folder, image_size=size, stream=True, validation_fraction=0.01)
        # The same number of files: what is streamed is the training part.
        paths = paths[: len(loaded.labels)]

        def run(workers: int) -> None:
            batches = stream.train_stream(
                loaded.images,
                loaded.labels,
                seed=0,
                epoch=0,
                batch_size=len(paths) // 6,
                workers=workers,
            )
            for batch in batches:
                jax.block_until_ready(batch)

        decoded = len(batching.epoch_batches(0, 0, len(paths), len(paths) // 6).ravel())
        # In turns, so that both meet the machine in the same moods.
        pairs = [
            (
                best(lambda: pillow_alone(paths, size), time.process_time, repeats=1) / len(paths),
                best(lambda: run(1), time.process_time, repeats=1) / decoded,
            )
            for _ in range(2 * _REPEATS.value)
        ]
        alone, single = (min(column) for column in zip(*pairs))
        wall = {
            workers: best(functools.partial(run, workers)) / decoded
            for workers in sorted({1, WORKERS})
        }
        return {
            "jpeg_side": side,
            "stored_size": size,
            "pillow_cpu_us": alone * 1e6,
            "stream_cpu_us": single * 1e6,
            "stream_over_pillow": single / alone,
            "images_per_second_by_workers": {str(w): 1 / seconds for w, seconds in wall.items()},
        }


def main(argv: list[str]) -> None:
    """Measure, print, and write the file if one is named."""
    del argv
    result = {
        "environment": environment.describe(),
        "in_memory": in_memory(),
        "streaming": [streaming(96, 96), streaming(256, 224), streaming(400, 128)],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if _OUTPUT.value:
        path = pathlib.Path(_OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
