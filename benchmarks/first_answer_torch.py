"""The rival of `benchmarks.first_answer`: PyTorch eager fine-tunes timm's networks one by one.

It runs under an interpreter that has torch and timm, which need not have this package:

    python benchmarks/first_answer_torch.py '{"data": "set.npz", "models": [...], ...}'

and prints its result as JSON on the last line. Batches, optimizer and evaluations are those of
`ncap_jax.rank_models`: an epoch's last batch is filled up, and losses and accuracies of training
and validation part are taken before training and after every epoch, in batches of 256. Weights are
random on both sides.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# Our name -> timm's.
NAMES = {
    "resnet50": "resnet50",
    "mobilenetv2": "mobilenetv2_100",
    "densenet121": "densenet121",
    "inceptionv3": "inception_v3",
    "xception": "legacy_xception",
    "vgg16": "vgg16",
}
EVALUATION_BATCH = 128


class Stages:
    """Seconds by stage of a process that does one thing after the other."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.seconds: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def stage(self, name: str, start: tuple[float, float] | None = None) -> Iterator[None]:
        """Time a block; `start` is an earlier (wall, CPU) time at which it began."""
        wall, cpu = start or (time.monotonic(), time.process_time())
        yield
        row = self.seconds.setdefault(name, {"cpu": 0.0, "wall": 0.0})
        row["wall"] += time.monotonic() - wall
        row["cpu"] += time.process_time() - cpu

    def account(self) -> dict[str, Any]:
        """The stages, what belongs to none, and their sum."""
        total = {"cpu": time.process_time(), "wall": time.monotonic() - self.start}
        rest = {k: total[k] - sum(row[k] for row in self.seconds.values()) for k in total}
        return {"stages": {**self.seconds, "other": rest}, "total": total}


class Data:
    """The images on the device, and how they are batched."""

    def __init__(self, path: str, device: str) -> None:
        import torch

        with np.load(path) as file:
            arrays = {name: torch.tensor(file[name], device=device) for name in file.files}
        self.train = arrays["images"].permute(0, 3, 1, 2).contiguous(), arrays["labels"].long()
        self.validation = (
            arrays["validation_images"].permute(0, 3, 1, 2).contiguous(),
            arrays["validation_labels"].long(),
        )
        self.device, self.classes = device, int(arrays["labels"].max()) + 1

    def epoch(self, epoch: int, batch: int) -> list[Any]:
        """The indices of an epoch's batches, on the device."""
        import torch

        return list(torch.tensor(batches(epoch, len(self.train[0]), batch), device=self.device))


