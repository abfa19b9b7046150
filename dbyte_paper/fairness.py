"""Whether a comparison could have told anything: rules by code, their data next to each claim in claims.toml.

A side that cannot rise or fall says nothing, two arms that did not get the same are no comparison, and a treatment that
did not do what it is for is not judged. What a results file does not record counts as not so: it cannot be checked.

Files from before items were resampled by cluster have no column `clusters`. Their errors are widened by the square root
of the items in a cluster, the most that clusters of equal size could call for, and no interval is left without width.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from dbyte.evaluate.stats import AVERAGE, EQUAL, Z95, least_half
from dbyte_paper.tables import SIGMA
from dbyte_tasks import minibench

ARMS = ("train_bytes", "sweep")  # in which the arms of a comparison must be alike
NEAR = 0.02  # how far the columns that need only be near may be apart, as a share of the largest
Read = Callable[..., pd.DataFrame]  # the name of a results file, and its scale if it is another -> its rows
Find = Callable[[pd.DataFrame, Mapping], pd.Series]  # rows, and keys of one of them -> it


def widened(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with errors for clusters, where their file is older than those, and none of width 0."""
    if not {"value", "stderr", "n"} <= set(frame):
        return frame
    kept = frame.copy()
    kept.attrs = frame.attrs
    names = frame["task"] if "task" in frame else frame["what"] if "what" in frame else pd.Series("", frame.index)
    if "clusters" in frame:
        spread, units = pd.Series(1.0, frame.index), frame["clusters"]
    else:
        by_task = {task: n / len(set(minibench.EVERY[task].clusters(int(n)))) for task, n in zip(names, frame["n"],
                   strict=True) if task in minibench.EVERY and n <= minibench.EVERY[task].available}
        mean = sum(by_task.values()) / max(len(by_task), 1) or 1.0
        size = [mean if name == AVERAGE or "beyond" in name else by_task.get(name, 1.0) for name in names]
        spread, units = pd.Series(size, frame.index) ** 0.5, frame["n"] / size
    least = 100 * units.map(least_half)
    if {"low", "high"} <= set(frame):
        for end, sign in (("low", -1), ("high", 1)):
            half = spread * (frame[end] - frame["value"])
            kept[end] = frame["value"] + half.where(frame["high"] > frame["low"], sign * least)
        kept["stderr"] = (kept["high"] - kept["low"]) / (2 * Z95)
    else:
        kept["stderr"] = (spread * frame["stderr"]).mask(frame["stderr"] == 0, least / Z95)
    return kept


def without_room(sides: Mapping, read: Read, find: Find) -> Iterator[str]:
    """Yield why no side of a comparison of accuracies could be ahead: all are at a ceiling, or all at chance.

    sides: `file`, its `models`, `task`, perhaps `kind` and `steps`, and `top`, the model that no side can surpass;
    `ceiling` false: only chance is asked about, as where a model is held against what it learnt from.
    """
    frame = read(sides["file"])
    keys = {name: sides[name] for name in ("task", "kind") if name in sides}
    rows = [find(frame, keys | {"model": model} | step) for model in sides["models"]
            for step in ([{"step": name} for name in sides["steps"]] if "steps" in sides else [{}])]
    top = find(frame, keys | {"model": sides["top"]}).value if "top" in sides else 100.0
    found = " and ".join(f"{row.value:.1f}" for row in rows)
    if sides.get("ceiling", True) and all(row.value > top - EQUAL for row in rows):
        yield f"all sides are within {EQUAL:g} points of the ceiling of {top:.1f}: {found}"
    if all(row.value <= row.chance + SIGMA * row.stderr for row in rows):
        yield f"all sides are within two standard errors of chance: {found}"


def unlike(alike: Mapping, read: Read, find: Find) -> Iterator[str]:
    """Yield in what the compared `models` of `file` are not alike, or which of it the file does not record."""
    frame = read(alike["file"])
    columns = alike.get("instead", [*ARMS, *alike.get("also", ())])
    near = alike.get("near", ())
    if lost := [column for column in (*columns, *near) if column not in frame]:
        yield f"{frame.attrs['file']} does not record {' and '.join(lost)} of the rows that are compared"
        return
    keys = {"task": AVERAGE} | {name: alike[name] for name in ("kind",) if name in alike}
    rows = [find(frame, keys | {"model": model}) for model in alike["models"]]
    for column in (*columns, *near):
        values = [row[column] for row in rows]
        missing = values[0] in ("", 0) or any(isinstance(value, float) and math.isnan(value) for value in values)
        same = max(values) - min(values) <= NEAR * max(values) if column in near else len(set(values)) == 1
        if missing or not same:
            yield f"the rows that are compared do not have one {column}: {', '.join(map(str, values))}"


def departures(recipe: tuple[str, ...], settings: Mapping) -> Iterator[str]:
    """Yield which settings of Stage 1 depart from the step that a claim is about: each of `recipe` must be off."""
    if on := [name for name in recipe if settings.get(name)]:
        yield f"the step is not the paper's at this scale: {', '.join(f'{name} = {settings[name]}' for name in on)}"
