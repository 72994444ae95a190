"""What a user can run into. Every error names the cause and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NcapError(Exception):
    """Base of all errors raised on purpose; the command line turns it into exit code 2.

    Args:
        cause: what is wrong, with the offending value.
        remedy: what to do about it.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = cause.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.cause}. {self.remedy}.".strip() if remedy else f"{self.cause}.")

    def __reduce__(self) -> tuple[type[NcapError], tuple[str, str]]:
        # Errors cross process boundaries (worker processes, Ray): rebuild from both parts.
        return type(self), (self.cause, self.remedy)


class ConfigError(NcapError):
    """An option, or a combination of options, that cannot work."""


class DataError(NcapError):
    """Images or labels that cannot be used as they are."""


class ChangedDataError(DataError):
    """An image that is not what it was when the run began, which concerns all models."""


class ModelError(NcapError):
    """A model that is unknown, cannot be built or cannot be treated."""


class WeightsError(NcapError):
    """Weights that are missing, damaged, unsafe to read or of another architecture."""


class OutputError(NcapError):
    """The output folder cannot be written, or belongs to another run."""


class CheckpointError(OutputError):
    """A checkpoint that is damaged or of another model; the model can start again without it."""


class PackageError(NcapError):
    """A saved model that is missing, damaged, of another version or unsafe to read."""


class ProcessError(NcapError):
    """One of several processes that train together failed; the others cannot go on without it."""


class KernelError(NcapError):
    """Arrays for which neural capacitance is not defined."""


# What XLA says when the device's memory does not suffice.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine ran out of memory."""
    if isinstance(error, NcapError):
        return False
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in _OUT_OF_MEMORY)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> tuple[str, str]:
    """Cause and remedy for a name that is not in a registry, with the nearest matches."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}" if near else f"Known: {', '.join(known)}"
    return f"unknown {kind} {name!r}", hint
