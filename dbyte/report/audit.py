"""The paper's arithmetic done again from its own printed numbers: one row a number, with the slack of rounding.

Every number here is read as text from published/, so its printed decimals say how far off it may be: half a unit of the
last one. A number that follows from others may differ by its own half unit and by what theirs do to it; of one quantity
printed in two places the coarser must be the rounding of the finer. Beyond that it is a `slip`. What is printed twice,
and what the numbers in sentences follow from, is listed in published/audit.toml.

A slip says that two printed numbers do not fit, not which of them is wrong. Where the paper leaves open whether two
numbers are of one model (Table 8's `distill` and Table 6's Stage 1), they are not compared here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean

import pandas as pd

from dbyte.evaluate.robustness import delta, robustness_score
from dbyte.report.published import entries, lines, number, quoted
from dbyte.report.tables import BENCHMARKS, DELTA, NOISE, SCORE

Rule = Callable[..., float]
Line = Mapping[str, str]  # column -> printed, of one model

VERDICTS = ("agrees", "slip", "not derivable")
CLEAN, NOISY, *KINDS = NOISE.values()
SAME_COLUMN = {CLEAN: "HellaS"}  # Tables 6 to 8 name it in full


def value(printed: str) -> float:
    """The number that is printed, `30B` as 30."""
    return float(printed.removesuffix("B"))


def half_unit(printed: str) -> float:
    """Half a unit of the last printed decimal: 0.05 for 9.8, 0.005 for 9.80."""
    return 0.5 * 10.0 ** Decimal(printed.removesuffix("B")).as_tuple().exponent


@dataclass(frozen=True)
class Check:
    """One printed number and what it should follow from: `rule` of the `sources`, which are printed numbers too.

    relation: `=`, or `<` and `>` for a bound. Without a rule the number cannot be derived.
    """

    where: str
    what: str
    printed: str
    sources: Sequence[str] = ()
    rule: Rule | None = None
    relation: str = "="

    @property
    def recomputed(self) -> float:
        """What the sources give, nan where nothing can be derived."""
        return self.rule(*map(value, self.sources)) if self.rule else math.nan

    @property
    def tolerance(self) -> float:
        """How far printed and recomputed may be apart by rounding alone: to first order, exact for sums and means."""
        if not self.rule:
            return math.nan
        own = half_unit(self.printed) if self.relation == "=" else 0.0  # a bound is meant as it stands
        of_sources = 0.0
        for index, printed in enumerate(self.sources):
            moved = list(map(value, self.sources))
            moved[index] += half_unit(printed)
            of_sources += abs(self.rule(*moved) - self.recomputed)
        return own + of_sources

    @property
    def verdict(self) -> str:
        """`agrees`, `slip` or `not derivable`."""
        if self.rule is None:
            return "not derivable"
        excess = self.recomputed - value(self.printed)
        beyond = {"=": abs(excess), "<": excess, ">": -excess}[self.relation] - self.tolerance
        return "slip" if beyond > 1e-9 else "agrees"


@dataclass(frozen=True)
class Copy(Check):
    """One quantity printed in two places: the coarser must be the rounding of the finer."""

    rule: Rule | None = float

    @property
    def tolerance(self) -> float:
        return max(map(half_unit, (self.printed, *self.sources)))


def _mean(*numbers: float) -> float:
    return fmean(numbers)


def _mean_drop(*numbers: float) -> float:
    """Mean of teacher - student; the first half of the numbers is the teacher's."""
    half = len(numbers) // 2
    return fmean(numbers[:half]) - fmean(numbers[half:])


def _difference_of_mean_drops(*numbers: float) -> float:
    half = len(numbers) // 2
    return _mean_drop(*numbers[:half]) - _mean_drop(*numbers[half:])


def _score(clean: float, noisy: float) -> float:
    return robustness_score(clean / 100, noisy / 100)  # HellaSwag has four choices: the default chance


def _jbp_symbols() -> float:
    """Both ranges hold 256, the first by its closed end: `len` of what is written, not of what is meant."""
    return len(range(0, 256 + 1)) + len(range(256, 512))


RULES = {  # by their names in audit.toml
    "sum": lambda *numbers: sum(numbers), "smallest": min, "largest": max,
    "difference": lambda one, other: one - other, "quotient": lambda one, other: one / other,
    "percent": lambda one, other: 100 * one / other, "mean drop": _mean_drop,
    "difference of mean drops": _difference_of_mean_drops, "symbols of JBP": _jbp_symbols,
}


def _pair(teacher: Line, student: Line) -> list[str]:
    """The cells of the columns that both lines have, the teacher's first."""
    shared = [name for name in BENCHMARKS if teacher.get(name) and student.get(name)]
    return [teacher[name] for name in shared] + [student[name] for name in shared]


