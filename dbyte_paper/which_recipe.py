"""One page of the report: which recipe should I use? Made from the results of notebook 11 for three kinds of reader.

Results `recipes_dose` (model, budget, task, in percent) and `recipes_bits` (model, budget, corpus, in bits per byte)
have a row for each recipe, budget and measurement, with value, stderr, n and train_bytes. A row that has read less than
its budget is on the way to a recipe (Stage 1 alone, which writes tokens), and is none.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from dbyte.evaluate.stats import AVERAGE, Estimate
from dbyte_paper.figures import MB
from dbyte_paper.tables import SIGMA, markdown, with_error

SCORES, BITS = "recipes_dose", "recipes_bits"
BEYOND = 10  # how far the page looks beyond the largest budget, as a factor


def which_recipe(read: Callable, real: Callable) -> Iterator[str]:
    """Yield the page as markdown blocks.

    read, real: the name of results -> its rows at this scale and at `real`, None where there are none.
    A reader without a GPU gets the recipe that is best at the smallest budget, one with a GPU the best at the largest
    (and at `real` if it ran), one with eight the one that is ahead where the curves are drawn on.
    """
    yield "## Which recipe should I use?"
    bits = read(BITS)
    if bits is None:
        yield "Not measured yet: notebook 11, which compares the recipes, has not run at this scale."
        return
    scores = read(SCORES)
    means = by_budget(bits, "corpus")
    right = by_budget(scores, "task") if scores is not None else {}
    budgets = sorted(means)
    table = [_row("no GPU", budgets[0], means, right), _row("one GPU", budgets[-1], means, right)]
    yield ("The recipes by bits per byte of held-out text, averaged over corpora, and by accuracy in percent, averaged "
           "over columns. Those within two standard errors of the best are named with it.")
    yield markdown(pd.DataFrame(table))
    yield (f"**No GPU.** {_advice(means[budgets[0]])} That is at {_mb(budgets[0])}, the "
           "smallest budget that was measured.")
    yield (f"**One GPU.** {_advice(means[budgets[-1]])} That is at {_mb(budgets[-1])}, the "
           f"largest.{_at_real(real(BITS))}")
    yield f"**Eight GPUs.** {_beyond(means, budgets)}"


def by_budget(frame: pd.DataFrame, key: str) -> dict[int, dict[str, Estimate]]:
    """budget -> recipe -> its mean over all values of `key`; errors add up as if these were independent.

    A row on the average, if there is one, is taken in their place. A recipe that lacks one of the values that others
    have at that budget is left out, since its mean would be of something else.
    """
    found: dict[int, dict[str, Estimate]] = {}
    for budget, rows in frame[frame["train_bytes"] == frame["budget"]].groupby("budget"):
        chosen = rows[rows[key] == AVERAGE] if (rows[key] == AVERAGE).any() else rows
        for recipe, each in chosen.groupby("model"):
            if set(each[key]) == set(chosen[key]):
                error = math.sqrt((each["stderr"].fillna(0) ** 2).sum()) / len(each)
                found.setdefault(int(budget), {})[recipe] = Estimate(each["value"].mean(), error, int(each["n"].sum()))
    return found


def leaders(means: dict[str, Estimate], *, lowest: bool) -> list[str]:
    """The best recipe and those that are not told apart from it: closer than two standard errors of the difference."""
    order = sorted(means, key=lambda name: means[name].value, reverse=not lowest)
    best = means[order[0]]
    return [name for name in order
            if abs(means[name].value - best.value) <= SIGMA * math.hypot(means[name].stderr, best.stderr)]


def drawn_on(means: dict[int, dict[str, Estimate]], budgets: list[int]) -> dict[str, float]:
    """Bits per byte at BEYOND times the largest budget: on the line between logarithms through the last two budgets."""
    before, last = budgets[-2:]
    steps = math.log(BEYOND) / math.log(last / before)
    return {name: means[last][name].value * (means[last][name].value / means[before][name].value) ** steps
            for name in means[last] if name in means[before]}


def _row(reader: str, budget: int, means: dict, right: dict) -> dict[str, str]:
    def told(found: dict[str, Estimate], *, lowest: bool, digits: int) -> str:
        return ", ".join(f"{name} ({with_error(found[name].value, found[name].stderr, digits=digits)})"
                         for name in leaders(found, lowest=lowest)) if found else "not measured"

    return {"reader": reader, "bytes": _mb(budget), "fewest bits per byte": told(means[budget], lowest=True, digits=3),
            "most accuracy, %": told(right.get(budget, {}), lowest=False, digits=1)}


def _advice(means: dict[str, Estimate]) -> str:
    best, *near = leaders(means, lowest=True)
    also = f"; these numbers do not tell it apart from {', '.join(near)}" if near else ""
    return f"Take `{best}`{also}, of {len(means)} recipes."


def _at_real(bits: pd.DataFrame | None) -> str:
    if bits is None:
        return " With a pretrained teacher (scale `real`) the recipes were not compared yet."
    means = by_budget(bits, "corpus")
    return f" With a pretrained teacher (scale `real`) at {_mb(max(means))}: {_advice(means[max(means)])}"


def _beyond(means: dict[int, dict[str, Estimate]], budgets: list[int]) -> str:
    if len(budgets) < 2:
        return "One budget was measured, so no curve can be drawn on to the bytes that eight GPUs read."
    drawn = drawn_on(means, budgets)
    best = min(drawn, key=drawn.get)
    now = leaders(means[budgets[-1]], lowest=True)
    said = ("It is ahead at the largest budget too." if best in now else
            f"At the largest budget {', '.join(now)} is still ahead.")
    spread = np.ptp(list(drawn.values()))
    return (f"Nobody has measured what eight GPUs read. Where the curves between {_mb(budgets[-2])} and "
            f"{_mb(budgets[-1])} are drawn on to {BEYOND} times as much, `{best}` is ahead ({drawn[best]:.3f} bits per "
            f"byte; all {len(drawn)} recipes lie within {spread:.3f}). {said} A curve that is drawn on is a guess.")


def _mb(size: int) -> str:
    return f"{size / MB:g} MB"
