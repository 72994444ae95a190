"""A fine-tuned model as a folder: written whole or not at all, and read as if a stranger sent it.

    model.safetensors   the weights: `backbone.<path>` and `head.<path>`
    model.json          all else that it takes to use the model (`ncap_jax.winner.facts`)
    README.md           the model card, for people

Nothing in it is ever run. The sizes of both files are bounded before they are read: that of the
weights by the network that model.json names, which is built of shapes alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from ncap_jax import errors, files
from ncap_jax.data.encoded import printable
from ncap_jax.winner import card
from ncap_jax.winner.facts import COPY, ModelFacts
from ncap_jax.zoo.weights import store, trees

if TYPE_CHECKING:
    from ncap_jax.finetune.steps import Network
    from ncap_jax.winner.architecture import Skeleton

WEIGHTS, FACTS, CARD = "model.safetensors", "model.json", "README.md"
REBUILD = "Build the ModelSpec as it was built for training, with the same names of layers"
PARTS = ("backbone", "head")
# Where a run keeps its winner, in its own folder.
FOLDER = "winner"
# Bytes: with confusion matrices of a thousand classes there are a few million. Without them, the
# largest number of classes may have names as long as those of files can be.
LARGEST_FACTS = 1 << 28
# Bytes that the header of model.safetensors may take: for each array, and for all.
HEADER_ENTRY, HEADER = 1 << 10, 1 << 12


def write(
    folder: str | os.PathLike[str],
    network: Network,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    facts: ModelFacts,
) -> ModelFacts:
    """Write a package, which replaces one that is there.

    Args:
        folder: of the package.
        network: static parts; of its head there is one.
        params: {"backbone", "head"} parameters.
        state: {"backbone", "head"} batch statistics and the like.
        facts: of the model; `sha256` is filled in.

    Returns:
        The facts as they are written.

    Raises:
        WeightsError: a weight is not finite.
        PackageError: the facts hold what they may not, or more than is ever read.
        OutputError: the folder cannot be written, or holds something else.
    """
    path = pathlib.Path(folder)
    _refuse_foreign(path)
    arrays = {n: np.asarray(leaf) for n, leaf in arrays_of(network, params, state).items()}
    store.check_finite(arrays, facts.name)
    content = safetensors.numpy.save(arrays)
    facts = dataclasses.replace(facts, sha256=hashlib.sha256(content).hexdigest())
    texts = {FACTS: facts.to_json(), CARD: card.render(facts)}
    _check_readable(content, arrays, texts[FACTS], facts.name)
    with files.atomic_folder(path) as filled:
        (filled / WEIGHTS).write_bytes(content)
        for name, text in texts.items():
            (filled / name).write_bytes(text.encode())
    return facts


def _check_readable(content: bytes, arrays: Mapping[str, np.ndarray], text: str, name: str) -> None:
    """Refuse to write what reading would refuse."""
    sizes = (
        (FACTS, len(text.encode()), LARGEST_FACTS, "Give the classes shorter names"),
        (WEIGHTS, len(content), _largest(arrays), "Give the layers shorter names"),
    )
    for file, size, most, remedy in sizes:
        if size > most:
            raise errors.PackageError(
                f"{file} of {name} would have {size} bytes, and {most} are read at most", remedy
            )
    ModelFacts.from_json(text)


def _largest(arrays: Mapping[str, Any]) -> int:
    """Bytes of the largest file that holds such arrays."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays.values())
    return size + HEADER + HEADER_ENTRY * len(arrays)


