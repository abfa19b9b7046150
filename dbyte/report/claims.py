"""The claims of the paper, read from published/claims.toml, and their verdicts by results/<scale>/.

A new claim is one more entry of that file, which opens with what its fields mean. A claim without results counts as not
yet measured.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd

from dbyte.paths import NOTEBOOKS, RESULTS
from dbyte.presets import Scale
from dbyte.report import judging
from dbyte.report.judging import UNMEASURED, Claim, Criterion, Measure, Row
from dbyte.report.published import entries, lines, quoted
from dbyte.report.results import read_if_any, read_results
from dbyte.report.tables import BENCHMARKS

FIELDS = {"file", "row", "kept", "ahead", "share", "total", "each_corpus", "part", "above", "below"}  # of a criterion


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
        criteria = [one for each in entry.get("criteria", ()) for one in _criteria(each, paper, corpora)]
        return Claim(**entry | {"paper": paper, "criteria": tuple(criteria)})
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
    ahead = fmean(float(line[name]) - float(table[source["minus"]][name]) for name in columns)
    return ahead - printed(source | {"beyond": None} | source["beyond"]) if source.get("beyond") else ahead


def _criteria(entry: Mapping, paper: float, corpora: Sequence[str]) -> Iterator[Criterion]:
    """Yield one criterion, or one for each corpus."""
    if unknown := sorted(set(entry) - FIELDS):
        raise ValueError(f"a criterion has no {', '.join(unknown)}")
    sides = [side for side in ("above", "below") if side in entry]
    if len(sides) != 1:
        raise ValueError(f"a criterion needs `above` or `below`, found {sides}")
    threshold = entry[sides[0]]
    if threshold in ("results", "paper"):
        threshold = paper if threshold == "paper" else None
    elif isinstance(threshold, Mapping):
        threshold = printed(threshold)
    part = entry.get("part", "")
    for corpus in corpora if entry.get("each_corpus") else ("",):
        measure = _measure(entry, {"corpus": corpus} if corpus else {})
        yield Criterion(measure, sides[0], threshold, f"{part} {corpus},".strip() if corpus else part)


def _measure(entry: Mapping, corpus: Mapping[str, str]) -> Measure:
    """Return what a criterion takes from the rows of its file."""
    file = entry["file"]
    terms = entry.get("share") or entry.get("total") or ()
    rows = [Row(file, {**corpus, **term["row"]}, term.get("pick")) for term in terms]
    if "row" in entry:
        return judging.row(file, **corpus, **entry["row"])
    if "kept" in entry:
        return judging.kept(file, entry["kept"])
    if "ahead" in entry:
        return judging.ahead(file, *entry["ahead"])
    if "share" in entry:
        return judging.share(*rows)
    return judging.total(*((term["weight"], one) for term, one in zip(entry["total"], rows, strict=True)))


def judged(*, scale: Scale, folder: Path = RESULTS, notebooks: Path = NOTEBOOKS) -> pd.DataFrame:
    """One row a claim: what it says, the paper's number, ours with interval, n, seeds, what was asked, verdict, cost.

    Numbers that do not exist are nan. `minutes` is what the claim's notebook took at its longest.
    """
    read = partial(read_results, scale=scale.name, folder=folder)
    times = read_if_any("notebook_times", scale=scale.name, folder=folder)
    minutes = {} if times is None else dict(zip(times["notebook"], times["value"] / 60, strict=True))
    rows = []
    for claim in every_claim(scale):
        found = judging.judge(claim, read, notebooks=notebooks)
        ours = found.measured
        rows.append({
            "id": claim.id, "where": claim.where, "claim": claim.says, "notebook": claim.notebook, "unit": claim.unit,
            "paper": claim.paper, "value": ours.value if ours else math.nan, "low": ours.low if ours else math.nan,
            "high": ours.high if ours else math.nan, "asked": found.criterion.asked(ours) if found.criterion else "",
            "direction": found.criterion.direction if found.criterion else "",
            "threshold": found.criterion.bound(ours) if found.criterion else math.nan,
            "n": ours.n if ours else 0, "seeds": len(ours.seeds) if ours else 0, "file": ours.file if ours else "",
            "verdict": found.verdict, "why": found.why, "minutes": minutes.get(claim.notebook, math.nan)})
    return pd.DataFrame(rows)


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
        "notebook": one.notebook[:2], "minutes": "" if math.isnan(one.minutes) else f"{one.minutes:.0f}",
    } for one in found.itertuples()])


def missing(found: pd.DataFrame) -> pd.DataFrame:
    """The claims without a verdict as readers see them: what the paper says, and why there is none."""
    rest = found[found["verdict"] == UNMEASURED]
    return shown(rest)[["claim", "in words", "where", "paper", "unit"]].assign(why=list(rest["why"]))


def counts(found: pd.DataFrame) -> str:
    """How many claims have each verdict, as a phrase."""
    tally = found["verdict"].value_counts()
    return ", ".join(f"{tally.get(verdict, 0)} {verdict}" for verdict in judging.VERDICTS)
