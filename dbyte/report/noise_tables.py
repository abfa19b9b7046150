"""The tables of appendix A: accuracy by perturbation, Eq. 5 with its interval, and the paper's beside ours."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dbyte.report.published import published
from dbyte.report.tables import Estimate

KINDS = {"clean": "HellaSwag original", "noise average": "HellaSwag noise avg", "antspeak": "AntSpeak", "drop": "Drop",
         "random_case": "RandomCase", "repeat": "Repeat", "uppercase": "Uppercase"}  # ours -> the paper's
SCORE, DELTA = "robustness score", "delta"


def by_kind(accuracy: pd.DataFrame, *, models: Sequence[str]) -> pd.DataFrame:
    """Return `value ± stderr` in percent, a row a task and perturbation, a column a model.

    accuracy: rows with model, task, kind, value, stderr, chance.
    """
    rows = []
    for task in dict.fromkeys(accuracy["task"].sort_values(key=lambda names: names.eq("average"), kind="stable")):
        part = accuracy[accuracy["task"] == task]
        for kind in KINDS:
            cells = part[part["kind"] == kind].set_index("model")
            rows.append({"task": task, "noise": kind} | {
                model: str(Estimate(cells.at[model, "value"], cells.at[model, "stderr"])) for model in models} | {
                "chance": f"{cells['chance'].iloc[0]:.1f}", "n": str(cells["n"].iloc[0])})
    return pd.DataFrame(rows)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Eq. 5 with its interval of 95 %, and Delta, a row a task and model, as text."""
    return pd.DataFrame([{"task": row.task, "model": row.model, SCORE: f"{row.value:.1f}",
                          "95 % interval": f"{row.low:.1f} to {row.high:.1f}", DELTA: f"{row.delta:.1f}",
                          "n": str(row.n)} for row in frame.itertuples()])


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return differences in points with their intervals and verdicts, as text, in the order of the claims."""
    return pd.DataFrame([{"difference": row.what, "task": row.task, "points": f"{row.value:+.1f}",
                          "95 % interval": f"{row.low:+.1f} to {row.high:+.1f}", "claimed": row.claimed,
                          "n": str(row.n), "verdict": row.verdict} for row in frame.itertuples()])


def beside_paper(
    table: str, columns: Mapping[str, str], accuracy: pd.DataFrame, score: pd.DataFrame, *, task: str = "average"
) -> pd.DataFrame:
    """Return a published table's columns and ours, a row a metric; ours on one task or the average of all.

    columns: our model -> the paper's column. score: may be empty, where no model is above chance. A score that is not
    defined is left empty.
    """
    paper = published(table).set_index("metric")
    accuracy, score = accuracy[accuracy["task"] == task], score[score["task"] == task] if len(score) else score
    ours = {(row.model, KINDS[row.kind]): row.value for row in accuracy.itertuples()}
    for row in score.itertuples():
        ours |= {(row.model, SCORE): row.value, (row.model, DELTA): row.delta}
    rows = []
    for metric in (*KINDS.values(), SCORE, DELTA):
        printed = paper.loc[metric] if metric in paper.index else {}
        rows.append({"metric": metric} | {
            f"paper, {name}": printed.get(column, math.nan) for name, column in columns.items()} | {
            f"ours, {name}": ours.get((name, metric), math.nan) for name in columns})
    return pd.DataFrame(rows)
