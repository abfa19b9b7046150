"""Results as tables for readers, always computed from the rows: nothing is typed.

Average drop: the mean over the columns that both models have of teacher - student, in percentage points. Retention: 100
times the student's mean over the teacher's on those columns, in percent. Both are the summaries of the paper's Table 1,
over the paper's columns alone. Guessing alone retains something: next to it is the retention of what is above chance.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dbyte.evaluate.stats import Estimate
from dbyte_paper.published import published

BENCHMARKS = ("LMB", "HellaS", "PIQA", "ARC-E", "ARC-C", "WINO", "OBQA", "MMLU", "GSM8K")
NOISE = {"clean": "HellaSwag original", "noise average": "HellaSwag noise avg", "antspeak": "AntSpeak", "drop": "Drop",
         "random_case": "RandomCase", "repeat": "Repeat", "uppercase": "Uppercase"}  # our name -> the paper's
SCORE, DELTA = "robustness score", "delta"  # metrics of the paper's Tables 6 to 8
SIGMA = 2.0  # standard errors within which two numbers are not told apart, and half the width of a band or an error bar


def with_error(value: float, stderr: float, *, digits: int = 1) -> str:
    """Return `value ± stderr`, or `value` alone where nothing was sampled (nan)."""
    return f"{value:.{digits}f}" + ("" if math.isnan(stderr) else f" ± {stderr:.{digits}f}")


def of_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose task is one of the paper's columns; all rows where none is, as of CUTE."""
    kept = frame[frame["task"].isin(BENCHMARKS)]
    return frame if kept.empty else kept


def _paired(teacher: pd.DataFrame, student: pd.DataFrame) -> pd.DataFrame:
    """Return value and stderr of both on the columns that both have; raises ValueError where they share none."""
    both = teacher[["value", "stderr"]].join(student[["value", "stderr"]], how="inner", suffixes=("", "_student"))
    if both.empty:
        raise ValueError(f"teacher and student share no column: {list(teacher.index)} and {list(student.index)}")
    return both


def average_drop(teacher: pd.DataFrame, student: pd.DataFrame) -> Estimate:
    """Return the mean of teacher - student over the columns that both have, n columns.

    teacher, student: value and stderr by column. The standard error treats the two as independent. On the same items
    they are not, which makes it too wide, never too narrow, where they agree. Raises ValueError where they share no
    column.
    """
    both = _paired(teacher, student)
    variance = (both["stderr"] ** 2 + both["stderr_student"] ** 2).sum(skipna=False)
    return Estimate((both["value"] - both["value_student"]).mean(), math.sqrt(variance) / len(both), len(both))


def retention_of_means(teacher: pd.DataFrame, student: pd.DataFrame, *, above_chance: bool = False) -> Estimate:
    """Return 100 * mean(student) / mean(teacher) over the columns that both have, with its first-order standard error.

    For numbers without their items; `stats.retention` resamples items. teacher, student: value and stderr by column.
    above_chance: of both means less the chance of their columns. Raises ValueError where they share no column or the
    teacher has nothing.
    """
    both = _paired(teacher, student)
    chance = teacher.loc[both.index, "chance"].sum() if above_chance else 0.0
    of_teacher = both["value"].sum() - chance
    if of_teacher <= 0:
        raise ValueError("the teacher scores 0 on every column, or chance: nothing can be retained")
    ratio = (both["value_student"].sum() - chance) / of_teacher
    variance = (both["stderr_student"] ** 2 + (ratio * both["stderr"]) ** 2).sum(skipna=False)
    return Estimate(100 * ratio, 100 * math.sqrt(variance) / of_teacher, len(both))


def wide(frame: pd.DataFrame, *, rows: str = "model", values: str = "value") -> pd.DataFrame:
    """Return tidy results, one row per `rows` key, one column per task, benchmarks in the paper's order."""
    table = frame.pivot(index=rows, columns="task", values=values)
    order = [name for name in BENCHMARKS if name in table] + [name for name in table if name not in BENCHMARKS]
    return table[order]


def estimates(frame: pd.DataFrame, *, rows: Sequence[str], columns: str, order: Sequence[str],
              digits: int = 1) -> pd.DataFrame:
    """Return tidy results as text `value ± stderr`, one row per value of `rows`, one column per value of `columns`.

    order: the columns in this order, those that the frame has.
    """
    cells = [with_error(row.value, row.stderr, digits=digits) for row in frame.itertuples()]
    return words(frame.assign(cell=cells), rows=rows, columns=columns, order=order, values="cell")


