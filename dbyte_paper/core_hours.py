"""What a scale's notebooks cost in seconds of one core, added up from the records of their runs and measurements.

A notebook's time says how long its longest run took, which may have loaded models. Each trained run has a record of its
own, and each measurement too: seconds, threads, and the notebook that asked for it first. So these sums do not depend
on which notebook ran when.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from math import nan
from pathlib import Path

import pandas as pd

from dbyte.distill.run_list import entries
from dbyte.distill.runs import read_json
from dbyte.paths import RESULTS, RUNS
from dbyte_paper.results import read_if_any, write_results

SECONDS = "core_seconds"  # the results
MOST_ONE, MOST_ALL = 3.0, 10.0  # core-hours that one seed of all notebooks, and all seeds, may take at `small`


def records(scale: str, *, runs: Path) -> Iterator[tuple[str, int, float]]:
    """Yield (notebook, seed, core-seconds) of each finished run and measurement that a notebook of a scale asked for.

    seed: of the student or teacher that was trained or measured. What no notebook asked for is left out.
    """
    seeds = {}
    for entry in entries(runs):
        seeds[entry.name] = entry.config.get("seed", 0)
        if entry.facts and _asked(entry.notes, scale):
            yield entry.notes["asked by"], seeds[entry.name], entry.facts["seconds"] * entry.facts.get("threads", 1)
    for path in sorted((runs / "measured").glob("*.json")):
        try:
            kept = read_json(path)
        except (OSError, ValueError):
            continue  # a damaged one is measured again
        if _asked(notes := kept.get("notes", {}), scale):
            yield notes["asked by"], seeds.get(notes["run"], 0), kept["found"]["seconds"] * notes["threads"]


def _asked(notes: dict, scale: str) -> bool:
    return notes.get("scale") == scale and bool(re.fullmatch(r"\d\d_\w+", notes.get("asked by", "")))


def count(scale: str, *, seed: int, device: str, results: Path = RESULTS, runs: Path = RUNS) -> None:
    """Write the sums by notebook and seed; those of notebooks that `runs` holds nothing of stay as they were."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for notebook, of, seconds in records(scale, runs=runs):
        found[notebook, of].append(seconds)
    before = read_if_any(SECONDS, scale=scale, folder=results)
    known = {notebook for notebook, _ in found}
    kept = [] if before is None else [row for row in before.to_dict("records") if row["notebook"] not in known]
    rows = kept + [{"notebook": notebook, "seed": of, "value": round(sum(each), 1), "stderr": nan, "n": len(each)}
                   for (notebook, of), each in found.items()]
    if rows:
        write_results(SECONDS, rows, scale=scale, keys=["notebook", "seed"], seeds=[seed], config_hash="none",
                      wall_seconds=0.0, device=device, folder=results)


def hours(sums: pd.DataFrame) -> tuple[float, float]:
    """Core-hours of the lowest seed of every notebook, and of all seeds."""
    first = sums["seed"] == sums.groupby("notebook")["seed"].transform("min")
    return sums.loc[first, "value"].sum() / 3600, sums["value"].sum() / 3600


def told(sums: pd.DataFrame) -> str:
    """The sums as a sentence, with the bounds that they are held against."""
    one, every = hours(sums)
    return (f"By the records of {sums['n'].sum()} runs and measurements, one seed of {sums['notebook'].nunique()} "
            f"notebooks takes {one:.1f} core-hours (goal: {MOST_ONE:g}), all seeds {every:.1f} (goal: {MOST_ALL:g}).")


def by_notebook(sums: pd.DataFrame) -> pd.DataFrame:
    """Core-minutes of each notebook: of its lowest seed, and of all."""
    first = sums[sums["seed"] == sums.groupby("notebook")["seed"].transform("min")].set_index("notebook")["value"]
    table = pd.DataFrame({"one seed": first, "all seeds": sums.groupby("notebook")["value"].sum()}) / 60
    return table.rename_axis("core-minutes of notebook").reset_index()
