"""The machine that tests run on, as far as compiled programs depend on it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
import platform
import resource


def machine() -> str:
    """A name for what compiled programs depend on: the processor's features and jaxlib."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # another system than Linux
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    text = f"{platform.machine()} {features} {importlib.metadata.version('jaxlib')}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cheap_compilation() -> str:
    """XLA's flags under which it compiles fastest: a third of the time, but programs run slower."""
    flags = "--xla_backend_optimization_level=0"
    # XLA ends the process over a flag that it does not know, and this one will go.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # another system than Linux
        return 0
    return pages * resource.getpagesize()