def batches(epoch: int, n: int, batch: int) -> np.ndarray:
    """Those of `ncap_jax.data.batching.epoch_batches` for seed 0."""
    order = np.random.default_rng([0, epoch]).permutation(n)
    return np.resize(order, (-(-n // batch), min(batch, n)))


class Way(NamedTuple):
    """How the networks compute: eagerly, in float32, on the images as they are, unless asked.

    Attributes:
        compiled: by `torch.compile`.
        dtype: bfloat16 is autocast's.
        layout: "channels_last" or None, PyTorch's own.
        sides: name -> pixels to which the images are brought.
        measured: training images on which losses are taken after an epoch; None: all.
        seconds: after which no other network begins; None: no limit.
    """

    compiled: bool = False
    dtype: str = "float32"
    layout: str | None = None
    sides: Mapping[str, int] = {}
    measured: int | None = None
    seconds: float | None = None

    def place(self, array: Any) -> Any:
        """An array of images, or a network, in this layout."""
        import torch

        return array.to(memory_format=torch.channels_last) if self.layout else array

    def precision(self, device: str) -> Any:
        """The context in which a network is called."""
        import torch

        return torch.autocast(device, torch.bfloat16, enabled=self.dtype == "bfloat16")


def build(name: str, classes: int) -> Any:
    """Timm's network with a linear classifier on its pooled features; others as in `zoo_rivals`."""
    import timm
    from torch import nn

    if name not in NAMES:
        return zoo_rivals().torch_model(name, classes)
    model = timm.create_model(NAMES[name], pretrained=False, num_classes=classes)
    if name == "vgg16":  # without its hidden layers of 4096, as ours
        layers = model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)
        return nn.Sequential(*layers)
    return model


def zoo_rivals() -> Any:
    """The module beside this one, which this interpreter cannot import by its package's name."""
    path = pathlib.Path(__file__).with_name("zoo_rivals.py")
    spec = importlib.util.spec_from_file_location("zoo_rivals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scaled(images: Any, side: int | None = None) -> Any:
    """The network's input of uint8 images, brought to a side in pixels."""
    import torch

    images = images.float()
    if side is not None and images.shape[2] != side:
        images = torch.nn.functional.interpolate(images, (side, side), mode="bilinear")
    return images / 127.5 - 1


def train(
    model: Callable[[Any], Any], optimizer: Any, data: Data, order: list[Any]
) -> Iterator[int]:
    """One epoch; the number of each step that is done, counted from 1."""
    import torch

    losses = []
    for indices in order:
        images, labels = (array[indices] for array in data.train)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        yield len(losses)
    torch.stack(losses).mean().item()


def evaluate(
    model: Callable[[Any], Any], part: tuple[Any, Any], most: int | None = None
) -> tuple[float, float]:
    """Mean loss in nats and accuracy of a part of the data, or of its first `most` images."""
    import torch

    part = part[0][:most], part[1][:most]
    total = torch.zeros(2, dtype=torch.float64, device=part[0].device)
    with torch.inference_mode():
        for images, labels in zip(*(array.split(EVALUATION_BATCH) for array in part)):
            logits = model(images).float()
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            total += torch.stack([loss, (logits.argmax(1) == labels).sum()])
    loss, accuracy = (total / len(part[1])).tolist()
    return loss, accuracy


def finetune(name: str, data: Data, request: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """All epochs of one model."""
    import torch

    start, first_step = time.monotonic(), None
    way, accuracies = Way(**request.get("way", {})), []
    with stages.stage("build"):
        torch.manual_seed(0)
        model = way.place(build(name, data.classes).to(data.device))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        called = torch.compile(model) if way.compiled else model

    def forward(images: Any) -> Any:
        with way.precision(data.device):
            return called(way.place(scaled(images, way.sides.get(name))))

    for epoch in range(request["epochs"] + 1):
        if epoch:
            with stages.stage("train"):
                model.train()
                for _ in train(forward, optimizer, data, data.epoch(epoch, request["batch"])):
                    if first_step is None:
                        if data.device == "cuda":
                            torch.cuda.synchronize()
                        first_step = time.monotonic() - stages.start
        with stages.stage("evaluate"):
            model.eval()
            evaluate(forward, data.train, way.measured)
            accuracies.append(evaluate(forward, data.validation)[1])
    seconds = time.monotonic() - start
    return {"first_step_s": first_step, "seconds": seconds, "validation_accuracy": accuracies}


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune the models and return what it took."""
    stages = Stages(request["started"])
    with stages.stage("import", (request["started"], 0.0)):
        import timm
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = True  # as JAX does by default
    with stages.stage("data"):
        data = Data(request["data"], device)
    models, limit = {}, Way(**request.get("way", {})).seconds
    for name in request["models"]:
        if limit is None or time.monotonic() - request["started"] < limit:
            models[name] = finetune(name, data, request, stages)
    device_mb = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    return {
        **stages.account(),
        "models": models,
        "peak_mb": peak_mb(),
        "device_peak_mb": device_mb,
        "environment": {**versions, "device": device, "threads": torch.get_num_threads()},
    }


def peak_mb() -> float:
    """The largest memory of this process so far (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return float(status.partition("VmHWM:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
