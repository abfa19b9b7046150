"""Notebook 24: Stage 2 by what a byte is taught, against the bytes that it reads.

All students continue the Stage 1 of the curriculum, a seed each, under one teacher. The rows are `byte_targets`, of
which "labels" is the paper's, and the decoder that begins from the token head.
"""

import math
from collections.abc import Mapping

import pandas as pd

from dbyte.evaluate import stats
from dbyte.evaluate.harness import ColumnResult, correct_by_column
from dbyte.evaluate.stats import AVERAGE, Interval, averaged
from dbyte.presets import Scale
from dbyte_paper.ablation_runs import Measurements, Trained, correct_of
from dbyte_paper.baselines import STAGE1, curve, of_bytes
from dbyte_paper.equal_loss import mean_ratio, ratio_row
from dbyte_paper.evidence import SWEEP, at_best_rate, at_rate
from dbyte_paper.variants import Variant, beginnings, byte_targets, from_nothing, run_variant

LABELS, DENSE = "labels", "dense"
PRIOR = "from the token head"
JUDGED = (LABELS, DENSE, PRIOR)  # what the goals are about; the others have the budgets up to that of the sweep
SINCE = 3  # steps of Stage 1, which are the same for all
HALF, THIRD = 50.0, 3.0  # the goals: percent of what `labels` has above the teacher, and its bytes over the row's


def rows(scale: Scale) -> tuple[Variant, ...]:
    """Every row at the scale's bytes; all but the last have a decoder that begins from nothing, as in the paper."""
    prior = next(one for one in beginnings(scale) if one.name == PRIOR)
    return *byte_targets(from_nothing(scale)), prior


def at_bytes(variant: Variant, total: int) -> Variant:
    """The variant with `total` bytes of Stage 2."""
    return of_bytes(variant, total, since=SINCE)


def best_rates(scale: Scale, total: int, *, seed: int) -> dict[str, float]:
    """The factor by which each row does best in `total` bytes of Stage 2, as `at_best_rate` chooses it."""
    found = at_best_rate(scale, [at_bytes(one, total) for one in rows(scale)], "stage2/router", seed=seed,
                         batch_rows=scale.batch_rows, since=SINCE)
    return {variant.name: variant.rate for variant in found}


def train(scale: Scale, rates: Mapping[str, float], total: int, *, seed: int, students: int) -> Trained:
    """Each row of `rates` in `total` bytes of Stage 2 by so many students, and `STAGE1`, what they continue."""
    trained = {}
    for variant in rows(scale):
        if variant.name in rates:
            chosen = at_rate(at_bytes(variant, total), rates[variant.name], since=SINCE)
            trained[variant.name] = [run_variant(scale, chosen, seed=seed + number, teacher_seed=seed)
                                     for number in range(students)]
    return trained | {STAGE1: [runs[:SINCE] for runs in trained[LABELS]]}


def goal_rows(measured: Measurements, teacher: Mapping[str, ColumnResult], total: int) -> list[dict]:
    """Tidy rows in points, by how much each row is above half of the drop that `labels` has from the teacher.

    Above zero the drop is less than half. Positive `drop` and `drop_of_labels` are points below the teacher. Where the
    interval of the latter reaches 0 nothing was lost that could be halved, and the verdict is "".
    """
    columns = correct_by_column(teacher)
    labels = correct_of(measured[LABELS])
    halfway = [averaged([columns, one]) for one in labels]
    lost = stats.difference(labels, [columns] * len(labels))
    found = []
    for name, by_seed in measured.items():
        if name in (LABELS, STAGE1):
            continue
        ours = correct_of(by_seed)
        row = stats.difference(ours, halfway)
        taught = [columns] * len(ours)
        found.append({"what": f"{name} above half of the drop", "task": AVERAGE, "train_bytes": total}
                     | stats.interval_row(row, stats.items_in(ours[0]))
                     | {"drop": -stats.difference(ours, taught).value, "seeds": len(ours),
                        "drop_of_labels": -lost.value,
                        "verdict": stats.verdict(row.low, row.high) if lost.high < 0 else ""})
    return found


def excess_rows(bits: pd.DataFrame, teacher: Mapping[str, float]) -> list[dict]:
    """Tidy rows in percent: the bits above the teacher's that each row has, of those that `labels` has at equal bytes.

    bits: what `baselines.bits_rows` recorded. teacher: bits per byte by corpus. The interval is over seeds, by the logs
    of their ratios; a seed whose bits are not above the teacher's has no ratio, and the row none. The verdict is on
    "less than half".
    """
    found = []
    for (corpus, budget), part in bits[bits["model"] != STAGE1].groupby(["corpus", "budget"]):
        above = {row.model: [float(value) - teacher[corpus] for value in row.by_seed.split()]
                 for row in part.itertuples()}
        for name in [name for name in above if name != LABELS]:
            if min(*above[name], *above[LABELS]) <= 0:
                continue
            ratios = [100 * one / other for one, other in zip(above[name], above[LABELS], strict=True)]
            found.append({"what": name, "corpus": corpus, "train_bytes": budget}
                         | judged(mean_ratio(ratios), len(ratios), HALF, "below"))
    return found


def ratio_rows(bits: pd.DataFrame) -> list[dict]:
    """Tidy rows: the bytes that `labels` needs over those of each other judged row, at equal bits per byte.

    Over the budgets that all seeds have, and, where one seed has more, over all budgets by that one. The verdict is on
    "three times as many".
    """
    found = []
    several = bits["by_seed"].str.split().str.len()
    for seeds in sorted({several.max(), several.min()}, reverse=True):
        enough = bits[several >= seeds]
        some = enough.assign(by_seed=enough["by_seed"].str.split().str[:seeds].str.join(" "))
        for corpus, part in some.groupby("corpus"):
            curves = {name: curve(of_name) for name, of_name in part.groupby("model") if name in JUDGED}
            for name in [name for name in curves if name != LABELS]:
                row = ratio_row(curves[name], curves[LABELS])
                share = Interval(row["value"], row["low"], row["high"])
                found.append({"what": f"{LABELS} / {name}", "corpus": corpus, "budgets": part["budget"].nunique()}
                             | row | judged(share, seeds, THIRD, "above"))
    return found


def judged(found: Interval, seeds: int, goal: float, direction: str) -> dict:
    """An interval over seeds as fields of a tidy row with its verdict on a goal; one seed has neither."""
    if seeds < 2:
        found = Interval(found.value, math.nan, math.nan)
    return stats.interval_row(found, seeds) | {"seeds": seeds, "verdict": "" if seeds < 2 else stats.verdict(
        found.low, found.high, threshold=goal, direction=direction)}


def arms(rates: Mapping[str, float], total: int) -> dict[str, dict]:
    """What each row got in Stage 2: train_bytes, rate and sweep, as `evidence.arms` says, and its budget."""
    found = {name: {"train_bytes": total, "budget": total, "rate": rate, "sweep": SWEEP}
             for name, rate in rates.items()}
    return found | {STAGE1: {"train_bytes": 0, "budget": total, "rate": 0.0, "sweep": ""}}
