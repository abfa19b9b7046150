"""Losses of several budgets as curves, and how many bytes each curve needs for one and the same loss."""

import math
from collections.abc import Sequence

import pandas as pd

from dbyte_paper import ablation_runs
from dbyte_paper.ablation_runs import Trained

BELOW, ABOVE = "at most", "more than"  # a loss that lies before the first budget, or beyond the last one


def budget_rows(trained: Trained) -> list[dict]:
    """`ablation_runs.loss_rows` of variants whose names end with their budget: model, train_bytes, value, stderr."""
    return [row | {"model": row["model"].rpartition(", ")[0],
                   "train_bytes": sum(run.facts()["train_bytes"] for run in trained[row["model"]][0])}
            for row in ablation_runs.loss_rows(trained)]


def bytes_at(curve: Sequence[tuple[float, float]], loss: float) -> tuple[float, str]:
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
