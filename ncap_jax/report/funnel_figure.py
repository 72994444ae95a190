"""The way from the candidates to the winner as a figure: how many models each step left."""

from __future__ import annotations

from ncap_jax.report import drawing, text
from ncap_jax.report.drawing import ACCENT, INK
from ncap_jax.types import FunnelStep, Ranking


def figure(ranking: Ranking) -> str:
    """A bar for each step, as long as the number of models left; beside it number and seconds.

    The axis is logarithmic: of a thousand candidates a dozen race, and one or two are finished.

    Args:
        ranking: see `ncap_jax.report.funnel.with_finish`; it has steps.
    """
    steps, name = ranking.funnel, "funnel"
    counts = [max(step.models, 1) for step in steps]
    with drawing.figure(name, (6.2, 0.5 + 0.32 * len(steps))) as (figure, axes):
        places = range(len(steps))
        axes.barh(places, counts, left=0.8, height=0.62, color=ACCENT)
        for place, step in zip(places, steps):
            time = "" if step.seconds is None else f", {text.duration(step.seconds)}"
            words = f" {step.models:,}{time}"
            axes.annotate(words, (0.8 + counts[place], place), va="center", color=INK)
        axes.set_xscale("log")
        # Room for the words beside the longest bar.
        axes.set_xlim(0.8, 30 * max(counts))
        axes.set_yticks(places, [step.step for step in steps])
        axes.invert_yaxis()
        axes.set_xlabel("models left")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        told = "; ".join(f"{step.step} {step.models:,}{_in_seconds(step)}" for step in steps)
        return drawing.to_svg(figure, name, f"Models left after each step: {told}.")


def _in_seconds(step: FunnelStep) -> str:
    return "" if step.seconds is None else f" in {step.seconds:.0f} s"
