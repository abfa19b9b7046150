"""How a claim is judged by results/<scale>/: a number with its interval from their rows, then evaluate/stats.verdict.

A claim has one criterion or several, each "this number is above (or below) that threshold"; it is shown if all are,
opposite if one is, else not shown. A claim of "several columns" is shown if one is and opposite if all are. The
criterion that decides gives the claim its number. What has no results is not yet measured, and the reason names the
notebook that would measure it.

Rows of one file are taken as independent where only their standard errors are known. Models that answer the same items
are not, which makes an interval too wide, not too narrow, where they agree. Files of differences hold paired intervals.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dbyte.evaluate.stats import Z95, Estimate, verdict
from dbyte.paths import NOTEBOOKS
from dbyte.report import tables

ORDER = ("opposite", "not shown", "shown")  # of several criteria, the first of these that occurs decides
UNMEASURED = "not yet measured"
VERDICTS = ("shown", "not shown", "opposite", UNMEASURED)


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval, its items and seeds, its file, and the threshold named there (or nan)."""

    value: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]
    file: str
    threshold: float = math.nan


Read = Callable[[str], pd.DataFrame]  # the name of a results file -> its rows; FileNotFoundError where there are none
Measure = Callable[[Read], Measured]


class NotMeasured(LookupError):
    """A results file exists but holds nothing by which a claim could be judged."""


@dataclass(frozen=True)
class Row:
    """Names one row of a results file by its keys; of several, `pick` takes the first or last by training bytes."""

    file: str
    where: Mapping[str, str]
    pick: str | None = None

    def of(self, read: Read) -> pd.Series:
        """The row; NotMeasured where none fits, ValueError where several do."""
        frame = read(self.file)
        chosen = _fitting(frame, self.where)
        if chosen.empty:
            raise NotMeasured(f"{frame.attrs['file']} has no row with {_words(self.where)}")
        if self.pick:
            chosen = chosen.sort_values("train_bytes").iloc[[{"first": 0, "last": -1}[self.pick]]]
        if len(chosen) > 1:
            raise ValueError(f"{frame.attrs['file']} has {len(chosen)} rows with {_words(self.where)}: name one")
        return chosen.iloc[0]


def row(file: str, **where: str) -> Measure:
    """One row as it stands: its own interval where it has one, else 1.96 standard errors."""
    def measure(read: Read) -> Measured:
        found = Row(file, where).of(read)
        seeds = _seeds(read(file))
        if {"low", "high"} <= set(found.index):
            return Measured(found.value, found.low, found.high, int(found.n), seeds, file,
                            found.get("threshold", math.nan))
        return _around(found.value, found.stderr, int(found.n), seeds, file)
    return measure


def total(*terms: tuple[float, Row]) -> Measure:
    """A weighted sum of rows, of one file: (1, a), (-1, b) is a difference."""
    def measure(read: Read) -> Measured:
        found = [(weight, term.of(read)) for weight, term in terms]
        file = terms[0][1].file
        n = sum(int(one.n) for _, one in found)
        stderr = math.sqrt(sum((weight * one.stderr) ** 2 for weight, one in found))
        return _around(sum(weight * one.value for weight, one in found), stderr, n, _seeds(read(file)), file)
    return measure


def share(one: Row, other: Row) -> Measure:
    """One row over another of its file, in percent, with its first-order error."""
    def measure(read: Read) -> Measured:
        top = one.of(read)
        found = _retained(*(pd.DataFrame([row], index=[""]) for row in (other.of(read), top)))
        return _around(found.value, found.stderr, int(top.n), _seeds(read(one.file)), one.file)
    return measure


def kept(file: str, model: str, *, teacher: str = "teacher") -> Measure:
    """The share of its teacher's average over the paper's columns that a model keeps, in percent."""
    return _of_averages(file, (teacher, model), _retained)


