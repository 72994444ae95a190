"""A model as ONNX, converted by jax2onnx and checked with ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import export

from ncap_jax import errors, files
from ncap_jax.winner import inference
from ncap_jax.zoo.portable import portable

if TYPE_CHECKING:
    from ncap_jax.winner.model import Winner

# Of ONNX's operations: 18 is what most runtimes have.
OPSET = 18


def write(winner: Winner, path: pathlib.Path) -> None:
    """Write the model as one file; its metadata hold the class names.

    Args:
        winner: the model.
        path: of the file.

    Raises:
        ConfigError: jax2onnx or ONNX Runtime is not installed.
        ModelError: the model computes in another dtype than float32, holds an operation that
            jax2onnx does not convert, or the file does not say what the model says.
        OutputError: the file cannot be written.
    """
    if winner.facts.dtype != "float32":
        raise errors.ModelError(
            f"{winner.name} computes in {winner.facts.dtype}, which ONNX Runtime does not on "
            "most machines",
            "Export it as stablehlo, or train it with dtype=float32",
        )
    convert, session_of = _libraries()
    content = _converted(convert, winner)
    session = session_of(content, providers=["CPUExecutionProvider"])
    images = inference.samples(winner)
    expected = winner.logits(images)
    for count in (len(images), 1):
        found = session.run(["logits"], {"images": images[:count]})[0]
        inference.check(found, expected[:count], "the ONNX file")
    files.write_atomically(path, content)


def _libraries() -> tuple[Any, Any]:
    """jax2onnx's converter, and ONNX Runtime's sessions."""
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise errors.ConfigError(
            f"the format onnx needs the package {error.name}", "Run pip install 'ncap_jax[onnx]'"
        ) from error
    return jax2onnx.to_onnx, onnxruntime.InferenceSession


def _converted(convert: Any, winner: Winner) -> bytes:
    """The model's file."""
    (batch,) = export.symbolic_shape("batch")
    images = inference.images_of(winner, batch)
    assert images.dtype == jnp.uint8
    function = portable(inference.as_function(winner), images)
    try:
        with _quiet():
            model = convert(
                function,
                inputs=[images],
                input_names=["images"],
                output_names=list(inference.OUTPUTS),
                model_name=winner.name,
                opset=OPSET,
            )
            # Shapes of what is inside, some of them left from before transposes were moved.
            del model.graph.value_info[:]
            for key, value in inference.describe(winner).items():
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                model.metadata_props.add(key=key, value=text)
            return model.SerializeToString()
    except Exception as error:  # of whatever kind the converter raises
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise errors.ModelError(
            f"jax2onnx cannot convert {winner.name}: {why}", "Export it as stablehlo"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on shapes that it does not know."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
