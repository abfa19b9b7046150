"""The paper's arithmetic done again from its own printed numbers: one row per number, with the tolerance of rounding.

Every number here is read as text from published/, so its printed decimals say how far off it may be: half a unit of the
last one. A number that follows from others may differ by its own half unit and by what theirs do to it; of one quantity
printed in two places the coarser must be the rounding of the finer. Beyond that it is a `slip`. What follows from what,
and what is printed twice, is listed in published/audit.toml.

A slip says that two printed numbers do not fit, not which of them is wrong; those with one cause are counted as one,
too. Where two numbers under one label are not one model's, they are `another model`. Where the paper leaves open
whether two are of one model (Table 8's `distill` and Table 6's Stage 1), they are not compared here.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from statistics import fmean, harmonic_mean

import pandas as pd

from dbyte_paper.above_chance import robustness_score
from dbyte_paper.published import entries, lines, number, quoted
from dbyte_paper.tables import BENCHMARKS, DELTA, NOISE, SCORE

Rule = Callable[[Sequence[float]], float]
Line = Mapping[str, str]  # column -> printed, of one model

VERDICTS = ("agrees", "slip", "another model", "not derivable")
CLEAN, NOISY, *KINDS = NOISE.values()
SAME_COLUMN = {CLEAN: "HellaS"}  # Tables 6 to 8 name it in full


def value(printed: str) -> float:
    """The number that is printed, `30B` as 30."""
    return float(printed.removesuffix("B"))


def half_unit(printed: str) -> float:
    """Half a unit of the last printed decimal: 0.05 for 9.8, 0.005 for 9.80."""
    return 0.5 * 10.0 ** Decimal(printed.removesuffix("B")).as_tuple().exponent


def check(where: str, what: str, printed: str, sources: Sequence[str] = (), rule: Rule | None = None,
          relation: str = "=") -> dict:
    """Return one printed number as a row, next to what `rule` makes of the `sources`, which are printed numbers too.

    relation: `=`, or `<` and `>` for a bound. Without a rule the number cannot be derived. The tolerance is what
    rounding alone may do: to first order, exact for sums and means.
    """
    if rule is None:
        return _row(where, what, printed, math.nan, math.nan, relation)
    numbers = list(map(value, sources))
    recomputed = rule(numbers)
    of_sources = 0.0
    for index, source in enumerate(sources):
        moved = [*numbers[:index], numbers[index] + half_unit(source), *numbers[index + 1:]]
        of_sources += abs(rule(moved) - recomputed)
    own = half_unit(printed) if relation == "=" else 0.0  # a bound is meant as it stands
    return _row(where, what, printed, recomputed, own + of_sources, relation)


def copy(where: str, what: str, printed: str, other: str) -> dict:
    """Return one quantity printed in two places as a row: the coarser must be the rounding of the finer."""
    return _row(where, what, printed, value(other), max(half_unit(printed), half_unit(other)))


def _row(where: str, what: str, printed: str, recomputed: float, tolerance: float, relation: str = "=") -> dict:
    excess = recomputed - value(printed)
    beyond = {"=": abs(excess), "<": excess, ">": -excess}[relation] - tolerance
    verdict = "not derivable" if math.isnan(recomputed) else "slip" if beyond > 1e-9 else "agrees"
    return {"where": where, "what": what, "printed": printed if relation == "=" else f"{relation} {printed}",
            "recomputed": recomputed, "tolerance": tolerance, "verdict": verdict}


def _mean_drop(numbers: Sequence[float]) -> float:
    """Mean of teacher - student; the first half of the numbers is the teacher's."""
    half = len(numbers) // 2
    return fmean(numbers[:half]) - fmean(numbers[half:])


def _difference_of_mean_drops(numbers: Sequence[float]) -> float:
    half = len(numbers) // 2
    return _mean_drop(numbers[:half]) - _mean_drop(numbers[half:])


def _score(averages: Sequence[float]) -> float:
    clean, noisy = averages
    return robustness_score(clean / 100, noisy / 100)  # HellaSwag has four choices: the default chance


RULES = {  # by their names in audit.toml
    "sum": sum, "mean": fmean, "smallest": min, "largest": max, "mean drop": _mean_drop, "Eq. 5": _score,
    "difference": lambda pair: pair[0] - pair[1], "quotient": lambda pair: pair[0] / pair[1],
    "percent": lambda pair: 100 * pair[0] / pair[1], "difference of mean drops": _difference_of_mean_drops,
    # as the ranges are written, not as they are meant: both hold 256, the first by its closed end
    "symbols of JBP": lambda _: len(range(0, 256 + 1)) + len(range(256, 512)),
}


def _pair(teacher: Line, student: Line) -> list[str]:
    """The cells of the columns that both lines have, the teacher's first."""
    shared = [name for name in BENCHMARKS if teacher.get(name) and student.get(name)]
    return [teacher[name] for name in shared] + [student[name] for name in shared]


def average_drops() -> Iterator[dict]:
    """Table 1: the mean loss against the teacher of the same method."""
    models = lines("table01_main")
    for name, student in models.items():
        if student["role"] != "teacher":
            teacher = models.get(f"{student['method']}, {student['model']}, teacher")
            sources, rule = (_pair(teacher, student), _mean_drop) if teacher else ((), None)
            yield check("Table 1", f"average drop, {name}", student["avg_drop"], sources, rule)


