"""Prints the device, its memory and the versions of everything that is measured, as JSON.

In a process of its own: JAX takes most of an accelerator's memory for as long as the process lives.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
RIVALS = ("torch", "torchvision", "timm", "triton")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def version(package: str) -> str | None:
    """A package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def not_installed() -> list[str]:
    """What setup.cfg requires and this interpreter does not have."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"].splitlines()
    found = [re.match(r"[\w-]+", line.strip()) for line in lines]
    return [match[0] for match in found if match and version(match[0]) is None]


def describe() -> dict[str, Any]:
    """Device, memory in bytes where the device says so, versions."""
    import jax

    from ncap_jax.run import facts

    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    more = {name: found for name in (*RIVALS, *PLUGINS) if (found := version(name))}
    return {
        **facts.describe(),
        "backend": jax.default_backend(),
        "device_kind": device.device_kind,
        "memory_bytes": None if device.platform == "cpu" else memory,
        "rivals": more,
        "not_installed": not_installed(),
    }


if __name__ == "__main__":
    missing = not_installed()
    try:
        print(json.dumps(describe()))
    except ImportError as error:
        raise SystemExit(f"{error}. Not installed: {', '.join(missing)}.") from None
