"""The same networks elsewhere: Keras 3 on JAX, and PyTorch by torchvision's and timm's definitions.

Both make a fine-tuning step of `benchmarks.zoo`: backbone and a fresh linear classifier, everything
trained with Adam, from random weights.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")

# Our name -> the name in Keras Applications.
KERAS = {
    "mobilenet": "MobileNet",
    "mobilenetv2": "MobileNetV2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "resnet50v2": "ResNet50V2",
    "resnet101v2": "ResNet101V2",
    "resnet152v2": "ResNet152V2",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "inceptionv3": "InceptionV3",
    "inceptionresnetv2": "InceptionResNetV2",
    "xception": "Xception",
}
# Our name -> (package, name there): torchvision where it has the network, else timm.
TORCH = {
    "vgg16": ("torchvision", "vgg16"),
    "vgg19": ("torchvision", "vgg19"),
    "resnet50": ("torchvision", "resnet50"),
    "resnet101": ("torchvision", "resnet101"),
    "resnet152": ("torchvision", "resnet152"),
    "resnet50v2": ("timm", "resnetv2_50"),
    "resnet101v2": ("timm", "resnetv2_101"),
    "resnet152v2": ("timm", "resnetv2_152"),
    "densenet121": ("torchvision", "densenet121"),
    "densenet169": ("torchvision", "densenet169"),
    "densenet201": ("torchvision", "densenet201"),
    "mobilenet": ("timm", "mobilenetv1_100"),
    "mobilenetv2": ("torchvision", "mobilenet_v2"),
    "inceptionv3": ("timm", "inception_v3"),
    "inceptionresnetv2": ("timm", "inception_resnet_v2"),
    "xception": ("timm", "legacy_xception"),
    "alexnet": ("torchvision", "alexnet"),
    "squeezenet": ("torchvision", "squeezenet1_1"),
    "vit_ti16": ("timm", "vit_tiny_patch16_224"),
    "vit_s16": ("timm", "vit_small_patch16_224"),
    "vit_b16": ("timm", "vit_base_patch16_224"),
    "convnext_tiny": ("timm", "convnext_tiny"),
}


def versions() -> dict[str, str | None]:
    """Versions of the rivals' packages, None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in ("keras", "torch", "torchvision", "timm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def keras_step(
    name: str, images: np.ndarray, labels: np.ndarray, classes: int, rate: float, dtype: str
) -> Callable[[], Any]:
    """Keras's own `train_on_batch`, with the policy `mixed_bfloat16` for bfloat16."""
    import jax.numpy as jnp
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    build = getattr(keras.applications, KERAS[name])
    base = build(weights=None, include_top=False, input_shape=images.shape[1:], pooling="avg")
    logits = keras.layers.Dense(classes, dtype="float32")(base.output)
    model = keras.Model(base.input, logits)
    model.compile(
        optimizer=keras.optimizers.Adam(rate, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    x, y = jnp.asarray(images), jnp.asarray(labels)
    return lambda: model.train_on_batch(x, y)


def torch_step(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    rate: float,
    dtype: str,
    mode: str = "default",
) -> Callable[[], Any]:
    """PyTorch as its documents recommend: compiled, channels last, fused Adam.

    `mode` is `torch.compile`'s; "reduce-overhead" replays CUDA graphs. bfloat16 by autocast over
    float32 parameters; float32 products may use TF32 on a GPU, as ours do there by JAX's default.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_model(name, classes).to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(model, mode=mode)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    x = torch.tensor(images, device=device).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device, dtype=torch.long)

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss

    return run


def torch_model(name: str, classes: int) -> Any:
    """The network in PyTorch with a linear classifier of this many classes."""
    import torch
    from torch import nn

    package, there = TORCH[name]
    if package == "timm":
        import timm

        model = timm.create_model(there, pretrained=False, num_classes=classes)
        if name.startswith("resnet"):
            _stride_last(model.stages)
        return model
    import torchvision

    options = {"init_weights": False} if name.startswith("vgg") else {}
    model = torchvision.models.get_model(there, weights=None, **options)
    if name.startswith("vgg"):  # ours ends at the pooled features too
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(model.features, pool, nn.Flatten(), nn.Linear(512, classes))
    if name.startswith("resnet"):
        model.fc = nn.Linear(model.fc.in_features, classes)
        for block in model.modules():  # stride where Keras has it, in the first convolution
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    elif name.startswith("densenet"):
        model.classifier = nn.Linear(model.classifier.in_features, classes)
    elif name == "squeezenet":  # ours ends at the pooled features, before conv10
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(model.features, pool, nn.Flatten(), nn.Linear(512, classes))
    else:
        model.classifier[-1] = nn.Linear(model.classifier[-1].in_features, classes)
    assert isinstance(model, torch.nn.Module)
    return model


def _stride_last(stages: Any) -> None:
    """As Keras's ResNet v2: the last block of a stage strides, not the first of the next one."""
    from torch import nn

    for here, following in itertools.pairwise(stages):
        first, last = following.blocks[0], here.blocks[-1]
        last.conv2.stride, last.downsample = (2, 2), nn.MaxPool2d(1, 2)
        first.conv2.stride = first.downsample.conv.stride = (1, 1)


# Rival -> its step.
STEPS: dict[str, Callable[..., Callable[[], Any]]] = {
    "keras": keras_step,
    "torch": torch_step,
    "torch_graphs": functools.partial(torch_step, mode="reduce-overhead"),
}


def networks(rival: str, ours: Mapping[str, Any]) -> Mapping[str, Any]:
    """The networks that a rival has, by our names; of `none`: all of ours."""
    return {"keras": KERAS, "none": ours}.get(rival, TORCH)


def wait(result: Any) -> None:
    """Wait for a step's result, whoever computes it."""
    if type(result).__module__.split(".")[0] == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return
    import jax

    jax.block_until_ready(result)


def release() -> None:
    """Return the memory that PyTorch holds in reserve to the accelerator, for other processes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
