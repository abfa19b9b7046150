"""The paper's arithmetic done again from its own printed numbers: one row a number, with the slack of rounding.

Every number here is read as text from published/, so its printed decimals say how far off it may be: half a unit of the
last one. A number that follows from others may differ by its own half unit and by what theirs do to it; of one quantity
printed in two places the coarser must be the rounding of the finer. Beyond that it is a `slip`.

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
from dbyte.report.published import number, published, quoted
from dbyte.report.tables import BENCHMARKS

Rule = Callable[..., float]
Line = Mapping[str, str]  # column -> printed, of one model

VERDICTS = ("agrees", "slip", "not derivable")
KINDS = ("AntSpeak", "Drop", "RandomCase", "Repeat", "Uppercase")
CLEAN, NOISY, SCORE, DELTA = "HellaSwag original", "HellaSwag noise avg", "robustness score", "delta"
SAME_COLUMN = {CLEAN: "HellaS"}  # Tables 6 to 8 name it in full
KEYS = {"table01_main": ["method", "model", "role"], "table10_teacher_scale": ["student", "method"]}
SIDEWAYS = ("metric", "task")  # the first column of tables with a column a model
LLAMA, QWEN = "Ours, Llama-3.2-3B", "Ours, Qwen3-4B"

# What is printed more than once: a name, then (table, line), first the one that the others are compared with.
TWICE = (
    ("teacher Llama 3.2 3B", ("table01_main", f"{LLAMA}, teacher"),
     ("table03_ablation_alignment", "baseline (teacher)"), ("table06_robustness", "llama-3.2-3b/baseline"),
     ("table07_boundary_optimization", "teacher"),
     ("table08_perturbed_finetuning", "origin/token"), ("table09_router", "baseline (teacher)")),
    ("teacher Llama 3.2 3B, H-Net's row", ("table01_main", f"{LLAMA}, teacher"),
     ("table01_main", "H-Net Distill, Llama-3.2-3B, teacher")),
    ("teacher Llama 3.2 3B, ALM's row", ("table01_main", f"{LLAMA}, teacher"),
     ("table01_main", "ALM, Llama-3.2-3B, teacher")),
    ("Stage 1 of Llama 3.2 3B", ("table01_main", f"{LLAMA}, stage1"), ("table06_robustness", "llama-3.2-3b/stage1"),
     ("table07_boundary_optimization", "stage1"), ("table09_router", "integrated router")),
    ("Stage 2 of Llama 3.2 3B", ("table01_main", f"{LLAMA}, stage2"), ("table06_robustness", "llama-3.2-3b/stage2")),
    ("teacher Qwen3 4B", ("table01_main", f"{QWEN}, teacher"), ("table06_robustness", "qwen3-4b/baseline"),
     ("table10_teacher_scale", "Qwen3-4B, baseline")),
    ("Stage 1 of Qwen3 4B", ("table01_main", f"{QWEN}, stage1"), ("table06_robustness", "qwen3-4b/stage1"),
     ("table10_teacher_scale", "Qwen3-4B, stage1")),
    ("Stage 2 of Qwen3 4B", ("table01_main", f"{QWEN}, stage2"), ("table04_decoding", "JBP"),
     ("table06_robustness", "qwen3-4b/stage2")),
)


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
        """How far printed and recomputed may be apart by rounding alone."""
        return _own_rounding(self) + _rounding_of_sources(self) if self.rule else math.nan

    @property
    def verdict(self) -> str:
        """`agrees`, `slip` or `not derivable`."""
        if self.rule is None:
            return "not derivable"
        excess = self.recomputed - value(self.printed)
        beyond = {"=": abs(excess), "<": excess, ">": -excess}[self.relation] - self.tolerance
        return "slip" if beyond > 1e-9 else "agrees"


class Copy(Check):
    """One quantity printed in two places: the coarser must be the rounding of the finer."""

    @property
    def tolerance(self) -> float:
        return max(map(half_unit, (self.printed, *self.sources)))


def _own_rounding(check: Check) -> float:
    return half_unit(check.printed) if check.relation == "=" else 0.0  # a bound is meant as it stands


def _rounding_of_sources(check: Check) -> float:
    """The sum of what half a unit on each source changes: exact for sums and means, to first order for Eq. 5."""
    numbers = list(map(value, check.sources))
    total = 0.0
    for index, printed in enumerate(check.sources):
        moved = numbers.copy()
        moved[index] += half_unit(printed)
        total += abs(check.rule(*moved) - check.recomputed)
    return total


def lines(name: str) -> dict[str, Line]:
    """Return a published table as model -> its printed cells, whether models are its rows or its columns."""
    frame = published(name, as_text=True)
    if frame.columns[0] in SIDEWAYS:
        return {model: dict(zip(frame.iloc[:, 0], frame[model], strict=True)) for model in frame.columns[1:]}
    keys = KEYS.get(name, [frame.columns[0]])
    return {", ".join(row[key] for key in keys): row for row in frame.to_dict("records")}


def _mean(*numbers: float) -> float:
    return fmean(numbers)


def _same(other: float) -> float:
    return other


def _mean_drop(*numbers: float) -> float:
    """Mean of teacher - student; the first half of the numbers is the teacher's."""
    half = len(numbers) // 2
    return fmean(numbers[:half]) - fmean(numbers[half:])


def _score(clean: float, noisy: float) -> float:
    return robustness_score(clean / 100, noisy / 100)  # HellaSwag has four choices: the default chance


