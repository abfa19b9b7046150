"""Tables of `paper / ours / n / error / verdict`, and the two summaries of the paper's Table 1, always from the rows.

Average drop: the mean over the columns that both rows have of teacher - student, in percentage points. Retention: 100
times the student's mean over the teacher's on those columns, in percent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dbyte.evaluate.stats import Interval
from dbyte.report.published import published

BENCHMARKS = ("LMB", "HellaS", "PIQA", "ARC-E", "ARC-C", "WINO", "OBQA", "MMLU", "GSM8K")
SIGMA = 2.0  # standard errors within which a measured number and a bound are not told apart


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, in the unit of the rows it came from."""

    value: float
    stderr: float = math.nan

    def __str__(self) -> str:
        return f"{self.value:.1f}" if math.isnan(self.stderr) else f"{self.value:.1f} ± {self.stderr:.1f}"


def _common(teacher: Mapping[str, float], student: Mapping[str, float]) -> list[str]:
    # keys(): a pandas Series is welcome, and iterating one gives its values.
    common = [name for name in teacher.keys()
              if not (math.isnan(teacher[name]) or math.isnan(student.get(name, math.nan)))]
    if not common:
        raise ValueError(f"teacher and student share no column: {list(teacher.keys())} and {list(student.keys())}")
    return common


def _square_sum(stderr: Mapping[str, float] | None, columns: Sequence[str]) -> float:
    return math.nan if stderr is None else sum(stderr[name] ** 2 for name in columns)


def average_drop(teacher: Mapping[str, float], student: Mapping[str, float], *,
                 teacher_stderr: Mapping[str, float] | None = None,
                 student_stderr: Mapping[str, float] | None = None) -> Estimate:
    """Return the mean of teacher - student over the columns both have (a nan is a missing column).

    The standard error treats the two as independent; on the same items they are not, which makes it too wide, never too
    narrow where they agree. Raises ValueError where they share no column.
    """
    columns = _common(teacher, student)
    drop = sum(teacher[name] - student[name] for name in columns) / len(columns)
    variance = _square_sum(teacher_stderr, columns) + _square_sum(student_stderr, columns)
    return Estimate(drop, math.sqrt(variance) / len(columns))


def retention(teacher: Mapping[str, float], student: Mapping[str, float], *,
              teacher_stderr: Mapping[str, float] | None = None,
              student_stderr: Mapping[str, float] | None = None) -> Estimate:
    """Return 100 * mean(student) / mean(teacher) over the columns both have, with its first-order standard error.

    Raises ValueError where they share no column or the teacher's mean is 0.
    """
    columns = _common(teacher, student)
    teacher_sum, student_sum = sum(teacher[name] for name in columns), sum(student[name] for name in columns)
    if teacher_sum == 0:
        raise ValueError("the teacher scores 0 on every column: nothing can be retained")
    ratio = student_sum / teacher_sum
    variance = _square_sum(student_stderr, columns) + ratio**2 * _square_sum(teacher_stderr, columns)
    return Estimate(100 * ratio, 100 * math.sqrt(variance) / teacher_sum)


def wide(frame: pd.DataFrame, *, rows: str = "model", columns: str = "task", values: str = "value") -> pd.DataFrame:
    """Return tidy results as one row a `rows` key and one column a `columns` key, benchmarks in the paper's order."""
    table = frame.pivot(index=rows, columns=columns, values=values)
    order = [name for name in BENCHMARKS if name in table] + [name for name in table if name not in BENCHMARKS]
    return table[order]


def estimates(frame: pd.DataFrame, *, rows: Sequence[str], columns: str, order: Sequence[str],
              digits: int = 1) -> pd.DataFrame:
    """Return tidy results as text `value ± stderr`, a row a value of `rows` and a column a value of `columns`.

    order: the columns in this order, those that the frame has.
    """
    cells = [f"{row.value:.{digits}f}" + ("" if math.isnan(row.stderr) else f" ± {row.stderr:.{digits}f}")
             for row in frame.itertuples()]
    return words(frame.assign(cell=cells), rows=rows, columns=columns, order=order, values="cell")


def words(frame: pd.DataFrame, *, rows: Sequence[str], columns: str, order: Sequence[str], values: str) -> pd.DataFrame:
    """Return a column of words of tidy results as a table, empty where a row is missing; see `estimates`."""
    table = frame.pivot(index=list(rows), columns=columns, values=values).fillna("")
    return table[[name for name in order if name in table]].reset_index().rename_axis(columns=None)


