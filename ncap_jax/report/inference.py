"""What the use of a ranking's models costs, in words and rows that every report shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ncap_jax.report import text
from ncap_jax.types import InferenceSpeed, RankedModel, Ranking

# Factors and their letters, for numbers that nobody reads digit by digit.
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_known(ranking: Ranking) -> bool:
    """Whether the parameters or the operations of any model are known."""
    return any(row.cost.parameters or row.cost.flops for row in ranking.models)


def is_measured(ranking: Ranking) -> bool:
    """Whether any model was timed."""
    return any(row.cost.speeds for row in ranking.models)


def short(value: float | None) -> str:
    """A large number in three digits and a letter: 24.4 k, 3.50 M, 569 M; a dash for None."""
    if value is None or not math.isfinite(value):
        return "–"
    # Rounded first: 999,999 is 1.00 M, not 1,000 k.
    rounded = float(f"{value:.3g}")
    for factor, letter in _UNITS:
        if rounded >= factor:
            digits = max(0, 2 - int(math.log10(rounded / factor)))
            return f"{rounded / factor:.{digits}f} {letter}"
    return f"{rounded:g}"


def round_number(value: float) -> str:
    """A round number with a letter: 20 k, 1.5 M, 0.5."""
    factor, letter = next((unit for unit in _UNITS if value >= 0.999 * unit[0]), (1.0, ""))
    return f"{value / factor:.3g} {letter}".rstrip()


def at(row: RankedModel, batch: int) -> InferenceSpeed | None:
    """What was measured of a model at a batch size; None: nothing."""
    return next((speed for speed in row.cost.speeds if speed.batch == batch), None)


def latency(row: RankedModel) -> float:
    """Milliseconds in which a model labels one image; NaN: not measured."""
    found = at(row, 1)
    return math.nan if found is None else 1000 * found.seconds


def latency_in_words(row: RankedModel) -> str:
    """The latency with its unit; a dash where it was not measured."""
    found = latency(row)
    if math.isnan(found):
        return "–"
    return f"{found:,.0f} ms" if found >= 100 else f"{found:.3g} ms"


def smallest(ranking: Ranking) -> str:
    """A sentence on the smallest model within a point of the first.

    Empty if none is known, or one model alone is ranked, or came as far as the first.
    """
    row = ranking.smallest
    ranked = [each for each in ranking.models if each.rank is not None]
    if row is None or sum(each.epochs == row.epochs for each in ranked) == 1:
        return ""
    name, parameters = text.visible(row.name), f"{short(row.cost.parameters)} parameters"
    if row.rank == 1:
        return f"{name} is also the smallest within one point, with {parameters}."
    predicted = text.with_std(row.predicted_accuracy, row.std)
    return f"Smallest within one point of the first: {name} ({parameters}), predicted {predicted}."


def header(ranking: Ranking) -> list[str]:
    """The columns of `rows`."""
    speeds = [f"latency, {_images(1)}", "images/s, 64 at a time", "memory, 1 and 64"]
    measured = speeds if is_measured(ranking) else []
    return ["model", "rank", "predicted", "parameters", "FLOPs per image", *measured, "licence"]


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def rows(ranking: Ranking) -> list[list[str]]:
    """A row of cells for each model that is ranked, in the order of the ranking."""
    measured = is_measured(ranking)
    return [
        [
            row.name,
            str(row.rank),
            text.with_std(row.predicted_accuracy, row.std),
            short(row.cost.parameters),
            short(row.cost.flops),
            *(_measured_cells(row) if measured else ()),
            row.cost.licence or "not known",
        ]
        for row in ranking.models
        if row.rank is not None
    ]


def _measured_cells(row: RankedModel) -> Sequence[str]:
    one, many = at(row, 1), at(row, 64)
    memory = [
        "–" if speed is None or speed.memory is None else f"{short(speed.memory)}B"
        for speed in (one, many)
    ]
    rate = "–" if many is None else short(many.images_per_second)
    return latency_in_words(row), rate, " / ".join(memory)


def note(ranking: Ranking) -> str:
    """How the figures were found, and how further ones are."""
    counted = (
        "Parameters: without the classifier. FLOPs: of the network and the classifier for one "
        "scaled image, as XLA counts them."
    )
    problems = [f"{row.name}: {row.cost.problem}" for row in ranking.models if row.cost.problem]
    broken = f" Not found: {'; '.join(problems)}." if problems else ""
    if not is_measured(ranking):
        return f"{counted} Time and memory are not measured; --measure_inference does it.{broken}"
    where = f" on {ranking.info.device}" if ranking.info.device else " on the machine of the run"
    return (
        f"{counted} Times are medians{where}, from images in memory to logits, scaling included; "
        f"memory is what the compiled program takes.{broken}"
    )
