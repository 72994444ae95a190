"""Words and numbers that every form of the report shares."""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections.abc import Mapping, Sequence

from ncap_jax.options import Metric
from ncap_jax.predictor.validation_score import (
    constant_answer,
    counted_images,
    difference_error,
    effective_images,
)
from ncap_jax.types import RankedModel, Ranking

# Standard error of a difference of accuracies above which the first two models may be confused: two
# points, twice what the shortlist allows.
COARSE = 0.02
# Below this many standard errors a difference may be chance: a one-sided test at the 5 % level, as
# of ties (`ncap_jax.selection.contest`).
TOLD_APART = 1.645
# So many splits are advised where one has too few images.
SPLITS = 5
# A sentence names at most this many models.
_NAMED = 4
_METRICS: Mapping[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}


# Format characters that scripts need within words (Persian, Indic) and emoji are joined by.
_JOINERS = "\u200c\u200d"


def visible(words: str) -> str:
    r"""Words from outside with what no reader sees written out: ESC as `\x1b`.

    Control and format characters (ESC, NUL, marks that turn the direction of writing) can move a
    terminal's cursor, hide text or end a file. Tabs and line ends become spaces, for one line.
    """
    return "".join(" " if char in "\t\n\r" else _visible(char) for char in words)


def shortened(words: str, limit: int) -> str:
    """Visible words, cut off after this many characters."""
    shown = visible(words)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def ending(words: str, limit: int) -> str:
    """Visible words, of which the last characters remain: the end of a path tells most."""
    shown = visible(words)
    return shown if len(shown) <= limit else f"…{shown[1 - limit :]}"


def shell(command: str) -> str:
    """A shell command that does the same, in visible characters; quoted as bash and zsh read it."""
    if _all_visible(command):
        return command
    try:
        words = shlex.split(command)
    except ValueError:
        return visible(command)
    return " ".join(shlex.quote(w) if _all_visible(w) else _ansi_quoted(w) for w in words)


def _all_visible(words: str) -> bool:
    return all(_visible(char) == char for char in words)


def _visible(char: str) -> str:
    if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in _JOINERS:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _ansi_quoted(word: str) -> str:
    inside = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(map(_visible, inside))}'"


def percent(value: float, digits: int = 1) -> str:
    """A fraction in percent, or a dash for NaN and infinity."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "–"


def chance(value: float) -> str:
    """A forecast's probability in whole percent, or a dash; none is certain: > 99 %."""
    return "> 99 %" if 0.995 < value <= 1 else percent(value, 0)


def with_std(mean: float, std: float) -> str:
    """Predicted accuracy and its standard deviation in percentage points."""
    if not math.isfinite(mean):
        return "–"
    return f"{100 * mean:.1f} ± {100 * std:.1f} %" if math.isfinite(std) else percent(mean)


def number(value: float) -> str:
    """Three significant digits, or a dash for NaN and infinity."""
    return f"{value:.3g}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def metric_name(metric: Metric) -> str:
    """A metric in words."""
    return _METRICS[metric]


def title(ranking: Ranking) -> str:
    """What a table of the ranking shows: data, method, and the metric unless it is accuracy."""
    metric = ranking.config.metric
    what = "" if metric == "accuracy" else f": {metric_name(metric)}"
    return f"{visible(ranking.dataset)}{what}, ranked by {ranking.predictor}"


def metric_note(ranking: Ranking) -> str:
    """What another metric than accuracy means for the numbers, in two sentences; else empty."""
    metric = ranking.config.metric
    if metric == "accuracy":
        return ""
    name = metric_name(metric)
    return (
        f"All shares of the table are {name} on the validation part, seen or predicted. The growth "
        f"and the spread of predictions were fitted on accuracies; for {name} they are not checked."
    )


def answer(ranking: Ranking) -> str:
    """The answer in a few sentences; first of all, which models failed."""
    parts = [_failures(ranking)]
    ranked = [row for row in ranking.models if row.rank is not None]
    if not ranked:
        return " ".join(filter(None, [*parts, "No model could be ranked: see the status of each."]))
    best = ranked[0]
    metric = ranking.config.metric
    what = "" if metric == "accuracy" else f"{metric_name(metric)} "
    predicted = with_std(best.predicted_accuracy, best.std)
    text = f"Fine-tune {visible(best.name)}: predicted {what}{predicted}"
    if math.isfinite(best.p_best) and len(ranked) > 1:
        text += f", best with probability {chance(best.p_best)}"
    parts.append(f"{text}.")
    if len(ranked) > 1 and ranked[1].epochs < best.epochs:
        parts.append(
            f"It alone was trained for {best.epochs} epochs; the others were stopped before, so no "
            "chance is stated."
        )
    parts += _in_points(ranking) if ranking.shortlist else _ties(ranked)
    if not _beats_the_largest_class(best.best_seen, ranking):
        parts.append(
            f"So far {visible(best.name)} is not significantly better than always predicting the "
            f"largest class ({percent(_largest_class(ranking)[0])})."
        )
    return " ".join(filter(None, parts))


