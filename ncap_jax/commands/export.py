"""Write a fine-tuned model in a format that other programs run.

    python -m ncap_jax export MODEL --format=onnx
    python -m ncap_jax export runs/photos/winner --format=timm --output=photos-timm

MODEL is the folder of a model that was saved. Formats: stablehlo (JAX), onnx (ONNX Runtime and
others; pip install 'ncap_jax[onnx]'), timm (PyTorch, for vision transformers, ConvNeXt, AlexNet and
the ResNets for CIFAR). Exit codes: 0, written; 2, it cannot be written; 130, interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from ncap_jax import errors, interrupts
from ncap_jax.commands import flagging

flags.disclaim_key_flags()


def main(words: Sequence[str]) -> int:
    """Write the model that the words name; returns the exit code."""
    values = _flags()
    folders = flagging.parse(values, words, __doc__ or "")
    if len(folders) != 1:
        raise errors.ConfigError(
            f"{len(folders)} models are given",
            "Write export, the folder of one model, and --format",
        )
    if values.format is None:
        raise errors.ConfigError(
            "no format is given", "Add --format=stablehlo, --format=onnx or --format=timm"
        )
    try:
        with interrupts.job(str):
            return write(folders[0], values.format, values.output)
    except KeyboardInterrupt:
        interrupts.announce("interrupted")
        return interrupts.EXIT_CODE


def write(folder: str, format: str, output: str | None) -> int:
    """Write a model that was saved, and print where; returns the exit code."""
    # Imported here: a misspelt command need not wait for JAX.
    from ncap_jax.report import text
    from ncap_jax.winner.export import export

    path = export(folder, format, output)
    print(f"Written: {text.visible(str(path))}")
    return 0


def _flags() -> flags.FlagValues:
    """The command's flags, at their defaults."""
    values = flags.FlagValues()
    flags.DEFINE_string("format", None, "stablehlo, onnx or timm.", values)
    flags.DEFINE_string(
        "output",
        None,
        "The file to write (timm: the folder). Default: named after the model, in this folder.",
        values,
    )
    return values
