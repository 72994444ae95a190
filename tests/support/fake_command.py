"""The command, with fine-tuning that compiles nothing: `python -m tests.support.fake_command`."""

from __future__ import annotations

import sys

from ncap_jax import interrupts

if interrupts.is_command(__name__, sys.argv[0]):
    interrupts.install()

import pytest

from ncap_jax import __main__ as command
from tests.support import fake_training

if __name__ == "__main__":
    fake_training.install(pytest.MonkeyPatch())
    command.console()