def _harmonic(clean: float, noisy: float) -> float:
    return 2 / (1 / clean + 1 / noisy)


def _share(student: float, teacher: float) -> float:
    return 100 * student / teacher


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
                     (line[CLEAN], line[NOISY]), _harmonic) for name, line in lines("table06_robustness").items()),
              key=lambda check: abs(check.recomputed - value(check.printed)))


def averages_of_seven() -> Iterator[Check]:
    """Table 11: the first row is the mean of the seven others."""
    for name, line in lines("table11_bolmo_comparison").items():
        yield Check("Table 11", f"average, {name}", line["Avg"], [line[task] for task in line if task != "Avg"], _mean)


def printed_twice() -> Iterator[Check]:
    """A quantity that several tables print: its first print against the one that is furthest from it."""
    for who, (first, name), *others in TWICE:
        reference = _columns(first, name)
        elsewhere = [(source, _columns(source, line)) for source, line in others]
        for column in dict.fromkeys(column for _, line in elsewhere for column in line):
            prints = [(source, line[column]) for source, line in [(first, reference), *elsewhere] if column in line]
            if len(prints) > 1:
                yield _furthest(prints, what=f"{column}, {who}")


def _furthest(prints: Sequence[tuple[str, str]], *, what: str) -> Check:
    """The first of several (table, printed) against the one that is furthest from it."""
    (held, printed), *others = prints
    source, other = max(others, key=lambda found: abs(value(found[1]) - value(printed)))
    where = f"Table {number(held)}, twice" if source == held else f"Tables {number(held)} and {number(source)}"
    return Copy(where, what, printed, (other,), _same)


def _columns(source: str, name: str) -> Line:
    """The accuracies of one line, and what is made of them, under Table 1's column names."""
    known = {*BENCHMARKS, *KINDS, CLEAN, NOISY, SCORE, DELTA}
    return {SAME_COLUMN.get(column, column): text for column, text in lines(source)[name].items()
            if column in known and text}


def _jbp_symbols() -> float:
    """Both ranges hold 256, the first by its closed end: `len` of what is written, not of what is meant."""
    return len(range(0, 256 + 1)) + len(range(256, 512))


def _rules() -> dict[str, tuple[Sequence[str], Rule]]:
    """What a quoted number that stands in no table follows from, by its id in quoted.csv."""
    main, tuned, optimized = (lines(source) for source in (
        "table01_main", "table08_perturbed_finetuning", "table07_boundary_optimization"))
    hnet, hnet_teacher = (main[f"H-Net Distill, Llama-3.2-3B, {role}"] for role in ("student", "teacher"))
    model = {short: {role: main[f"{name}, {role}"] for role in ("teacher", "stage1", "stage2")}
             for short, name in (("Llama", LLAMA), ("Qwen", QWEN))}
    rules = {
        "training bytes": ([model["Llama"][stage]["train_bytes"] for stage in ("stage1", "stage2")], lambda *x: sum(x)),
        "JBP symbols": ((), _jbp_symbols),
        "fold": ((hnet["train_bytes"], model["Llama"]["stage1"]["train_bytes"]), lambda theirs, ours: theirs / ours),
        "drop H-Net": (_pair(hnet_teacher, hnet), _mean_drop),
        "drop ALM": (_pair(*(main[f"ALM, Llama-3.2-3B, {role}"] for role in ("teacher", "student"))), _mean_drop),
        "Stage 2 below H-Net": (_pair(model["Llama"]["teacher"], model["Llama"]["stage2"]) + _pair(hnet_teacher, hnet),
                                lambda *x: _mean_drop(*x[:len(x) // 2]) - _mean_drop(*x[len(x) // 2:])),
        "MBP ahead on MMLU": ([lines("table04_decoding")[name]["MMLU"] for name in ("MBP", "JBP")], lambda a, b: a - b),
        "lowest Delta": ([line[DELTA] for line in optimized.values()], min),
        "highest score": ([line[SCORE] for line in tuned.values()], max),
        "BLT average": ([line["Avg"] for name, line in lines("table11_bolmo_comparison").items()
                         if name != "OLMo 2 1B"], max),
    }
    for short, of in model.items():
        rules[f"MMLU kept {short}"] = ([of[role]["MMLU"] for role in ("stage2", "teacher")], _share)
        for stage in ("stage1", "stage2"):
            rules[f"drop Stage {stage[-1]} {short}"] = (_pair(of["teacher"], of[stage]), _mean_drop)
    for name, larger in lines("table10_teacher_scale").items():
        if "(teacher" in name:
            student = name.split(",")[0]
            own = lines("table10_teacher_scale")[f"{student}, stage1"]
            rules[f"own-size teacher {student}"] = (_pair(own, larger), _mean_drop)
    for when, group in (("before", "origin"), ("after", "finetuned")):
        rules[f"noise ahead {when}"] = ([tuned[f"{group}/{who}"][NOISY] for who in ("distill", "token")],
                                        lambda student, teacher: student - teacher)
    return rules


def in_sentences() -> Iterator[Check]:
    """The numbers that the paper's sentences quote, each from the tables; those of figures cannot be derived."""
    rules = _rules()
    for row in quoted().itertuples():
        if row.table:
            yield Copy(row.where, row.what, row.printed, (lines(row.table)[row.line][row.column],), _same)
        else:
            sources, rule = rules.get(row.id, ((), None))
            yield Check(row.where, row.what, row.printed, sources, rule, row.relation)


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
