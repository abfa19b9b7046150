"""The claims of the paper, read from published/claims.toml, and their verdicts by results/<scale>/.

A claim has one criterion or several, each "this number is above (or below) that threshold"; it is shown if all are,
opposite if one is, else not shown, or equal if none is undecided. A claim of "several columns" is shown if one is and
opposite if all are. The criterion that decides gives the claim its number. What could have told nothing is
uninformative (fairness.py), what has no results is not measured, and the reason says why. Of the primary claims, one a
question of the paper, a verdict must also pass Holm's test among all of them; the others are exploratory. A new claim
is one more entry of that file, which opens with what its fields mean.

Rows of one file are taken as independent where only their standard errors are known. Models that answer the same items
are not, which makes an interval too wide, not too narrow, where they agree. Files of differences hold paired intervals.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

import pandas as pd

from dbyte.evaluate.stats import LEVEL, Z95, Estimate, Interval, verdict
from dbyte.paths import NOTEBOOKS, RESULTS
from dbyte.presets import Scale
from dbyte_paper.fairness import departures, unlike, widened, without_room
from dbyte_paper.nested import holm, p_value
from dbyte_paper.published import entries, lines, quoted
from dbyte_paper.results import read_if_any, read_results
from dbyte_paper.tables import BENCHMARKS, average_drop, of_paper, retention_of_means

KINDS = ("row", "kept", "ahead", "share", "total")  # of numbers, each a field of a criterion
FIELDS = {*KINDS, "file", "scale", "optional", "each_corpus", "every_student", "part", "above", "below", "column",
          "pick", "sides"}
ORDER = ("opposite", "not shown", "equal", "shown")  # of several criteria, the first of these that occurs decides
UNMEASURED = "not measured"
UNINFORMATIVE = "uninformative"
VERDICTS = (*reversed(ORDER), UNINFORMATIVE, UNMEASURED)
# The name of a results file, and `scale=` if it is another's, -> its rows; FileNotFoundError where there are none.
Read = Callable[..., pd.DataFrame]


class NotMeasured(LookupError):
    """A results file exists but holds nothing by which a claim could be judged."""


@dataclass(frozen=True)
class Measurement:
    """A number with its 95 % interval, its items, and the threshold that the results name with it (or nan)."""

    value: float
    low: float
    high: float
    n: int
    threshold: float = math.nan


@dataclass(frozen=True)
class Criterion:
    """A number and the side of a threshold where the claim puts it; `part` names it where a claim has several.

    entry: the file and one of KINDS, as in claims.toml. where: keys of all its rows. threshold: None for the one that
    the results name with the number.
    """

    entry: Mapping
    direction: str = "above"
    threshold: float | None = 0.0
    part: str = ""
    where: Mapping[str, str] = field(default_factory=dict)

    def bound(self, found: Measurement) -> float:
        return found.threshold if self.threshold is None else self.threshold

    def verdict(self, found: Measurement) -> str:
        return verdict(found.low, found.high, threshold=self.bound(found), direction=self.direction)


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, in our words, the notebook that measures it, and the criteria that judge it.

    paper: its own number in `unit` (nan: it gives none). some: one criterion is enough. Without criteria
    nothing here can judge it yet. fair: what must hold before it is judged, each with its reason as `part`. alike,
    recipe: as `fairness.unlike` and `fairness.departures` take them. primary: one of those that Holm's test is among.
    """

    id: str
    where: str
    says: str
    notebook: str
    criteria: tuple[Criterion, ...] = ()
    unit: str = "points"
    paper: float = math.nan
    some: bool = False
    fair: tuple[Criterion, ...] = ()
    alike: Mapping = field(default_factory=dict)
    recipe: tuple[str, ...] = ()
    primary: bool = False


# -- from claims.toml --------------------------------------------------------------------------------------------------


def every_claim(scale: Scale) -> tuple[Claim, ...]:
    """Return every claim in the order of the paper; boundaries are counted on held-out text of the scale's corpora.

    Raises ValueError that names the first entry of claims.toml that is not a claim.
    """
    corpora = sorted(name for name, _ in scale.corpora)
    return tuple(read_claim(entry, corpora) for entry in entries("claims", "claim"))


