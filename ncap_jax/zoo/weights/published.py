"""Where publishers keep their weights files."""

from __future__ import annotations

import re

KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMM = "https://huggingface.co/timm"
# timm's repositories are named <architecture>.<training>.
_TIMM_URL = re.compile(rf"{re.escape(TIMM)}/([^./@]+)")


def keras_url(file: str) -> str:
    """The address of a file of Keras Applications, given its path there."""
    return f"{KERAS_APPLICATIONS}/{file}"


def timm_url(repository: str) -> str:
    """The address of the weights in a repository of timm's on the Hugging Face Hub."""
    return f"{TIMM}/{repository}/resolve/main/model.safetensors"


def timm_architecture(url: str) -> str | None:
    """What timm calls the architecture whose weights are at an address; None: not timm's."""
    match = _TIMM_URL.match(url)
    return match[1] if match else None