def ahead(file: str, one: str, other: str) -> Measure:
    """By how many points one model is ahead of another on average over the paper's columns."""
    return _of_averages(file, (one, other), tables.average_drop)


def _of_averages(file: str, names: tuple[str, str], compared: Callable[..., Estimate]) -> Measure:
    def measure(read: Read) -> Measured:
        frame = read(file)
        if lost := sorted(set(names) - set(frame["model"])):
            raise NotMeasured(f"{frame.attrs['file']} has no row with {_words({'model': lost[0]})}")
        rows = tables.of_paper(frame)
        one, other = (rows[rows["model"] == name].set_index("task") for name in names)
        found = compared(one, other)
        return _around(found.value, found.stderr, int(other["n"].sum()), _seeds(frame), file)
    return measure


def _retained(teacher: pd.DataFrame, student: pd.DataFrame) -> Estimate:
    """The student's share of its teacher in percent; NotMeasured where the teacher has nothing."""
    try:
        return tables.retention_of_means(teacher, student)
    except ValueError as error:
        raise NotMeasured(str(error)) from error


def _fitting(frame: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """The rows with these keys; none where the file has no such column."""
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted] if column in frame else frame.iloc[:0]
    return frame


def _around(value: float, stderr: float, n: int, seeds: tuple[int, ...], file: str) -> Measured:
    half = 0.0 if math.isnan(stderr) else Z95 * stderr
    return Measured(float(value), float(value - half), float(value + half), n, seeds, file)


def _seeds(frame: pd.DataFrame) -> tuple[int, ...]:
    return tuple(frame.attrs["provenance"]["seeds"])


def _words(where: Mapping[str, str]) -> str:
    return ", ".join(f"{column} {wanted!r}" for column, wanted in where.items())


@dataclass(frozen=True)
class Criterion:
    """A number and the side of a threshold where the claim puts it; `part` names it where a claim has several.

    threshold: None for the one that the results name with the number.
    """

    measure: Measure
    direction: str = "above"
    threshold: float | None = 0.0
    part: str = ""

    def bound(self, found: Measured) -> float:
        return found.threshold if self.threshold is None else self.threshold

    def asked(self, found: Measured) -> str:
        return f"{self.part} {self.direction} {self.bound(found):.4g}".strip()

    def verdict(self, found: Measured) -> str:
        return verdict(found.low, found.high, threshold=self.bound(found), direction=self.direction)


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, in our words, the notebook that measures it, and the criteria that judge it.

    paper: its own number in `unit` (nan: it gives none). some: one criterion is enough. Without criteria
    nothing here can judge it yet.
    """

    id: str
    where: str
    says: str
    notebook: str
    criteria: tuple[Criterion, ...] = ()
    unit: str = "points"
    paper: float = math.nan
    some: bool = False


@dataclass(frozen=True)
class Finding:
    """What the results say about a claim: the criterion that decided and its number, or why there is none."""

    verdict: str
    criterion: Criterion | None = None
    measured: Measured | None = None
    why: str = ""


def judge(claim: Claim, read: Read, *, notebooks: Path = NOTEBOOKS) -> Finding:
    """Judge one claim by the results that `read` finds."""
    if not (notebooks / f"{claim.notebook}.py").exists():
        return Finding(UNMEASURED, why=f"notebook {claim.notebook} is not written yet")
    if not claim.criteria:
        return Finding(UNMEASURED, why=f"notebook {claim.notebook} does not measure it yet")
    try:
        found = [(criterion, criterion.measure(read)) for criterion in claim.criteria]
    except FileNotFoundError:
        return Finding(UNMEASURED, why=f"notebook {claim.notebook} has not run at this scale")
    except NotMeasured as error:
        return Finding(UNMEASURED, why=str(error))
    decide = max if claim.some else min
    criterion, measured = decide(found, key=lambda pair: ORDER.index(pair[0].verdict(pair[1])))
    return Finding(criterion.verdict(measured), criterion, measured)