def read_claim(entry: Mapping, corpora: Sequence[str]) -> Claim:
    """Return the claim that an entry of claims.toml describes; raises ValueError with its id where it does not."""
    try:
        paper = printed(entry["paper"]) if "paper" in entry else math.nan
        tests = entries("claims", "fair")
        lists = {"criteria": entry.get("criteria", ()), "fair": [tests[name] for name in entry.get("fair", ())]}
        return Claim(**entry | {"paper": paper} | {name: tuple(
            one for each in listed for one in _criteria(each, paper, corpora)) for name, listed in lists.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"claim {entry.get('id')!r} in claims.toml, whose head explains the fields: {error!r}"
                         ) from error


def printed(source: Mapping) -> float:
    """Return the number of the paper that `source` describes: `paper`, or a threshold, of claims.toml."""
    if "quoted" in source:
        return source.get("factor", 1) * float(quoted().set_index("id").at[source["quoted"], "printed"])
    table = lines(source["table"])
    column = source.get("column")
    line = table[source["line"]]
    if "over" in source:
        return 100 * float(line[column]) / float(table[source["over"]][column])
    if "minus" not in source:
        return float(line[column])
    columns = [column] if column else [name for name in BENCHMARKS if name in line]
    each = [float(line[name]) - float(table[source["minus"]][name]) for name in columns]
    ahead = 100 * fmean(one > 0 for one in each) if source.get("columns") else fmean(each)
    return ahead - printed(source | {"beyond": None} | source["beyond"]) if source.get("beyond") else ahead


def _criteria(entry: Mapping, paper: float, corpora: Sequence[str]) -> Iterator[Criterion]:
    """Yield one criterion, or one for each corpus."""
    if unknown := sorted(set(entry) - FIELDS):
        raise ValueError(f"a criterion has no {', '.join(unknown)}")
    sides = [name for name in ("above", "below") if name in entry]
    kinds = [name for name in KINDS if name in entry]
    if len(sides) != 1 or len(kinds) != 1 or "file" not in entry:
        raise ValueError(f"a criterion needs a `file`, one of {', '.join(KINDS)}, and `above` or `below`, "
                         f"found {', '.join(entry)}")
    threshold = entry[sides[0]]
    if threshold in ("results", "paper"):
        threshold = paper if threshold == "paper" else None
    elif isinstance(threshold, Mapping):
        threshold = printed(threshold)
    part = entry.get("part", "")
    if not entry.get("each_corpus"):
        yield Criterion(entry, sides[0], threshold, part)
        for other in entries("claims", "student") if entry.get("every_student") else ():
            asked = entry[kinds[0]]
            named = other["names"][asked] if isinstance(asked, str) else [other["names"][name] for name in asked]
            yield Criterion(other | {"optional": True, kinds[0]: named}, sides[0], threshold, other["part"])
        return
    for corpus in corpora:
        yield Criterion(entry, sides[0], threshold, f"{part} {corpus},".strip(), {"corpus": corpus})


# -- a number from the rows of a file ---------------------------------------------------------------------------------


def measure(criterion: Criterion, frame: pd.DataFrame) -> Measurement:
    """Return the number of a criterion from the rows of its file; NotMeasured where they do not have it."""
    entry = criterion.entry
    if "near_chance" in frame:
        frame = frame[frame["near_chance"].fillna("") == ""]
    if "kept" in entry:
        return _of_averages(frame, "teacher", entry["kept"], _retained)
    if "ahead" in entry:
        return _of_averages(frame, *entry["ahead"], average_drop)
    terms = entry.get("total") or entry.get("share") or [entry]
    found = [find(frame, {**criterion.where, **term["row"]}, term.get("pick")) for term in terms]
    if "total" in entry:
        weighted = [(term["weight"], one) for term, one in zip(terms, found, strict=True)]
        value = sum(weight * one.value for weight, one in weighted)
        error = math.hypot(*(weight * one.stderr for weight, one in weighted))
        return _around(Estimate(value, error, sum(one.n for one in found)))
    one = found[0]
    if column := entry.get("column"):
        if column not in one:
            raise NotMeasured(f"{frame.attrs['file']} does not record {column}")
        return Measurement(one[column], one[column], one[column], int(one.n))
    if "share" in entry:
        student, teacher = (pd.DataFrame([each], index=[""]) for each in found)
        return _around(replace(_retained(teacher, student), n=one.n))
    if {"low", "high"} <= set(one.index):
        return Measurement(one.value, one.low, one.high, int(one.n), one.get("threshold", math.nan))
    return _around(one)


def find(frame: pd.DataFrame, where: Mapping[str, str], pick: str | None = None) -> pd.Series:
    """Return the row with these keys; of several, `pick` takes the "first" or "last" by training bytes.

    NotMeasured where none fits, as in a file without such a column; ValueError where several do.
    """
    known = set(where) <= set(frame)
    rows = frame[(frame[list(where)] == list(where.values())).all(axis="columns")] if known else frame.iloc[:0]
    named = f"with {', '.join(f'{column} {wanted!r}' for column, wanted in where.items())}"
    if rows.empty:
        raise NotMeasured(f"{frame.attrs['file']} has no row {named}")
    if pick:
        rows = rows.sort_values("train_bytes").iloc[[{"first": 0, "last": -1}[pick]]]
    if len(rows) > 1:
        raise ValueError(f"{frame.attrs['file']} has {len(rows)} rows {named}: name one")
    return rows.iloc[0]


def _of_averages(frame: pd.DataFrame, one: str, other: str, compared: Callable[..., Estimate]) -> Measurement:
    """Two models compared by their averages over the paper's columns."""
    models = {name: rows.set_index("task") for name, rows in of_paper(frame).groupby("model")}
    if lost := sorted({one, other} - set(models)):
        raise NotMeasured(f"{frame.attrs['file']} has no row with model {lost[0]!r}")
    return _around(replace(compared(models[one], models[other]), n=models[other]["n"].sum()))


def _retained(teacher: pd.DataFrame, student: pd.DataFrame) -> Estimate:
    """The student's share of its teacher in percent; NotMeasured where the teacher has nothing."""
    try:
        return retention_of_means(teacher, student)
    except ValueError as error:
        raise NotMeasured(str(error)) from error


def _around(found: Estimate | pd.Series) -> Measurement:
    """An estimate with its normal interval, which is empty where nothing was sampled."""
    half = 0.0 if math.isnan(found.stderr) else Z95 * found.stderr
    return Measurement(float(found.value), float(found.value - half), float(found.value + half), int(found.n))


# -- verdicts ---------------------------------------------------------------------------------------------------------


def judge(claim: Claim, read: Read, *, notebooks: Path = NOTEBOOKS, settings: Mapping | None = None) -> dict:
    """Judge one claim by the results that `read` finds: its verdict, and its number or why there is none.

    settings: of the scale's Stage 1, which `recipe` is about.
    """
    if not (notebooks / f"{claim.notebook}.py").exists():
        return _unmeasured(f"notebook {claim.notebook} is not written yet")
    if not claim.criteria:
        return _unmeasured(f"notebook {claim.notebook} does not measure it yet")
    found = []
    try:
        for one in claim.criteria:
            try:
                ours = measure(one, _rows(one.entry, read))
                closed = "; ".join(without_room(_sides(claim, one), read, _row)) if _sides(claim, one) else ""
                found.append((one, ours, closed))
            except FileNotFoundError:
                if not one.entry.get("optional"):
                    raise
    except FileNotFoundError:
        return _unmeasured(f"notebook {claim.notebook} has not run at this scale")
    except NotMeasured as error:
        return _unmeasured(str(error))
    told = [each for each in found if not each[2]]  # a criterion that could have told nothing does not decide
    reasons = [*_unfair(claim, read, settings or {}), *([] if told else [closed for *_, closed in found])]
    decide = max if claim.some else min
    criterion, ours, _ = decide(told or found, key=lambda each: ORDER.index(each[0].verdict(each[1])))
    bound = criterion.bound(ours)
    rows = _rows(criterion.entry, read)
    return asdict(ours) | {
        "asked": f"{criterion.part} {criterion.direction} {bound:.4g}".strip(), "direction": criterion.direction,
        "threshold": bound, "seeds": len(rows.attrs["provenance"]["seeds"]),
        "file": "" if "scale" in criterion.entry else Path(rows.attrs["file"]).stem,
        "verdict": UNINFORMATIVE if reasons else criterion.verdict(ours), "why": "; ".join(dict.fromkeys(reasons))}


def _sides(claim: Claim, one: Criterion) -> Mapping | None:
    """The sides of a criterion: its own, or the arms of its claim on the task that it asks about."""
    arms = claim.alike if "task" in one.entry.get("row", ()) else None
    sides = one.entry.get("sides") or arms
    return sides and {"task": one.entry.get("row", {}).get("task", "average")} | sides


def _rows(entry: Mapping, read: Read) -> pd.DataFrame:
    """The rows of the file of an entry, which may be another scale's, with errors for clusters."""
    return widened(read(entry["file"], **{name: entry[name] for name in ("scale",) if name in entry}))


def _row(frame: pd.DataFrame, where: Mapping) -> pd.Series:
    return find(widened(frame), where, "last" if "step" in where else None)


def _unfair(claim: Claim, read: Read, settings: Mapping) -> Iterator[str]:
    """Yield why a claim cannot be judged by these results, whatever their numbers."""
    yield from departures(claim.recipe, settings)
    try:
        yield from unlike(claim.alike, read, _row) if claim.alike else ()
    except NotMeasured as error:
        yield str(error)
    for one in claim.fair:
        try:
            ours = measure(one, _rows(one.entry, read))
            sign = 1 if one.direction == "above" else -1
            if not sign * (ours.value - one.bound(ours)) > 0:
                yield f"{one.part}: {ours.value:.1f}, which must be {one.direction} {one.bound(ours):.4g}"
        except (FileNotFoundError, NotMeasured) as error:
            yield f"{one.part}: not measured ({error})"


def _unmeasured(why: str) -> dict:
    return asdict(Measurement(math.nan, math.nan, math.nan, 0)) | {
        "asked": "", "direction": "", "seeds": 0, "file": "", "verdict": UNMEASURED, "why": why}


def judged(*, scale: Scale, folder: Path = RESULTS, notebooks: Path = NOTEBOOKS) -> pd.DataFrame:
    """One row per claim: what it says, the paper's number, ours with interval, n, seeds, what was asked, verdict, cost.

    Numbers that do not exist are nan. `minutes` is the longest run of the claim's notebook. `p` is Holm's among the
    primary claims, of which one that tells nothing counts as 1; a verdict that does not pass is "not shown".
    """
    older = entries("claims", "older")

    def read(name: str, **other: str) -> pd.DataFrame:
        place = {"scale": scale.name, "folder": folder} | other
        try:
            return read_results(name, **place)
        except FileNotFoundError:
            return read_results(older.get(name, name), **place)

    times = read_if_any("notebook_times", scale=scale.name, folder=folder)
    minutes = {} if times is None else dict(zip(times["notebook"], times["value"] / 60, strict=True))
    found = pd.DataFrame([{
        "id": claim.id, "where": claim.where, "claim": claim.says, "notebook": claim.notebook, "unit": claim.unit,
        "paper": claim.paper, **judge(claim, read, notebooks=notebooks, settings=scale.stage1),
        "minutes": minutes.get(claim.notebook, math.nan), "primary": claim.primary} for claim in every_claim(scale)])
    told = found["verdict"].isin(ORDER)
    raw = [p_value(Interval(one.value, one.low, one.high), one.threshold) if told[place] else 1.0
           for place, one in enumerate(found.itertuples()) if one.primary]
    found["p"] = math.nan
    found.loc[found["primary"], "p"] = holm(raw)
    beaten = found["primary"] & found["verdict"].isin(("shown", "opposite")) & (found["p"] >= 1 - LEVEL)
    found.loc[beaten, ["verdict", "why"]] = "not shown", "its interval decides alone, but not among the primary claims"
    return found


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`judged` as readers see it: text, points with their sign."""
    def number(unit: str, value: float, digits: str) -> str:
        return "" if math.isnan(value) else f"{value:{'+' if unit == 'points' else ''}{digits}}"

    return pd.DataFrame([{
        "claim": one.id, "in words": one.claim, "where": one.where, "paper": number(one.unit, one.paper, ".3g"),
        "ours": number(one.unit, one.value, ".1f"),
        "95 % interval": "" if math.isnan(one.low) else
        f"{number(one.unit, one.low, '.1f')} to {number(one.unit, one.high, '.1f')}",
        "unit": one.unit, "asked": one.asked, "n": one.n or "", "seeds": one.seeds or "", "verdict": one.verdict,
        "kind": f"primary, p = {one.p:.2g}" if one.primary else "exploratory",
        "notebook": one.notebook[:2], "minutes": "" if math.isnan(one.minutes) else f"{one.minutes:.0f}",
    } for one in found.itertuples()])


def missing(found: pd.DataFrame) -> pd.DataFrame:
    """The claims without a verdict as readers see them: what the paper says, and why there is none."""
    return _reasons(found, UNMEASURED, ["claim", "in words", "where", "paper", "unit"])


def uninformative(found: pd.DataFrame) -> pd.DataFrame:
    """The claims that were measured and not judged, as readers see them: the number, and what it could not tell."""
    return _reasons(found, UNINFORMATIVE, ["claim", "where", "ours", "95 % interval", "unit"])


def _reasons(found: pd.DataFrame, said: str, columns: Sequence[str]) -> pd.DataFrame:
    rest = found[found["verdict"] == said]
    return shown(rest).reindex(columns=[*columns]).assign(why=list(rest["why"]))


def counts(found: pd.DataFrame) -> str:
    """How many claims have each verdict, as a phrase."""
    tally = found["verdict"].value_counts()
    return ", ".join(f"{tally.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
