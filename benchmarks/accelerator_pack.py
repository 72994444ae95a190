"""What travels to a machine with an accelerator and no network: data sets and weights.

`python -m benchmarks.accelerator --pack=FOLDER` writes one archive for each thing that fits, in
order of value: first the data sets, as image files in the bytes that they were published in, then
the published weights, of which most fit if the smallest come first. Together with the working tree
they stay below `LIMIT`. Quantized weights compress to a quarter, image files hardly.
"""

from __future__ import annotations

import io
import lzma
import pathlib
import subprocess
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks import accelerator_data
from experiments import corpus_files
from ncap_jax import files
from ncap_jax.data.split import stratified_subset
from ncap_jax.zoo import MODELS
from ncap_jax.zoo.weights import sources

# Bytes that may travel, the working tree included, and what is left free of them.
LIMIT, MARGIN = 64 << 20, 1 << 20
# Data set -> images of its training and of its validation part.
DATA = {"cifar10": (8000, 2000), "birds525": (2100, 525), "fashion_mnist": (2000, 1000)}
# The corpus's files whose models have published weights end so.
POOL = "_genuine"
JPEG = b"\xff\xd8"


def pack(source: pathlib.Path, target: pathlib.Path) -> str:
    """Write the archives.

    Args:
        source: folder of data sets and weights.
        target: receives the archives; those of an earlier call are replaced.

    Returns:
        What travels and what stays behind, one line each.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"*{accelerator_data.ENDING}"):
        old.unlink()
    tree = tree_bytes()
    room, lines = LIMIT - MARGIN - tree, [f"{tree / 1e6:8.1f} MB  the working tree"]
    for name, content in items(source):
        fits = len(content) <= room
        if fits:
            files.write_atomically(target / f"{name}{accelerator_data.ENDING}", content)
            room -= len(content)
        lines.append(f"{len(content) / 1e6:8.1f} MB  {name}{'' if fits else ' STAYS BEHIND'}")
    lines.append(f"{room / 1e6:8.1f} MB  of {LIMIT / 1e6:.1f} left: {target}")
    return "\n".join(lines)


def items(source: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Name and archive of each thing, in order of value."""
    for name, (train, validation) in DATA.items():
        if not accelerator_data.missing(source, [name]):
            yield name, archive(images_of(name, source, train, validation))
    found = [
        (path.name, archive([(f"weights/{path.name}", path.read_bytes())]))
        for path in weights_of(source / "weights")
    ]
    yield from sorted(found, key=lambda item: len(item[1]))


def weights_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The published files in a folder of the models that the corpus has ranked at 40 pixels."""
    if not folder.is_dir():
        return []
    names = {
        line["model"]
        for path in corpus_files.files()
        if path.stem.endswith(POOL)
        for line in corpus_files.read(path)
    }
    found = {sources.find_local(MODELS[name], folder) for name in names}
    return sorted(path for path in found if path is not None and path.parent == folder)


def images_of(
    name: str, source: pathlib.Path, train: int, validation: int
) -> Iterator[tuple[str, bytes]]:
    """Paths and bytes of a set's image files, so many of each part, by class."""
    place, options = accelerator_data.place(name, source)
    if options.data_dir is None:
        yield from _of_folder(name, pathlib.Path(place))
        return
    from ncap_jax.data.published import list_published

    listing = list_published(name, options.data_dir, ["train", "test"])
    for part, end, count in (("train", "train", train), ("test", "val", validation)):
        records, labels = listing.parts[part]
        for index in stratified_subset(np.asarray(labels), count, seed=0):
            kind = listing.class_names[labels[index]].replace("/", "_")
            content = records.open(int(index)).read()
            suffix = "jpg" if content.startswith(JPEG) else "png"
            yield f"{name}/{end}/{kind}/{index}.{suffix}", content


def _of_folder(name: str, folder: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """All files of an image folder; its parts keep their names, test is val."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            part, *rest = path.relative_to(folder).parts
            yield "/".join([name, {"test": "val"}.get(part, part), *rest]), path.read_bytes()


def archive(members: Iterator[tuple[str, bytes]] | Sequence[tuple[str, bytes]]) -> bytes:
    """A .tar.xz of these paths and bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for path, content in members:
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return lzma.compress(raw.getvalue(), preset=6)


def tree_bytes() -> int:
    """Size of the files of the checkout that git does not ignore."""
    root = pathlib.Path(__file__).resolve().parents[1]
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True)
    paths = [root / name for name in done.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())