def epochs_each(ranking: Ranking) -> str:
    """How long the models were trained: '5 epochs each', 'up to 5 epochs each (1 to 5)'."""
    epochs = [row.epochs for row in ranking.models]
    most = ranking.config.epochs
    words = f"{most} epoch{'' if most == 1 else 's'} each"
    if all(number == most for number in epochs):
        return words
    low, high = min(epochs), max(epochs)
    return f"up to {words} ({low if low == high else f'{low} to {high}'})"


def _in_points(ranking: Ranking) -> list[str]:
    """What the choice is expected to cost, and which few models hold a good one."""
    names = [visible(name) for name in ranking.shortlist]
    if len(ranking.models) == 1:
        return []
    who = "it" if len(names) == 1 else f"one of {listed(some(names))}"
    compared = sum(math.isfinite(row.p_best) for row in ranking.models)
    stopped = any(row.status == "stopped" for row in ranking.models)
    whom = f"the {compared} compared" if stopped else "these models"
    return [
        f"It is expected to be {points(ranking.expected_regret)} below the best of {whom}.",
        f"With 90 % certainty, {who} is within {points(ranking.config.shortlist_points)} of the "
        "best.",
    ]


def _ties(ranked: Sequence[RankedModel]) -> list[str]:
    """Where no deviations are known: who is equal to the first."""
    tied = [visible(row.name) for row in ranked if row.tied_with_best]
    return [f"{listed(some(tied))} cannot be told apart from it."] if tied else []


def points(number: float) -> str:
    """A difference of accuracies: '1 point', '0.4 points'."""
    shown = f"{number:.1f}".removesuffix(".0")
    return f"{shown} point{'' if shown == '1' else 's'}"


def within(ranking: Ranking) -> str:
    """Head of the column that says how likely a model is as good as the best."""
    return f"within {ranking.config.shortlist_points:g} pt"


def some_failed(ranking: Ranking) -> bool:
    """Whether any model failed, in its fine-tuning or before."""
    return bool(failed(ranking)) or any(each.step == "failed" for each in ranking.left_out)


def failed(ranking: Ranking) -> list[RankedModel]:
    """The models that came to no end of their own or of the run's limits."""
    return [row for row in ranking.models if row.status not in ("ok", "stopped")]


def _failures(ranking: Ranking) -> str:
    """A sentence that says which models failed, and how; empty if none did."""
    rows = failed(ranking)
    if not rows:
        return ""
    names = [
        visible(row.name) + ("" if row.status == "failed" else f" ({row.status.replace('_', ' ')})")
        for row in rows
    ]
    models = "1 model" if len(ranking.models) == 1 else f"{len(ranking.models)} models"
    return f"{len(rows)} of {models} failed: {listed(some(names))}."


def some(names: list[str]) -> list[str]:
    """At most as many names as a sentence has, the last of them a count."""
    return (
        names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    )


def warnings(ranking: Ranking) -> list[str]:
    """Reasons to distrust the table, a line each: failures, flags, no model above chance."""
    lines = _ends(ranking)
    flagged: dict[str, list[str]] = {}
    for row in ranking.models:
        if row.flag:
            flagged.setdefault(row.flag, []).append(row.name)
    for flag, names in flagged.items():
        everyone = len(names) == len(ranking.models) and len(names) > 1
        lines.append(f"{'all models' if everyone else listed(names)}: {flag}")
    lines += [f"{each.name}: {each.reason}" for each in ranking.left_out if each.step == "failed"]
    lines = [visible(line) for line in lines]
    return lines + _no_better_than_the_largest_class(ranking) + _too_few_images(ranking)


def _ends(ranking: Ranking) -> list[str]:
    """Why models did not run to the end; those that ended alike have a line together."""
    alike: dict[tuple[str, str], list[RankedModel]] = {}
    for row in ranking.models:
        if row.status != "ok":
            alike.setdefault((row.status, row.message.partition(":")[0]), []).append(row)
    lines = []
    for (status, cause), rows in alike.items():
        message = rows[0].message if len(rows) == 1 else cause
        what = f" – {message}" if message else ""
        names = listed(some([row.name for row in rows]))
        lines.append(f"{names}: {status.replace('_', ' ')}{what}")
    return lines


