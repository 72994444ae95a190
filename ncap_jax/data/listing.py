"""A user's own images by name: which files there are, of which class, in which part."""

from __future__ import annotations

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, NoReturn

from ncap_jax import errors
from ncap_jax.data.decode import SUFFIXES
from ncap_jax.data.encoded import Files, Source, printable
from ncap_jax.data.labels import sort_names

# Folder and CSV names of the parts, in lower case.
PARTS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
# At most this many files are named in `Dataset.info`; all are counted.
MAX_NAMED = 1000


@dataclasses.dataclass(frozen=True)
class Listing:
    """A data set of encoded images, nothing decoded yet.

    Attributes:
        name: of the data set.
        parts: part (`train`, and where present `validation`, `test`) -> encoded images and one
            label each.
        class_names: in label order.
        shape: (height, width, channels) where the source promises one for all images, or None.
        info: for `Dataset.info`.
        num_test: number of images in the set's own test part, whether it is among `parts` or not.
    """

    name: str
    parts: dict[str, tuple[Source, Any]]
    class_names: tuple[str, ...]
    shape: tuple[int, int, int] | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_test: int = 0


def list_folder(root: str | os.PathLike[str]) -> Listing:
    """List `root/train/<class>/...` (with `validation`, `test` beside it) or `root/<class>/...`.

    Images lie anywhere below their class's folder. Hidden files, files with another suffix than
    an image's, images outside a class's folder and links to folders inside a class's folder are
    ignored, and named in `info["ignored"]`. A class's folder, or an image, may be a link; those
    that lead out of `root` are named in `info["links"]`.

    Raises:
        DataError: not a folder, no class folders, or parts without a `train` among them.
    """
    if not os.path.isdir(root):
        raise errors.DataError(
            f"{printable(root)} is not a folder", "Give the folder that holds the images"
        )
    ignored: dict[str, str] = {}
    parts: dict[str, tuple[Source, list[str]]] = {}
    names: set[str] = set()
    listed: list[str] = []
    for part, folder in _part_folders(os.fspath(root), ignored).items():
        paths, labels = [], []
        for name in _class_folders(folder, ignored):
            names.update([printable(name)] if part == "train" else [])
            found = sorted(_images(os.path.join(folder, name), ignored))
            paths += found
            labels += [printable(name)] * len(found)
        if paths or part != "test":  # images without a class are nothing to test on
            parts[part] = (Files(paths), labels)
        listed += paths
    if not names:
        raise errors.DataError(
            f"{printable(root)} has no class folders",
            "Lay the folder out as <class>/<image> or train/<class>/<image>",
        )
    path = pathlib.Path(root).resolve()
    links = _links_out(os.fspath(path), listed)
    info = {
        "source": f"image folder {printable(path)}",
        **summary("ignored", ignored),
        **summary("links", links),
    }
    return Listing(
        printable(path.name), parts, sort_names(names), info=info, num_test=_num_test(parts)
    )


