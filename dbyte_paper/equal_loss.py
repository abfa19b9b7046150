"""Losses of several budgets as curves, and how many bytes each curve needs for one and the same loss."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from dbyte.evaluate import stats
from dbyte.evaluate.stats import Interval
from dbyte_paper import ablation_runs
from dbyte_paper.ablation_runs import Trained

BELOW, ABOVE = "at most", "more than"  # a loss that lies before the first budget, or beyond the last one
Curve = Sequence[tuple[float, float]]  # (bytes, loss or bits per byte) at each budget, ascending


def budget_rows(trained: Trained) -> list[dict]:
    """`ablation_runs.loss_rows` of variants whose names end with their budget: model, train_bytes, value, stderr."""
    return [row | {"model": row["model"].rpartition(", ")[0],
                   "train_bytes": sum(run.facts()["train_bytes"] for run in trained[row["model"]][0])}
            for row in ablation_runs.loss_rows(trained)]


def bytes_at(curve: Curve, loss: float) -> tuple[float, str]:
    """(bytes, side) at which a curve of (bytes, loss) first reaches a loss, by a straight line between logarithms.

    side: "" between two budgets; BELOW where the first budget is enough, ABOVE where the last one is not. ValueError
    for an empty curve or a loss that is not positive.
    """
    if not curve or min(loss, *(each for _, each in curve)) <= 0:
        raise ValueError(f"a curve needs points and positive losses, found {list(curve)} and {loss}")
    points = sorted(curve)
    if points[0][1] <= loss:
        return points[0][0], BELOW if points[0][1] < loss else ""
    for (before, above), (after, below) in zip(points, points[1:], strict=False):
        if below <= loss:
            part = math.log(above / loss) / math.log(above / below)
            return before * (after / before) ** part, ""
    return points[-1][0], ABOVE


def equal_loss_rows(budgets: pd.DataFrame) -> list[dict]:
    """Tidy rows: the bytes that each model needs for the least loss that all of them reach, with side and that loss.

    budgets: what `budget_rows` gave. So the slowest model needs about its last budget. No errors: three points a curve.
    """
    curves = {name: list(zip(rows["train_bytes"], rows["value"], strict=True))
              for name, rows in budgets.groupby("model")}
    loss = max(min(each for _, each in curve) for curve in curves.values())
    rows = []
    for name, curve in curves.items():
        found, side = bytes_at(curve, loss)
        rows.append({"model": name, "value": found, "stderr": math.nan, "n": len(curve), "side": side, "loss": loss})
    return rows


def with_accuracy(equal: Sequence[Mapping], accuracy: pd.DataFrame) -> list[dict]:
    """The rows of `equal_loss_rows`, each with the accuracy that its model has there.

    accuracy: model, train_bytes, value. By a straight line against the logarithm of bytes; beyond the budgets it is
    that of the nearest one.
    """
    rows = []
    for row in equal:
        own = accuracy[accuracy["model"] == row["model"]].sort_values("train_bytes")
        there = np.interp(math.log(row["value"]), np.log(own["train_bytes"]), own["value"])
        rows.append({**row, "accuracy": float(there)})
    return rows


def curves(by_budget: Mapping[int, Trained], name: str) -> list[Curve]:
    """By seed, the losses of one variant (`ablation_runs.last_loss` of its last step) at each budget."""
    seeds = range(len(next(iter(by_budget.values()))[name]))
    return [[(size, ablation_runs.last_loss(trained[name][seed][-1])) for size, trained in by_budget.items()]
            for seed in seeds]


def bytes_ratio(one: Curve, other: Curve) -> tuple[float, str]:
    """Bytes of the other over those of the one at the least loss that both reach, by `bytes_at`.

    The second value is "at least" where the one has less than that from its fewest bytes on, so that it may need fewer,
    "at most" where the other has, else "".
    """
    level = max(one[-1][1], other[-1][1])
    (needed, bound), (others, other_bound) = (bytes_at(each, level) for each in (one, other))
    side = "" if bound == other_bound else "at least" if bound else "at most"
    return others / needed, side


def ratio_row(one_S: Sequence[Curve], other_S: Sequence[Curve]) -> dict:
    """The mean over seeds of `bytes_ratio` as fields of a tidy row: value, stderr, n, low, high, bound and seeds.

    The interval is over the logs of as few ratios as there are seeds (Student's t), and has no end on a side where a
    curve does.
    """
    found = [bytes_ratio(*pair) for pair in zip(one_S, other_S, strict=True)]
    mean = mean_ratio([ratio for ratio, _ in found])
    sides = {side for _, side in found}
    ends = Interval(mean.value, 0.0 if "at most" in sides else mean.low, math.inf if "at least" in sides else mean.high)
    return stats.interval_row(ends, len(found)) | {"bound": ", ".join(sorted(sides - {""})), "seeds": len(found)}


def mean_ratio(ratio_S: Sequence[float]) -> Interval:
    """The geometric mean of positive ratios, one a seed; its interval is by the spread of their logs (Student's t)."""
    logs = [math.log(ratio) for ratio in ratio_S]
    mean, half = sum(logs) / len(logs), stats.half_over_seeds(logs)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