def main_table(frame: pd.DataFrame, *, teacher: str = "teacher") -> pd.DataFrame:
    """Return Table 1 for our rows: a `value ± stderr` column a task, `average drop` and `retention %`, teacher first.

    frame: tidy results with the keys model and task, accuracies in percent. Raises ValueError without a teacher row.
    """
    values, errors = wide(frame), wide(frame, values="stderr")
    if teacher not in values.index:
        raise ValueError(f"expected a model {teacher!r} to compare with, found {sorted(values.index)}")
    table = {}
    for model in sorted(values.index, key=lambda name: (name != teacher, name)):
        table[model] = {task: str(Estimate(values.at[model, task], errors.at[model, task])) for task in values}
        if model != teacher:
            pair, error = (values.loc[teacher], values.loc[model]), (errors.loc[teacher], errors.loc[model])
            table[model]["average drop"] = str(average_drop(*pair, teacher_stderr=error[0], student_stderr=error[1]))
            if pair[0].any():  # of nothing, nothing is kept: the cell stays empty
                table[model]["retention %"] = str(retention(*pair, teacher_stderr=error[0], student_stderr=error[1]))
    return pd.DataFrame.from_dict(table, orient="index").fillna("").rename_axis("model").reset_index()


@dataclass(frozen=True)
class Claim:
    """One statement of a paper beside what was measured: `ours` shall reach `at_least` or stay under `at_most`.

    paper is the published number (nan: none), n the items behind `ours`, stderr its standard error (nan: not sampled).
    Without a bound the claim is only reported. Raises ValueError for two bounds or n < 1.
    """

    what: str
    ours: float
    n: int
    stderr: float = math.nan
    paper: float = math.nan
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is not None and self.at_most is not None:
            raise ValueError(f"claim {self.what!r} has two bounds: state it as two claims")
        if self.n < 1:
            raise ValueError(f"claim {self.what!r} needs n >= 1, found {self.n}")

    @classmethod
    def of_interval(cls, what: str, interval: Interval, n: int, **rest: float) -> "Claim":
        """Return the claim on an estimate with its 95 % interval, whose quarter is the standard error."""
        return cls(what, interval.value, n, (interval.high - interval.low) / 4, **rest)

    @property
    def verdict(self) -> str:
        """`holds`, `fails`, either with `(within error)` where the bound is closer than two standard errors."""
        if self.at_least is None and self.at_most is None:
            return "reported"
        margin = self.ours - self.at_least if self.at_most is None else self.at_most - self.ours
        error = 0.0 if math.isnan(self.stderr) else self.stderr
        return ("holds" if margin >= 0 else "fails") + (" (within error)" if abs(margin) < SIGMA * error else "")


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """Return the claims as a table of text: claim, paper, ours, bound, n, error, verdict."""
    def number(value: float | None) -> str:
        return "" if value is None or math.isnan(value) else f"{value:.4g}"

    return pd.DataFrame([{
        "claim": claim.what, "paper": number(claim.paper), "ours": number(claim.ours),
        "bound": f">= {claim.at_least:g}" if claim.at_least is not None
                 else f"<= {claim.at_most:g}" if claim.at_most is not None else "",
        "n": claim.n, "error": number(claim.stderr), "verdict": claim.verdict,
    } for claim in claims])


def beside_table4(differences: pd.DataFrame) -> pd.DataFrame:
    """Return JBP - MBP as text: what, the paper's difference (Table 4), ours, interval, n, verdict on "above 0".

    differences: rows with what, value, low, high, n, verdict, in points.
    """
    paper = published("table04_decoding").set_index("decoding")
    return pd.DataFrame([{
        "JBP - MBP": row.what,
        "paper": f"{paper.at['JBP', row.what] - paper.at['MBP', row.what]:+.1f}" if row.what in paper else "",
        "ours": f"{row.value:+.1f}", "95 % interval": f"{row.low:+.1f} to {row.high:+.1f}", "n": row.n,
        "JBP ahead": row.verdict} for row in differences.itertuples()])


def agreement_table(exposure: pd.DataFrame) -> pd.DataFrame:
    """Return the share of cuts that agree with the router's over all bytes, in percent, a row a model and corpus."""
    sums = exposure.groupby(["model", "corpus", "text"])[["n", "deviating"]].sum().reset_index()
    sums = sums.assign(share=100 * (1 - sums["deviating"] / sums["n"]))
    return sums.pivot(index=["model", "corpus"], columns="text", values="share").reset_index().rename_axis(columns=None)


def markdown(frame: pd.DataFrame, *, digits: int = 2) -> str:
    """Return the frame as a GitHub table, floats to `digits` decimals, missing ones empty, numbers to the right."""
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.{digits}f}"
        return str(value).replace("|", "\\|")

    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    lines = ["| " + " | ".join(map(cell, frame)) + " |",
             "|" + "|".join("---:" if right else "---" for right in numeric) + "|"]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A frame that a notebook shows as a table, on GitHub too."""

    frame: pd.DataFrame
    digits: int = 2

    def __str__(self) -> str:
        return markdown(self.frame, digits=self.digits)

    _repr_markdown_ = __str__
