"""From a long list to a short pool: which candidates are fine-tuned.

Of N candidates, value v_p (p: the prior, LogME, the linear probe, k-NN; higher is better) is known
of n_p. Each known value becomes the share of others that are above it, ties counted half:

    r_p(c) = (#{o : v_p(o) > v_p(c)} + ½ #{o ≠ c : v_p(o) = v_p(c)}) / (n_p − 1)             (P1)
    merit(c) = mean of r_p(c) over the p whose v_p(c) is known, ½ where none is              (P2)

and the lowest merits are chosen. A value that is known of one candidate alone ranks nothing, and
does not count. Nor does what is not known: taken for the middle, it would hold back a model that
all features put first and of which nothing is published. With `diversity`, at most m of one family
are chosen as long as others are left; then the best of those that were passed over fill the pool.

Ranks, because the values have no common scale; equal weights, because with a dozen sets nothing
finer can be told from luck: experiments/recall_study.py, docs/results/recall.md.
"""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ncap_jax.options import Limits
from ncap_jax.types import LeftOut

# Without --recall: of more candidates than AUTOMATIC_ABOVE, KEPT are fine-tuned.
AUTOMATIC_ABOVE, KEPT = 24, 12
# The merit of a candidate of which nothing is known.
_MIDDLE = 0.5

# A model that races takes about this many times the seconds of its features and their scores: its
# first epoch with compilation, and its part of the later ones (docs/results/long-lists.md).
RACED = 5.0


@dataclass(frozen=True)
class Candidate:
    """What is known of a candidate before training.

    Attributes:
        name: of the model.
        family: relatives have the same; empty: it has none.
        prior: the higher the better; NaN: not known.
        scores: of the untouched model's features, the higher the better; empty: not known.
        failure: why it cannot be fine-tuned; empty: nothing speaks against it.
        seconds: that the scores took.
    """

    name: str
    family: str = ""
    prior: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Choice:
    """Who is fine-tuned, the most promising first, and who is not, with the reason."""

    chosen: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def kept(limits: Limits, candidates: int) -> int:
    """How many candidates a recall keeps; 0: all, without a recall.

    With less time than a recall by itself may take there is none unless it is asked for. Within a
    longer time budget this is the least that `kept_in_time` keeps.
    """
    if limits.recall is None:
        short = limits.time_budget is not None and limits.time_budget < limits.recall_seconds
        return KEPT if candidates > AUTOMATIC_ABOVE and not short else 0
    return limits.recall if 0 < limits.recall < candidates else 0


def kept_in_time(seconds: float, features: Sequence[float], candidates: int) -> int:
    """How many candidates a recall keeps for a race in a time budget, `KEPT` at least.

    The race begins with as many of them as it finds time for, the best first.

    Args:
        seconds: that are left for the race.
        features: what the features of a model took, of some.
        candidates: how many there are.
    """
    usual = statistics.median(features) if features else math.inf
    return min(candidates, max(KEPT, round(seconds / (RACED * usual))))


def choose(
    candidates: Sequence[Candidate], keep: int, limits: Limits, block: int | None = None
) -> Choice:
    """Choose the pool.

    Args:
        candidates: those with a `failure` are never chosen.
        keep: size of the pool.
        limits: `recall_parts` and `recall_family`.
        block: of this many after one another at most `recall_family` are of one family; None: of
            the whole pool. For a race that may end before everybody has had a turn.
    """
    sound = [each for each in candidates if not each.failure]
    values = merits(sound, limits.recall_parts)
    order = [sound[i] for i in np.argsort(values, kind="stable")]
    most = limits.recall_family if "diversity" in limits.recall_parts else len(order)
    chosen: list[Candidate] = []
    while len(chosen) < min(keep, len(order)):
        names = {each.name for each in chosen}
        rest = [each for each in order if each.name not in names]
        chosen += _diverse(rest, min(keep - len(chosen), block or keep), most)
    names = {each.name for each in chosen}
    last = max((place for place, each in enumerate(order) if each.name in names), default=0)
    left_out = [
        LeftOut(each.name, f"it failed before training: {each.failure}", "failed")
        for each in candidates
        if each.failure
    ]
    for place, each in enumerate(order, start=1):
        if each.name in names:
            continue
        why = f"place {place} of {len(order)} in the recall, which keeps {keep}"
        if place <= last:
            why += f", at most {most} of one family ({each.family})"
        left_out.append(LeftOut(each.name, why, "recall"))
    return Choice(tuple(each.name for each in chosen), tuple(left_out))


def not_worth_a_look(
    candidates: Sequence[Candidate], keep: int, parts: Sequence[str]
) -> frozenset[str]:
    """Those with random weights, whose features are needed only if too few others are left.

    A network that was never trained loses to the same one with trained weights, and a look at it
    takes as long. Nobody where the prior is switched off.
    """
    drawn = {each.name for each in candidates if each.prior == -math.inf}
    others = sum(each.name not in drawn and not each.failure for each in candidates)
    return frozenset(drawn if others >= keep and "prior" in parts else ())


def merits(candidates: Sequence[Candidate], parts: Sequence[str]) -> np.ndarray:
    """Equation (P2), (candidates,): the lower the better; equal where nothing is known."""
    columns = []
    if "prior" in parts:
        columns.append(shares_above([each.prior for each in candidates]))
    if "features" in parts:
        for name in sorted({name for each in candidates for name in each.scores}):
            values = [each.scores.get(name, math.nan) for each in candidates]
            columns.append(shares_above(values))
    if not columns:
        return np.full(len(candidates), _MIDDLE)
    table = np.array(columns)
    known = np.sum(~np.isnan(table), axis=0)
    return np.where(known > 0, np.nansum(table, axis=0) / np.maximum(known, 1), _MIDDLE)  # (P2)


def shares_above(values: Sequence[float]) -> np.ndarray:
    """Equation (P1); NaN where the value is not known, or known of no other."""
    found = np.asarray(values, dtype=np.float64)
    known = found[~np.isnan(found)]
    if known.size < 2:
        return np.full(found.shape, math.nan)
    above = (known[None, :] > found[:, None]).sum(axis=1)
    equal = (known[None, :] == found[:, None]).sum(axis=1) - 1  # each equals itself
    return np.where(np.isnan(found), math.nan, (above + 0.5 * equal) / (known.size - 1))  # (P1)


def _diverse(order: Sequence[Candidate], keep: int, most: int) -> list[Candidate]:
    """The first `keep`, without those of which `most` relatives come first, as far as that goes."""
    counts: collections.Counter[str] = collections.Counter()
    chosen: list[Candidate] = []
    passed: list[Candidate] = []
    for each in order:
        counts[each.family] += 1
        full = each.family and counts[each.family] > most
        (passed if full else chosen).append(each)
    pool = [*chosen[:keep], *passed[: max(0, keep - len(chosen))]]
    return sorted(pool, key=order.index)
