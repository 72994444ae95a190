"""A model as StableHLO, serialised by `jax.export`: JAX runs it without ncap_jax or Flax."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import jax
from jax import export

from ncap_jax import errors, files
from ncap_jax.winner import inference

if TYPE_CHECKING:
    from ncap_jax.winner.model import Winner

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(winner: Winner, path: pathlib.Path) -> None:
    """Write the model, and beside it what goes in and comes out as `<path>.json`.

    Args:
        winner: the model.
        path: of the file.

    Raises:
        ConfigError: flatbuffers, with which JAX writes such files, is not installed.
        ModelError: the file does not say what the model says.
        OutputError: it cannot be written.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise errors.ConfigError(
            "the format stablehlo needs the package flatbuffers", "Run pip install flatbuffers"
        ) from error
    (batch,) = export.symbolic_shape("batch")
    function = jax.jit(inference.as_function(winner))
    exported = export.export(function, platforms=PLATFORMS)(inference.images_of(winner, batch))
    content = bytes(exported.serialize())
    images = inference.samples(winner)
    found = export.deserialize(bytearray(content)).call(images)
    inference.check(found["logits"], winner.logits(images), "the StableHLO file")
    about = {**inference.describe(winner), "platforms": PLATFORMS}
    files.write_atomically(
        path.with_name(f"{path.name}.json"), files.to_json(about, indent=1) + "\n"
    )
    files.write_atomically(path, content)
