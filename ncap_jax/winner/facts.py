"""What is known of a fine-tuned model: the content of `model.json` in its package.

docs/winner.md lists the fields. A package may come from anybody, so each field is checked before
anything is done with it. Fields are added in the course of time, never renamed; those that this
version does not know are ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ncap_jax import errors, files
from ncap_jax.options import DTYPES

SCHEMA = 1
# Names of models become names of files.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
MAX_CLASSES = 100_000
# In pixels: of a side, and of an image.
MAX_SIDE, MAX_PIXELS = 2**14, 2**26
# Of temperatures: beyond it, probabilities say nothing.
HOTTEST = 1000.0

Kind = Literal["zoo", "hub", "custom"]
KINDS: tuple[Kind, ...] = ("zoo", "hub", "custom")


@dataclass(frozen=True)
class Architecture:
    """Which network the weights belong to.

    Attributes:
        kind: `zoo`: `name` is in `ncap_jax.MODELS`; `hub`: likewise, and the weights it began with
            are the Hub's; `custom`: it was built by a ModelSpec, which loading needs again.
        name: of the architecture.
    """

    kind: Kind
    name: str


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: decoded to one size, then scaled on the device.

    Attributes:
        mode: a key of `ncap_jax.zoo.preprocess.MODES`.
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
        metrics: part (`validation`, `test`) -> figures; `accuracy`, in [0, 1], is among them.
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
    head: str = "linear"
    temperature: float | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = Origin()
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    sha256: str = ""

    def to_json(self) -> str:
        """The text of `model.json`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return files.to_json({"schema": SCHEMA, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Read the text of `model.json`.

        Raises:
            PackageError: not JSON, of another schema, or a field holds what it may not, which the
                error names.
        """
        content = _parse(text)
        _check(content, ())
        known = {f.name for f in dataclasses.fields(cls)}
        fields = {name: value for name, value in content.items() if name in known}
        pixels = _known(Preprocessing, content["preprocessing"])
        fields["preprocessing"] = dataclasses.replace(pixels, image_size=tuple(pixels.image_size))
        fields["architecture"] = _known(Architecture, content["architecture"])
        fields["origin"] = _known(Origin, content.get("origin", {}))
        fields["class_names"] = tuple(content["class_names"])
        return cls(**fields)

    def checked(self) -> ModelFacts:
        """These facts as they will be read, if a model can be saved with them.

        Raises:
            PackageError: a field holds what it may not, which the error names.
        """
        digest = self.sha256 or "0" * 64  # not known before the model is saved
        read = ModelFacts.from_json(dataclasses.replace(self, sha256=digest).to_json())
        return dataclasses.replace(read, sha256=self.sha256)

    def accuracy(self, part: str) -> float | None:
        """The accuracy on a part, in [0, 1]; None: not measured."""
        value = self.metrics.get(part, {}).get("accuracy")
        return None if value is None else float(value)


def _known(record: Callable[..., Any], fields: Mapping[str, Any]) -> Any:
    """A record of those fields that it has."""
    names = {f.name for f in dataclasses.fields(record)}  # type: ignore[arg-type]
    return record(**{name: value for name, value in fields.items() if name in names})


def _parse(text: str) -> dict[str, Any]:
    """An object of JSON, all of which can be written again."""
    try:
        content = json.loads(text)
        # Neither NaN nor infinity nor half a surrogate pair, wherever it stands.
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise errors.PackageError(f"model.json is not valid JSON: {error}", COPY) from error
    if not isinstance(content, dict):
        raise _refusal((), content, "an object")
    if content.get("schema") != SCHEMA or type(content["schema"]) is not int:
        raise errors.PackageError(
            f"model.json has schema {reprlib.repr(content.get('schema'))}, but this version of "
            f"ncap_jax reads schema {SCHEMA}",
            "Use the version that wrote it",
        )
    return content


COPY = "Copy the package again, or make it again"


class Rule(NamedTuple):
    """What a field may hold, in code and in words, and whether it may be left out."""

    admits: Callable[[Any], bool]
    allowed: str
    optional: bool = False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _is_size(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(map(_is_side, value)) and value[0] * value[1] <= MAX_PIXELS


def _are_names(value: Any) -> bool:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CLASSES:
        return False
    return all(isinstance(name, str) and name for name in value) and len({*value}) == len(value)


def _is_temperature(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 1 / HOTTEST <= value <= HOTTEST)


def _are_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_metrics(value: Any) -> bool:
    """Whether it is an object of figures by part, none of whose accuracies is impossible."""
    if not _is_object(value) or not all(map(_is_object, value.values())):
        return False
    found = [figures["accuracy"] for figures in value.values() if "accuracy" in figures]
    return all(type(share) in (int, float) and 0 <= share <= 1 for share in found)


_SIDE = f"a whole number from 1 to {MAX_SIDE}"
_LETTERS = "a name of letters, digits and _ . + -"
# Every field that is read, by its path.
RULES: Mapping[tuple[str, ...], Rule] = {
    ("name",): Rule(_is_name, _LETTERS),
    ("architecture",): Rule(_is_object, "an object"),
    ("architecture", "kind"): Rule(lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    ("architecture", "name"): Rule(_is_name, _LETTERS),
    ("preprocessing",): Rule(_is_object, "an object"),
    ("preprocessing", "mode"): Rule(_is_text, "text"),
    ("preprocessing", "input_size"): Rule(_is_side, _SIDE),
    ("preprocessing", "image_size"): Rule(
        _is_size, f"[height, width] of at most {MAX_PIXELS} pixels"
    ),
    ("preprocessing", "channels"): Rule(
        lambda value: type(value) is int and value in (1, 3), "1 or 3"
    ),
    ("class_names",): Rule(_are_names, f"a list of 2 to {MAX_CLASSES} names, none of them twice"),
    ("dtype",): Rule(lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    ("head",): Rule(lambda value: value == "linear", "linear"),
    ("temperature",): Rule(
        _is_temperature, f"a number from {1 / HOTTEST:g} to {HOTTEST:g}, or null", optional=True
    ),
    ("metrics",): Rule(
        _are_metrics, "an object of objects with accuracies from 0 to 1", optional=True
    ),
    ("chosen",): Rule(_is_object, "an object", optional=True),
    ("data",): Rule(_is_object, "an object", optional=True),
    ("origin",): Rule(_is_object, "an object", optional=True),
    ("origin", "source"): Rule(_is_text, "text", optional=True),
    ("origin", "sha256"): Rule(_is_text, "text", optional=True),
    ("origin", "licence"): Rule(_is_text, "text", optional=True),
    ("origin", "citation"): Rule(_is_text, "text", optional=True),
    ("versions",): Rule(_are_versions, "an object of texts", optional=True),
    ("created",): Rule(_is_text, "text", optional=True),
    ("sha256",): Rule(_is_digest, "64 hexadecimal digits"),
}


def _check(fields: Mapping[str, Any], above: tuple[str, ...]) -> None:
    """Refuse the first field that holds what it may not."""
    for path, rule in RULES.items():
        if path[:-1] != above:
            continue
        if path[-1] not in fields:
            if rule.optional:
                continue
            raise errors.PackageError(f"model.json has no field {'.'.join(path)}", COPY)
        value = fields[path[-1]]
        try:
            admitted = rule.admits(value)
        except TypeError:  # a list where a word is looked up
            admitted = False
        if not admitted:
            raise _refusal(path, value, rule.allowed)
        if any(other[:-1] == path for other in RULES):
            _check(value, path)


def _refusal(path: tuple[str, ...], value: Any, allowed: str) -> errors.PackageError:
    where = f"{'.'.join(path)} of model.json" if path else "model.json"
    return errors.PackageError(f"{where} is {reprlib.repr(value)}, not {allowed}", COPY)
