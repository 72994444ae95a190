"""The import rules of the house, for every module, imports inside functions included."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

from tests.support import syntax

# Data flows one way: a stage imports only what stands left of it.
STAGES = ("data", "zoo", "finetune", "measure", "predictor", "selection", "winner", "report")
# The ground floor, and what each of it may stand on.
GROUND = {
    "errors": (),
    "caching": (),
    "types": ("errors",),
    "options": ("errors",),
    "files": ("errors",),
    "peers": (),
    "distributed": ("errors", "peers"),
    "_version": (),
    "interrupts": (),
    "huge_pages": (),
    "output": (),
}
CALLERS = ("api", "commands", "__main__")  # of `run`, the only room that knows all stages
FLAGS = ("commands", "__main__")
FLAX = ("zoo", "finetune", "measure")
REPORTERS = ("report", "run", *CALLERS)


def room_of(name: str) -> str:
    """`ncap_jax.run.job` -> `run`; `ncap_jax.types` -> `types`; the package itself -> ''."""
    return ".".join(name.split(".")[1:2])


def allowed_rooms(room: str) -> set[str]:
    """Rooms and ground-floor modules that may be imported from a room."""
    if room == "":  # the package's __init__ looks names up by text
        return {"_version"}
    if room in GROUND:
        return set(GROUND[room])
    if room == "ops":
        return {"ops"}
    if room == "capacitance":
        return {"ops", "types", "errors", "capacitance"}
    ground = set(GROUND) | {"ops", "capacitance"}
    if room in STAGES:
        before = set(STAGES[: STAGES.index(room) + 1])
        # Kernels meet models in `measure`; models know nothing of their beta_eff.
        return before | (ground - {"capacitance"} if room in ("data", "zoo") else ground)
    if room == "run":
        return ground | set(STAGES) | {"run"}
    return ground | set(STAGES) | {"run", "api", "commands"}


def violations(name: str, root: ast.Module) -> list[str]:
    """What a module does that its room does not allow.

    Args:
        name: of the module, `ncap_jax.zoo.vgg`.
        root: its syntax tree.
    """
    room, found = room_of(name), []
    allowed = allowed_rooms(room)
    for target in sorted(syntax.imported(root)):
        if target.startswith("."):
            found.append(f"relative import {target}")
        elif target.startswith("ncap_jax.") and not (
            room_of(target) in allowed or target.split(".")[1] == "__version__"
        ):
            # `import ncap_jax` and its public names are for those who use the package.
            found.append(f"{room or 'ncap_jax'} imports {target}")
    for package in ("experiments", "benchmarks", "tests", "tensorflow", "pickle"):
        if syntax.imports(root, package):
            found.append(f"imports {package}")
    if room not in FLAX and syntax.imports(root, "flax"):
        found.append("imports flax")
    if room not in REPORTERS and syntax.imports(root, "ncap_jax.report"):
        found.append("imports report")
    if room not in FLAGS and syntax.imports(root, "absl.flags", "absl.app"):
        found.append("defines flags")
    reads = (isinstance(n, ast.Attribute) and n.attr == "argv" for n in ast.walk(root))
    if room != "__main__" and any(reads):
        found.append("reads argv")
    if name.endswith("capacitance.reference") and syntax.imports(root, "jax"):
        found.append("the oracle imports jax")
    return found


def test_the_stages_are_written_down_as_they_are() -> None:
    for file, arrow in (("ncap_jax/types.py", " -> "), ("CONTRIBUTING.md", " ──> ")):
        text = (syntax.PACKAGE.parent / file).read_text(encoding="utf-8")
        assert arrow.join(STAGES) in text
        assert all(f"`{caller}" in text for caller in CALLERS)


@pytest.mark.parametrize("path", syntax.MODULES, ids=syntax.module_name)
def test_import_rules(path: pathlib.Path) -> None:
    name = syntax.module_name(path)
    assert violations(name, syntax.tree(path)) == []
    assert len(path.relative_to(syntax.PACKAGE).parts) <= 2 or path.parts[-2] == "weights"


@pytest.mark.parametrize(
    ("name", "source", "violation"),
    [
        (
            "ncap_jax.data.feed",
            "from ncap_jax.zoo import layers",
            "data imports ncap_jax.zoo.layers",
        ),
        ("ncap_jax.zoo.vgg", "import ncap_jax.finetune.loop", "zoo imports ncap_jax.finetune.loop"),
        (
            "ncap_jax.zoo.vgg",
            "def f():\n    from ncap_jax.capacitance import network",
            "zoo imports ncap_jax.capacitance.network",
        ),
        (
            "ncap_jax.finetune.loop",
            "from ncap_jax import measure",
            "finetune imports ncap_jax.measure",
        ),
        (
            "ncap_jax.selection.ranking",
            "from ncap_jax.run import job",
            "selection imports ncap_jax.run.job",
        ),
        ("ncap_jax.run.job", "from ncap_jax import api", "run imports ncap_jax.api"),
        ("ncap_jax.types", "from ncap_jax import report", "types imports ncap_jax.report"),
        ("ncap_jax.files", "import ncap_jax.options", "files imports ncap_jax.options"),
        ("ncap_jax.ops.depthwise", "from ncap_jax import errors", "ops imports ncap_jax.errors"),
        (
            "ncap_jax.capacitance.network",
            "from ncap_jax.options import Head",
            "capacitance imports ncap_jax.options.Head",
        ),
        ("ncap_jax.predictor.ridge", "from flax import nnx", "imports flax"),
        ("ncap_jax.measure.probe", "from ncap_jax.report import text", "imports report"),
        ("ncap_jax.run.start", "from absl import flags", "defines flags"),
        ("ncap_jax.run.start", "import sys\nprint(sys.argv)", "reads argv"),
        ("ncap_jax.zoo.weights.store", "import pickle", "imports pickle"),
        ("ncap_jax.data.published", "import tensorflow as tf", "imports tensorflow"),
        ("ncap_jax.data.feed", "from . import batching", "relative import ..batching"),
        ("ncap_jax.capacitance.reference", "import jax.numpy", "the oracle imports jax"),
        ("ncap_jax", "from ncap_jax import types", "ncap_jax imports ncap_jax.types"),
    ],
)
def test_every_rule_notices_when_it_is_broken(name: str, source: str, violation: str) -> None:
    assert violation in violations(name, ast.parse(source))


def test_names_for_type_checkers_alone_are_free() -> None:
    source = "if TYPE_CHECKING:\n    from ncap_jax.options import Head"
    assert violations("ncap_jax.types", ast.parse(source)) == []


def test_no_import_cycle() -> None:
    """Not even one that an import inside a function closes."""
    # Raises CycleError, which names the cycle.
    tuple(graphlib.TopologicalSorter(syntax.graph()).static_order())


def test_the_longest_import_chain() -> None:
    floors: dict[str, int] = {}
    below = syntax.graph(at_import_only=True)
    for name in graphlib.TopologicalSorter(below).static_order():
        floors[name] = 1 + max((floors[other] for other in below[name]), default=0)
    assert max(floors.values()) <= 9, sorted(floors, key=floors.__getitem__)[-3:]
