"""What is known of a fine-tuned model: the content of `model.json` in its package.

docs/winner.md lists the fields. A package may come from anybody, so each field is checked before
anything is done with it. A field that this version does not know is refused too: it may decide
what the model answers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ncap_jax import errors, files
from ncap_jax.options import DTYPES, shown
from ncap_jax.winner import metrics as classification
from ncap_jax.winner.metrics import ClassificationMetrics
from ncap_jax.winner.strict_json import read_record

SCHEMA = 1
# Names of models become names of files.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
MAX_CLASSES = 100_000
# Classes up to which the file is laid out for people.
MOST_INDENTED = 100
# In pixels: of an image that is decoded, and of a side of the network's input. What is so large is
# computed one at a time, so that a package cannot ask for any amount of memory.
MAX_PIXELS, MAX_SIDE = 2**24, 2**12
# Of temperatures: beyond it, probabilities say nothing.
HOTTEST = 1000.0

# The field of `data` that holds how many images of the test part were trained or selected on.
LEAKS = "test images also in training or validation"

Kind = Literal["zoo", "hub", "timm", "custom"]
COPY = "Copy the package again, or make it again"


@dataclass(frozen=True)
class Architecture:
    """Which network the weights belong to.

    Attributes:
        kind: `zoo`: `name` is in `ncap_jax.MODELS`; `hub`: likewise, and the weights it began with
            are the Hub's; `timm`: `timm:` and `name` find it; `custom`: it was built by a
            ModelSpec, which loading needs again.
        name: of the architecture.
    """

    kind: Kind
    name: str


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: decoded to one size, then scaled on the device.

    Attributes:
        mode: a key of `ncap_jax.zoo.preprocess.MODES`, or a text as `Scaling.text` gives it.
        input_size: side in pixels of the square that the network sees.
        image_size: (height, width) in pixels to which images are decoded first, those of the
            training data.
        channels: of the decoded images, 1 (grey) or 3 (red, green, blue).
    """

    mode: str
    input_size: int
    image_size: tuple[int, int]
    channels: int = 3


@dataclass(frozen=True)
class Origin:
    """The pretrained weights that fine-tuning began with.

    Attributes:
        source: file name, address or `hf://` name; `random`: none; empty: not known.
        sha256: of the file, in hex, where known.
        licence: of the weights.
        citation: the paper.
    """

    source: str = ""
    sha256: str = ""
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """A fine-tuned model without its weights.

    Attributes:
        name: of the model, as the ranking calls it.
        architecture: which network the weights belong to.
        preprocessing: how an image becomes its input.
        class_names: K different names, in the order of the logits.
        dtype: compute dtype; weights are float32.
        head: what stands on the backbone; always `linear`.
        temperature: by which logits are divided before they become probabilities; None: 1.
        metrics: part (`validation`, `test`) -> figures.
        chosen: how the model was chosen: candidates, ranks, epochs, options.
        data: what it was trained on.
        origin: the weights that fine-tuning began with.
        versions: package -> version.
        created: when, as ISO 8601.
        sha256: of `model.safetensors`, in hex; empty until the model is saved.
    """

    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    dtype: str = "float32"
    head: Literal["linear"] = "linear"
    temperature: float | None = None
    metrics: Mapping[str, ClassificationMetrics] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = Origin()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    sha256: str = ""

    def to_json(self) -> str:
        """The text of `model.json`; in one line where the confusion matrices would fill pages."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        indent = 1 if len(self.class_names) <= MOST_INDENTED else None
        return files.to_json({"schema": SCHEMA, **fields}, indent=indent) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read the text of `model.json`.

        Raises:
            PackageError: not JSON, of another schema, or a field holds what it may not, which the
                error names.
        """
        content = _parse(text)
        try:
            facts = read_record(cls, content)
            metrics = {
                part: classification.checked(figures, f"metrics.{part}")
                for part, figures in facts.metrics.items()
            }
        except ValueError as error:
            raise errors.PackageError(f"model.json: {error}", COPY) from error
        if problem := facts.problem():
            raise errors.PackageError(f"model.json: {problem}", COPY)
        return dataclasses.replace(facts, metrics=metrics)

    def problem(self, *later: str) -> str:
        """Which field holds what it may not, and what it may; empty where none does.

        Args:
            *later: fields that are not looked at, because they are filled in later.
        """
        problems = (limit.problem(self) for limit in LIMITS if limit.field not in later)
        return next(filter(None, problems), "")

    @property
    def leaks(self) -> int:
        """How many images of the test part are also in the training or the validation part.

        0 where they were not counted.
        """
        found = self.data.get(LEAKS)
        return found if type(found) is int and found > 0 else 0

    def accuracy(self, part: str) -> float | None:
        """The accuracy on a part, in [0, 1]; None: not measured."""
        return self.metrics[part].accuracy if part in self.metrics else None


def _parse(text: str) -> dict[str, Any]:
    """An object of JSON, all of which can be written again."""
    try:
        content = json.loads(text)
        # Neither NaN nor infinity nor half a surrogate pair, wherever it stands.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise errors.PackageError(f"model.json is not valid JSON: {error}", COPY) from error
    if not isinstance(content, dict):
        raise errors.PackageError(f"model.json is {shown(content)}, not an object", COPY)
    schema = content.pop("schema", None)
    if schema != SCHEMA or type(schema) is not int:
        raise errors.PackageError(
            f"model.json has schema {shown(schema)}, but this version of ncap_jax reads schema "
            f"{SCHEMA}",
            "Use the version that wrote it",
        )
    return content


class Limit(NamedTuple):
    """What a field's value must satisfy beyond its type, in code and in words."""

    field: str
    admits: Callable[[Any], bool]
    allowed: str

    def problem(self, facts: ModelFacts) -> str:
        """What is wrong with the field; empty if nothing is."""
        value: Any = facts
        for name in self.field.split("."):
            value = getattr(value, name)
        return "" if self.admits(value) else f"{self.field} is {shown(value)}, not {self.allowed}"


def _is_name(value: str) -> bool:
    return _NAME.fullmatch(value) is not None


def _is_side(value: int) -> bool:
    return 1 <= value <= MAX_SIDE


def _is_size(value: tuple[int, int]) -> bool:
    return min(value) >= 1 and value[0] * value[1] <= MAX_PIXELS


def _are_names(value: tuple[str, ...]) -> bool:
    return 2 <= len(value) <= MAX_CLASSES and all(value) and len({*value}) == len(value)


def _is_temperature(value: float | None) -> bool:
    return value is None or 1 / HOTTEST <= value <= HOTTEST


def _is_digest(value: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", value) is not None


_LETTERS = "a name of letters, digits and _ . + -"
LIMITS = (
    Limit("name", _is_name, _LETTERS),
    Limit("architecture.name", _is_name, _LETTERS),
    Limit("preprocessing.input_size", _is_side, f"a number from 1 to {MAX_SIDE}"),
    Limit("preprocessing.image_size", _is_size, f"height and width of at most {MAX_PIXELS} pixels"),
    Limit("preprocessing.channels", lambda value: value in (1, 3), "1 or 3"),
    Limit("class_names", _are_names, f"2 to {MAX_CLASSES} names, none of them empty or twice"),
    Limit("dtype", lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    Limit("temperature", _is_temperature, f"a number from {1 / HOTTEST:g} to {HOTTEST:g}"),
    Limit("sha256", _is_digest, "64 hexadecimal digits"),
)