def in_tables() -> Iterator[dict]:
    """The numbers that tables make of others of the same model, such as averages and the scores of Tables 6 to 8."""
    for entry in entries("audit", "each"):
        for table in entry["tables"]:
            for name, line in lines(table).items():
                yield from (check(f"Table {number(table)}", f"{each['what']}, {name}", line[each["column"]],
                                  [line[column] for column in each["of"]], RULES[each["rule"]])
                            for each in entry["numbers"] if each["column"] in line or not each.get("optional"))


def harmonic_scores() -> Iterator[dict]:
    """The caption of Table 6 by the model where it comes closest: if that one fails, all do."""
    yield min((check("Table 6, caption", f"robustness score as a harmonic mean, {name}", line[SCORE],
                     (line[CLEAN], line[NOISY]), harmonic_mean)
               for name, line in lines("table06_robustness").items()),
              key=lambda row: abs(row["recomputed"] - value(row["printed"])))


def printed_twice() -> Iterator[dict]:
    """A quantity that several tables print: its first print against the one that is furthest from it."""
    for entry in entries("audit", "twice"):
        found = [(number(table), _columns(lines(table)[line])) for table, line in entry["prints"]]
        for column in dict.fromkeys(column for _, cells in found[1:] for column in cells):
            (first, printed), *others = [(table, cells[column]) for table, cells in found if column in cells]
            if others:
                table, other = max(others, key=lambda one: abs(value(one[1]) - value(printed)))
                where = f"Table {first}, twice" if table == first else f"Tables {first} and {table}"
                row = copy(where, f"{column}, {entry['who']}", printed, other)
                yield row | {"verdict": "another model"} if entry.get("another") else row


def _columns(line: Line) -> Line:
    """The accuracies of one line, and what is made of them, under Table 1's column names."""
    known = {*BENCHMARKS, *KINDS, CLEAN, NOISY, SCORE, DELTA}
    return {SAME_COLUMN.get(column, column): text for column, text in line.items() if column in known and text}


def against() -> Iterator[dict]:
    """What is printed in two places that are no cells of one table."""
    for entry in entries("audit", "against"):
        yield copy(entry["where"], entry["what"], *entry["prints"])


def _sources(entry: Mapping) -> list[str]:
    """The printed numbers that a rule of audit.toml takes, from one table or several."""
    names = entry.get("table", ())
    models = {line: row for name in ([names] if isinstance(names, str) else names) for line, row in lines(name).items()}
    sources = [models[line][column] for line, column in entry.get("cells", ())]
    for teacher, student in entry.get("drops", ()):
        sources += _pair(models[teacher], models[student])
    return sources


def in_sentences() -> Iterator[dict]:
    """The numbers that the paper's sentences quote, each from the tables; those of figures cannot be derived."""
    rules = {entry["id"]: entry for entry in entries("audit", "rule")}
    for row in quoted().itertuples():
        if row.table:
            yield copy(row.where, row.what, row.printed, lines(row.table)[row.line][row.column])
        else:
            entry = rules.get(row.id, {})
            rule = RULES[entry["rule"]] if entry else None
            yield check(row.where, row.what, row.printed, _sources(entry), rule, row.relation)


def table(checks: Iterable[dict]) -> pd.DataFrame:
    """One row a number: where, what, printed, recomputed, tolerance, verdict."""
    return pd.DataFrame(list(checks))


def cause(row: Mapping) -> str:
    """What a slip comes from, by audit.toml; ValueError unless exactly one cause names it."""
    found = [entry["says"] for entry in entries("audit", "cause")
             if any(row["where"] == where and row["what"].startswith(what) for where, what in entry["slips"])]
    if len(found) != 1:
        raise ValueError(f"a slip needs one cause in audit.toml, found {found} for {row['where']}: {row['what']}")
    return found[0]


def audit() -> pd.DataFrame:
    """Every number of the paper that follows from others or stands there twice, as `table` has it; slips have a cause.

    Of other rows the cause is "".
    """
    parts = (average_drops, in_tables, harmonic_scores, printed_twice, against, in_sentences)
    return table(row | {"cause": cause(row) if row["verdict"] == "slip" else ""} for part in parts for row in part())


def causes(found: pd.DataFrame) -> pd.DataFrame:
    """The causes of the slips of an audit, in the order of audit.toml, and how many numbers each concerns."""
    counted = found.loc[found["cause"] != "", "cause"].value_counts()
    rows = [(entry["says"], int(counted.get(entry["says"], 0))) for entry in entries("audit", "cause")]
    return pd.DataFrame(rows, columns=["cause", "numbers"])


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """How many numbers of an audit agree, slip or cannot be derived: tables, repetitions, and sentences by section."""
    again = found["where"].str.startswith("Tables ") | found["where"].str.endswith(", twice")
    place = found["where"].mask(again, "printed in two places")
    counted = pd.crosstab(place, found["verdict"]).reindex(columns=VERDICTS, fill_value=0)
    return counted.rename_axis(columns=None).reset_index()