def words(frame: pd.DataFrame, *, rows: Sequence[str], columns: str, order: Sequence[str], values: str) -> pd.DataFrame:
    """Return a column of words of tidy results as a table, empty where a row is missing; see `estimates`."""
    table = frame.pivot(index=list(rows), columns=columns, values=values).fillna("")
    return table[[name for name in order if name in table]].reset_index().rename_axis(columns=None)


def main_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 for our rows: a `value ± stderr` column per task, the drop and what is retained, teacher first.

    frame: tidy results with the keys model and task, accuracies in percent; a task that is no column of the paper is
    shown and not averaged. Raises ValueError without a teacher row.
    """
    models = {name: rows.set_index("task") for name, rows in of_paper(frame).groupby("model")}
    if "teacher" not in models:
        raise ValueError(f"expected a model 'teacher' to compare with, found {sorted(models)}")
    teacher = models["teacher"]
    table = estimates(frame, rows=["model"], columns="task", order=list(wide(frame))).set_index("model")
    for model in table.index.drop("teacher"):
        drop = average_drop(teacher, models[model])
        table.loc[model, "average drop"] = with_error(drop.value, drop.stderr)
        if teacher["value"].any():  # where the teacher has nothing right, the cell stays empty
            kept = retention_of_means(teacher, models[model])
            table.loc[model, "retention %"] = with_error(kept.value, kept.stderr)
        shared = teacher.loc[teacher.index.isin(models[model].index)]
        if "chance" in teacher and shared["value"].sum() > shared["chance"].sum():
            kept = retention_of_means(teacher, models[model], above_chance=True)
            table.loc[model, "above chance %"] = with_error(kept.value, kept.stderr)
    return table.loc[["teacher", *table.index.drop("teacher")]].fillna("").reset_index()


def both_students(four: pd.DataFrame, nine: pd.DataFrame) -> pd.DataFrame:
    """Return `main_table` of the main student and, below it, of the one that was taught all columns, each named so."""
    below = main_table(nine).assign(model=lambda table: table["model"] + ", all columns")
    joined = pd.concat([main_table(four), below]).fillna("")
    return joined[list(dict.fromkeys([*below, *joined]))]


def target(what: str, ours: float, n: int, stderr: float = math.nan, *, at_least: float | None = None,
           at_most: float | None = None) -> dict[str, object]:
    """Return a row on a measured number and what a notebook expects of it: claim, ours, bound, n, error, verdict.

    n: the items it is taken over. stderr: its standard error (nan: not sampled). Exactly one of the bounds is given.
    verdict: `holds` or `fails`, with `(within error)` where the bound is closer than two standard errors.
    """
    sign, bound = ("<=", at_most) if at_least is None else (">=", at_least)
    holds = ours <= bound if at_least is None else ours >= bound
    near = not math.isnan(stderr) and abs(ours - bound) < SIGMA * stderr
    return {"claim": what, "ours": f"{ours:.4g}", "bound": f"{sign} {bound:g}", "n": n,
            "error": "" if math.isnan(stderr) else f"{stderr:.4g}",
            "verdict": ("holds" if holds else "fails") + (" (within error)" if near else "")}


def in_points(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return columns of `frame` under new names, in their order, as text where they are numbers.

    names: column -> its new name; `points` is the value with its sign, `interval` goes from `low` to `high`.
    """
    interval = [f"{row.low:+.1f} to {row.high:+.1f}" for row in frame.itertuples()]
    worded = frame.assign(points=[f"{value:+.1f}" for value in frame["value"]], interval=interval)
    return worded[list(names)].rename(columns=names).reset_index(drop=True)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Return differences in points with their intervals, what is claimed of them, and verdicts, as text."""
    return in_points(frame.astype({"n": str}), {
        "what": "difference", "task": "task", "points": "points", "interval": "95 % interval", "claimed": "claimed",
        "n": "n", "verdict": "verdict"})


def decoding_differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Return JBP - MBP as text: what, the paper's difference (Table 4), ours, interval, n, verdict on "above 0".

    frame: rows with what, value, low, high, n, verdict, in points.
    """
    paper = published("table04_decoding").set_index("decoding")
    printed = [f"{paper.at['JBP', what] - paper.at['MBP', what]:+.1f}" if what in paper else ""
               for what in frame["what"]]
    return in_points(frame.assign(paper=printed), {"what": "JBP - MBP", "paper": "paper", "points": "ours",
                                                   "interval": "95 % interval", "n": "n", "verdict": "JBP ahead"})