def rows_to_show(ranking: Ranking) -> tuple[Sequence[RankedModel], str]:
    """The rows of a table that is read at a glance, and a line on those that it leaves out.

    Of a long list that a budget has cut short, most models have no epoch: their rows would hide the
    others. Empty: no row is left out.
    """
    without = [row.name for row in ranking.models if row.status == "stopped" and not row.epochs]
    if some(without) == without:
        return ranking.models, ""
    shown = [row for row in ranking.models if row.name not in without]
    return shown, f"{len(without):,} more models were not trained for an epoch"


def _too_few_images(ranking: Ranking) -> list[str]:
    """A caution where the validation images cannot tell the first model from the second.

    Or where they tell that it is the worse one: a method may look at more than they do.
    """
    count = ranking.info.num_validation
    rows = [row for row in ranking.models if row.rank is not None and math.isfinite(row.last_seen)]
    if not count or len(rows) < 2:
        return []
    first, second = rows[:2]
    metric, images = ranking.config.metric, counted_images(ranking.trajectories)
    what, worth = "accuracies", count
    if metric != "accuracy":
        what, worth = "scores", effective_images(images, metric) or count
    error = difference_error(first.last_seen, second.last_seen, worth)
    lead = first.last_seen - second.last_seen
    splits = max(SPLITS, 2 * ranking.config.validation_splits)
    if error <= COARSE or lead >= TOLD_APART * error:
        return []
    one, other, apart = visible(first.name), visible(second.name), points(100 * abs(lead))
    unsure = f"standard error up to {points(100 * error)}"
    if -lead < TOLD_APART * error:
        said = (
            f"cannot tell {one} from {other}: their {what} differ by {apart}, which may be chance "
            f"({unsure})"
        )
    else:
        said = (
            f"do not confirm that {one} is better than {other}: on them it is {apart} behind "
            f"({unsure})"
        )
    return [
        f"{count} validation images {said}. Give more images, or rank with "
        f"validation_splits={splits}"
    ]


def _no_better_than_the_largest_class(ranking: Ranking) -> list[str]:
    """A warning while no model is significantly better than always giving the same answer."""
    seen = [row.best_seen for row in ranking.models if row.rank is not None]
    if not seen or any(_beats_the_largest_class(accuracy, ranking) for accuracy in seen):
        return []
    return [
        f"no model is significantly better yet than always predicting the largest class "
        f"({percent(_largest_class(ranking)[0])}): train for more epochs before you trust any order"
    ]


def _beats_the_largest_class(seen: float, ranking: Ranking) -> bool:
    """By two standard errors; also where the largest class's share is not known."""
    score, error = _largest_class(ranking)
    return math.isnan(score) or seen > score + 2 * error


def _largest_class(ranking: Ranking) -> tuple[float, float]:
    """What always giving the largest class scores, and a standard error; NaN where not known."""
    share, count = ranking.info.majority_accuracy, ranking.info.num_validation
    images = counted_images(ranking.trajectories)
    if ranking.config.metric == "accuracy" and count:
        images = (count,)
    if share is None or not count or not images:
        return math.nan, math.nan
    return constant_answer(images, ranking.config.metric, share)


def learning_rates(ranking: Ranking) -> str:
    """A sentence on which models have learning rates of their own; empty where none has."""
    by_rate: dict[float, list[str]] = {}
    for row in ranking.models:
        if row.learning_rate is not None:
            by_rate.setdefault(row.learning_rate, []).append(visible(row.name))
    parts = [f"{rate:g} for {listed(names)}" for rate, names in sorted(by_rate.items())]
    return (
        f"Learning rate, known to suit the model or found by a trial: {'; '.join(parts)}."
        if parts
        else ""
    )


def status(row: RankedModel) -> str:
    """How a model ended, and whether it is on the shortlist."""
    return row.status.replace("_", " ") + (", shortlist" if row.shortlisted else "")


def has_beta_eff(ranking: Ranking) -> bool:
    """Whether beta_eff was measured of any model; without it, tables have no column for it."""
    return any(row.beta_eff for row in ranking.models)


def beta_eff_now(row: RankedModel) -> float:
    """beta_eff after the last epoch; NaN if it was not measured then."""
    return row.beta_eff[-1] if row.beta_eff else math.nan