def average_drops() -> Iterator[Check]:
    """Table 1: the mean loss against the teacher of the same method."""
    models = lines("table01_main")
    for name, student in models.items():
        if student["role"] != "teacher":
            teacher = models.get(f"{student['method']}, {student['model']}, teacher")
            sources, rule = (_pair(teacher, student), _mean_drop) if teacher else ((), None)
            yield Check("Table 1", f"average drop, {name}", student["avg_drop"], sources, rule)


def robustness() -> Iterator[Check]:
    """Tables 6 to 8: the mean of the five kinds of noise, then Eq. 5 and Delta of the two printed averages."""
    for noisy in ("table06_robustness", "table07_boundary_optimization", "table08_perturbed_finetuning"):
        where = f"Table {number(noisy)}"
        for name, line in lines(noisy).items():
            averages = (line[CLEAN], line[NOISY])
            yield Check(where, f"noise average, {name}", line[NOISY], [line[kind] for kind in KINDS], _mean)
            yield Check(where, f"robustness score by Eq. 5, {name}", line[SCORE], averages, _score)
            if DELTA in line:
                yield Check(where, f"Delta, {name}", line[DELTA], averages, delta)
    # One row for the definition, by the model where the two come closest: if that one fails, all do.
    yield min((Check("Table 6, caption", f"robustness score as a harmonic mean, {name}", line[SCORE],
                     (line[CLEAN], line[NOISY]), lambda clean, noisy: 2 / (1 / clean + 1 / noisy))
               for name, line in lines("table06_robustness").items()),
              key=lambda check: abs(check.recomputed - value(check.printed)))


def averages_of_seven() -> Iterator[Check]:
    """Table 11: the first row is the mean of the seven others."""
    for name, line in lines("table11_bolmo_comparison").items():
        yield Check("Table 11", f"average, {name}", line["Avg"], [line[task] for task in line if task != "Avg"], _mean)


def printed_twice() -> Iterator[Check]:
    """A quantity that several tables print: its first print against the one that is furthest from it."""
    for entry in entries("audit", "twice"):
        found = [(number(table), _columns(lines(table)[line])) for table, line in entry["prints"]]
        for column in dict.fromkeys(column for _, cells in found[1:] for column in cells):
            (first, printed), *others = [(table, cells[column]) for table, cells in found if column in cells]
            if others:
                table, other = max(others, key=lambda one: abs(value(one[1]) - value(printed)))
                where = f"Table {first}, twice" if table == first else f"Tables {first} and {table}"
                yield Copy(where, f"{column}, {entry['who']}", printed, (other,))


def _columns(line: Line) -> Line:
    """The accuracies of one line, and what is made of them, under Table 1's column names."""
    known = {*BENCHMARKS, *KINDS, CLEAN, NOISY, SCORE, DELTA}
    return {SAME_COLUMN.get(column, column): text for column, text in line.items() if column in known and text}


def _sources(entry: Mapping) -> list[str]:
    """The printed numbers that a rule of audit.toml takes."""
    models = lines(entry["table"]) if "table" in entry else {}
    sources = [models[line][column] for line, column in entry.get("cells", ())]
    for teacher, student in entry.get("drops", ()):
        sources += _pair(models[teacher], models[student])
    return sources


def in_sentences() -> Iterator[Check]:
    """The numbers that the paper's sentences quote, each from the tables; those of figures cannot be derived."""
    rules = {entry["id"]: entry for entry in entries("audit", "rule")}
    for row in quoted().itertuples():
        if row.table:
            yield Copy(row.where, row.what, row.printed, (lines(row.table)[row.line][row.column],))
        else:
            entry = rules.get(row.id, {})
            rule = RULES[entry["rule"]] if entry else None
            yield Check(row.where, row.what, row.printed, _sources(entry), rule, row.relation)


def table(checks: Iterable[Check]) -> pd.DataFrame:
    """One row a number: where, what, printed, recomputed, tolerance, verdict."""
    return pd.DataFrame([{
        "where": check.where, "what": check.what,
        "printed": check.printed if check.relation == "=" else f"{check.relation} {check.printed}",
        "recomputed": check.recomputed, "tolerance": check.tolerance, "verdict": check.verdict} for check in checks])


def audit() -> pd.DataFrame:
    """Every number of the paper that follows from others or stands there twice, as `table` shows it."""
    return table(check for part in (average_drops, robustness, averages_of_seven, printed_twice, in_sentences)
                 for check in part())


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """How many numbers of an audit agree, slip or cannot be derived: tables, repetitions, and sentences by section."""
    again = found["where"].str.startswith("Tables ") | found["where"].str.endswith(", twice")
    place = found["where"].mask(again, "printed in two places")
    counted = pd.crosstab(place, found["verdict"]).reindex(columns=VERDICTS, fill_value=0)
    return counted.rename_axis(columns=None).reset_index()