def arrays_of(
    network: Network, params: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """The weights by their names in `model.safetensors`, the head without its axis of probes."""
    backbone = trees.named(network.backbone, params["backbone"], state["backbone"])
    head = trees.named(network.head, *(jax.tree.map(_first, t["head"]) for t in (params, state)))
    parts = zip(PARTS, (backbone, head))
    return {f"{part}.{name}": leaf for part, leaves in parts for name, leaf in leaves.items()}


def _first(leaf: Any) -> Any:
    """What stands alone on an axis, or its shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[0]


def read_facts(folder: str | os.PathLike[str]) -> ModelFacts:
    """What a package says of its model.

    Raises:
        PackageError: the folder or its model.json is missing or cannot be used.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise errors.PackageError(
            f"{printable(path)} is not a folder", "Give the folder of a model that was saved"
        )
    if not (path / FACTS).exists() and (path / FOLDER / FACTS).exists():
        raise errors.PackageError(
            f"{printable(path)} is the folder of a run", f"Give {printable(path / FOLDER)}"
        )
    try:
        text = _read(path / FACTS, LARGEST_FACTS).decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.PackageError(f"model.json is not text: {error}", COPY) from error
    return ModelFacts.from_json(text)


def read_weights(
    folder: str | os.PathLike[str], facts: ModelFacts, skeleton: Skeleton
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights of a package as {"backbone", "head"} parameters and state, on the device.

    Args:
        folder: of the package.
        facts: what it says of its model.
        skeleton: the network that the weights must fit.

    Raises:
        PackageError: they are missing or damaged, or do not fit the network.
        WeightsError: a value is not finite.
    """
    path = pathlib.Path(folder) / WEIGHTS
    expected = arrays_of(skeleton.network, skeleton.params, skeleton.state)
    content = _read(path, _largest(expected))
    _check_digest(path, hashlib.sha256(content).hexdigest(), facts)
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, *files.DAMAGE) as error:
        raise errors.PackageError(f"{printable(path)} is damaged: {error}", COPY) from error
    own = facts.architecture.kind == "custom"
    _check_fit(arrays, expected, path, REBUILD if own else COPY)
    store.check_finite(arrays, printable(path))
    placed = jax.device_put(arrays)
    params, state = (
        {part: _filled(part, tree[part], placed) for part in PARTS}
        for tree in (skeleton.params, skeleton.state)
    )
    return params, state


def check_weights(folder: str | os.PathLike[str], facts: ModelFacts) -> None:
    """Look whether a package's weights are those that it names, without loading them.

    Args:
        folder: of the package.
        facts: what it says of its model.

    Raises:
        PackageError: they are missing or damaged.
    """
    path = pathlib.Path(folder) / WEIGHTS
    with _reading(path), _opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _check_digest(path, digest, facts)


def _check_digest(path: pathlib.Path, digest: str, facts: ModelFacts) -> None:
    if digest != facts.sha256:
        raise errors.PackageError(
            f"{printable(path)} is damaged: its SHA-256 is not the one in {FACTS}", COPY
        )


def _filled(part: str, tree: Any, arrays: Mapping[str, jax.Array]) -> Any:
    """A part of the skeleton with the arrays in their places."""
    own = {n.removeprefix(f"{part}."): a for n, a in arrays.items() if n.startswith(f"{part}.")}
    if part == "head":
        own = {name: array[None] for name, array in own.items()}
    return trees.renewed(tree, own)


def _check_fit(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any], path: pathlib.Path, remedy: str
) -> None:
    """Refuse weights of another network."""
    misfits = store.misfits(arrays, expected)
    for name in sorted({*arrays} & {*expected}):
        if arrays[name].dtype != expected[name].dtype:
            misfits.append(f"{name}: {arrays[name].dtype}, not {expected[name].dtype}")
    if misfits:
        raise errors.PackageError(
            f"{printable(path)} does not fit the network: {'; '.join(misfits[:6])}",
            remedy,
        )


def _refuse_foreign(path: pathlib.Path) -> None:
    """Refuse to replace a folder that holds anything but a package."""
    try:
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    except OSError as error:
        raise errors.OutputError(
            f"cannot write {printable(path)}: {error.strerror}", "Choose another folder"
        ) from error
    if others := sorted(names - {WEIGHTS, FACTS, CARD}):
        raise errors.OutputError(
            f"{printable(path)} holds {printable(others[0])}, which no model's package does",
            "Choose another folder",
        )


def _read(path: pathlib.Path, limit: int) -> bytes:
    """The content of a regular file of a package, not of what a link leads to.

    Raises:
        PackageError: it is missing, is something else, or has more than `limit` bytes.
    """
    with _reading(path), _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise errors.PackageError(
            f"{printable(path)} has {size} bytes, and this model's has {limit} at most", COPY
        )
    return content


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    """Inside, what the system refuses is an error that names this file."""
    try:
        yield
    except OSError as error:
        raise errors.PackageError(
            f"{printable(path)} cannot be read: {error.strerror}",
            "Give the folder of a model that was saved, with all of its files",
        ) from error


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[io.BufferedReader]:
    if path.is_symlink():
        raise errors.PackageError(
            f"{printable(path)} is a link, which no package contains",
            "Put the file itself in its place, if you trust where the link leads",
        )
    # Neither waits for a pipe nor follows a link that has just been put there.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | os.O_RDONLY
    with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise errors.PackageError(f"{printable(path)} is not a regular file", COPY)
        yield file