def list_csv(path: str | os.PathLike[str]) -> Listing:
    """List the images of a CSV file with the columns path, label and, if wanted, split.

    Columns are named in the first line, in any order, or come in this order without such a
    line. Paths are relative to the file's folder and stay below it: a list from elsewhere must not
    reach the reader's other files. `split` is train, validation or test.

    Raises:
        DataError: the file cannot be read as such; names the line.
    """
    where, folder = printable(path), os.path.dirname(os.path.abspath(path))
    parts: dict[str, tuple[list[str], list[str]]] = {}
    seen: dict[str, int] = {}
    for line, (image, label, split) in _csv_rows(path):
        if not image or not label:
            raise errors.DataError(
                f"{where}, line {line}: the path or the label is empty", "Fill it in"
            )
        if split.lower() not in PARTS:
            cause, remedy = errors.unknown_name("split", split, set(PARTS.values()))
            raise errors.DataError(f"{where}, line {line}: {cause}", remedy)
        image = os.path.normpath(os.path.join(folder, image))
        if not image.startswith(folder.rstrip(os.sep) + os.sep) or "\0" in image:
            raise errors.DataError(
                f"{where}, line {line}: {printable(image)} is not below the file's folder",
                "Put the CSV file into a folder above all of its images",
            )
        if image in seen:
            raise errors.DataError(
                f"{where}, line {line}: {printable(image)} is already in line {seen[image]}",
                "List each image once",
            )
        seen[image] = line
        paths, labels = parts.setdefault(PARTS[split.lower()], ([], []))
        paths.append(image)
        labels.append(printable(label))
    if "train" not in parts:
        raise errors.DataError(
            f"{where} lists no training images", "Write one line path,label for each image"
        )
    links = _links_out(os.path.realpath(folder), seen)
    return Listing(
        printable(pathlib.Path(path).stem),
        {part: (Files(paths), labels) for part, (paths, labels) in parts.items()},
        sort_names(set(parts["train"][1])),
        info={"source": f"CSV file {where}", **summary("links", links)},
        num_test=_num_test(parts),
    )


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """Paths of all images in and below a folder, known by their names, in no order.

    Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    return list(_images(os.fspath(folder), {}))


def summary(key: str, files: Mapping[str, str]) -> dict[str, Any]:
    """`{key: {"count": n, "files": {name: reason}}}` for `Dataset.info`; empty without files."""
    if not files:
        return {}
    return {key: {"count": len(files), "files": dict(list(files.items())[:MAX_NAMED])}}


def _num_test(parts: Mapping[str, tuple[Sized, list[str]]]) -> int:
    return len(parts["test"][0]) if "test" in parts else 0


def _part_folders(root: str, ignored: dict[str, str]) -> dict[str, str]:
    """Part -> its folder; the root itself is the training part where it holds no parts."""
    folders = [name for name in _entries(root) if os.path.isdir(os.path.join(root, name))]
    named = [name for name in folders if name.lower() in PARTS]
    if not named:
        return {"train": root}
    parts: dict[str, str] = {}
    for name in named:
        part = PARTS[name.lower()]
        if part in parts:
            raise errors.DataError(
                f"{printable(root)} has two folders for the {part} part", "Keep only one of them"
            )
        parts[part] = os.path.join(root, name)
    if "train" not in parts:
        raise errors.DataError(
            f"{printable(root)} has a folder {named[0]} but no folder train",
            f"Add train, or rename {named[0]} if it is a class",
        )
    for name in _entries(root):
        if name not in named:
            ignored[printable(os.path.join(root, name))] = "beside the parts"
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _class_folders(folder: str, ignored: dict[str, str]) -> Iterator[str]:
    above = os.path.realpath(folder)
    for name in _entries(folder):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):  # also a link that leads nowhere or to itself
            ignored[printable(path)] = "not in a class folder"
        elif name.startswith("."):
            ignored[printable(path)] = "hidden"
        elif (above + os.sep).startswith(os.path.realpath(path) + os.sep):
            ignored[printable(path)] = "link to a folder above"
        else:
            yield name


def _images(folder: str, ignored: dict[str, str]) -> Iterator[str]:
    """Paths of the images below a class's folder; links to folders are not followed."""
    for top, folders, files in os.walk(folder, onerror=_refuse):
        for name in list(folders):
            path = os.path.join(top, name)
            if name.startswith(".") or os.path.islink(path):
                ignored[printable(path)] = "hidden" if name.startswith(".") else "link to a folder"
                folders.remove(name)
        for name in files:
            path = os.path.join(top, name)
            if name.startswith("."):
                ignored[printable(path)] = "hidden"
            elif not name.lower().endswith(SUFFIXES):
                ignored[printable(path)] = "not an image by its name"
            else:
                yield path


def _links_out(root: str, paths: Iterable[str]) -> dict[str, str]:
    """Paths that links lead out of `root` (a real path) -> where they lead."""
    folders: dict[str, str] = {}
    found = {}
    for path in paths:
        top, name = os.path.split(path)
        if top not in folders:
            folders[top] = os.path.realpath(top)
        linked = os.path.islink(path)
        target = os.path.realpath(path) if linked else os.path.join(folders[top], name)
        if not target.startswith(root.rstrip(os.sep) + os.sep):
            found[printable(path)] = printable(target)
    return found


def _entries(folder: str) -> list[str]:
    """Names of what lies in a folder, in order."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    """A folder that cannot be read must not pass for an empty one."""
    raise errors.DataError(
        f"{printable(error.filename)} cannot be read: {error.strerror}", "Check its permissions"
    ) from None


def _csv_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Line number and (path, label, split) of every row; split is `train` where not given."""
    order = ["path", "label", "split"]
    where = printable(path)
    try:
        # File names may hold bytes that are not UTF-8: they pass through unchanged.
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.reader(file, strict=True, skipinitialspace=True)
            for number, row in enumerate(row for row in rows if row):
                cells = [cell.strip() for cell in row]
                lower = [cell.lower() for cell in cells]
                if number == 0 and {"path", "label"} <= set(lower):
                    order = lower
                    continue
                named = dict(zip(order, cells))
                if len(cells) > len(order) or not {"path", "label"} <= set(named):
                    raise errors.DataError(
                        f"{where}, line {rows.line_num}: the number of columns is {len(cells)}",
                        "Write path,label or path,label,split",
                    )
                split = named.get("split", "train")
                yield rows.line_num, (named["path"], named["label"], split)
    except (OSError, csv.Error) as error:
        raise errors.DataError(
            f"{where} cannot be read as CSV: {error}", "Write one line path,label for each image"
        ) from None