def agreement_table(exposure: pd.DataFrame) -> pd.DataFrame:
    """Return how often boundaries agree with the router's, in percent of all bytes, one row per model and corpus."""
    sums = exposure.groupby(["model", "corpus", "text"])[["n", "deviating"]].sum().reset_index()
    sums = sums.assign(share=100 * (1 - sums["deviating"] / sums["n"]))
    return sums.pivot(index=["model", "corpus"], columns="text", values="share").reset_index().rename_axis(columns=None)


def by_noise(accuracy: pd.DataFrame, *, models: Sequence[str]) -> pd.DataFrame:
    """Return `value ± stderr` in percent, one row per task and noise, one column per model; the average is last.

    accuracy: rows with model, task, kind, value, stderr, chance.
    """
    of_first = accuracy[accuracy["model"] == models[0]].set_index(["task", "kind"])
    table = estimates(accuracy, rows=["task", "kind"], columns="model", order=models).set_index(["task", "kind"])
    table = table.assign(chance=of_first["chance"].map("{:.1f}".format), n=of_first["n"].astype(str))
    tasks = sorted(dict.fromkeys(accuracy["task"]), key="average".__eq__)
    return table.loc[[(task, kind) for task in tasks for kind in NOISE]].rename_axis(["task", "noise"]).reset_index()


def robustness_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Eq. 5 with its interval of 95 %, and Delta, one row per task and model, as text."""
    return pd.DataFrame([{"task": row.task, "model": row.model, SCORE: f"{row.value:.1f}",
                          "95 % interval": f"{row.low:.1f} to {row.high:.1f}", DELTA: f"{row.delta:.1f}",
                          "n": str(row.n)} for row in frame.itertuples()])


def robustness_with_paper(
    table: str, columns: Mapping[str, str], accuracy: pd.DataFrame, score: pd.DataFrame, *, task: str = "average"
) -> pd.DataFrame:
    """Return a published table's columns and ours, one row per metric; ours on one task or the average of all.

    columns: our model -> the paper's column. score: empty where no model is above chance. A score that is not defined
    is left empty.
    """
    ours = accuracy[accuracy["task"] == task].assign(metric=lambda rows: rows["kind"].map(NOISE.__getitem__))
    ours = ours.pivot(index="metric", columns="model", values="value")
    if len(score):
        scores = score[score["task"] == task].set_index("model")[["value", "delta"]]
        ours = pd.concat([ours, scores.set_axis([SCORE, DELTA], axis="columns").T])
    paper = published(table).set_index("metric")[list(columns.values())].set_axis(list(columns), axis="columns")
    both = [paper.add_prefix("paper, "), ours.reindex(columns=list(columns)).add_prefix("ours, ")]
    metrics = pd.Index([*NOISE.values(), SCORE, DELTA], name="metric")
    return pd.concat([half.reindex(metrics) for half in both], axis="columns").reset_index()


def literal(text: str) -> str:
    """Text for markdown, with each word that has a dollar sign as code: between two of them JupyterLab reads TeX."""
    return text if "`" in text else re.sub(r"[^\s,;]*\$[^\s,;]*", r"`\g<0>`", text)


def markdown(frame: pd.DataFrame, *, digits: int = 2) -> str:
    """Return the frame as a GitHub table, floats to `digits` decimals, missing ones empty, numbers to the right."""
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.{digits}f}"
        return literal(str(value)).replace("|", "\\|")

    rule = "|".join("---:" if pd.api.types.is_numeric_dtype(frame[column]) else "---" for column in frame)
    head, *rows = [" | ".join(map(cell, row)) for row in (frame, *frame.itertuples(index=False))]
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows)])


@dataclass(frozen=True)
class Table:
    """A frame that a notebook shows as a table, on GitHub too."""

    frame: pd.DataFrame
    digits: int = 2

    def __str__(self) -> str:
        return markdown(self.frame, digits=self.digits)

    _repr_markdown_ = __str__
