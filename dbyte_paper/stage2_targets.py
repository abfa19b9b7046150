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
from dbyte_paper.equal_loss import ratio_row
from dbyte_paper.evidence import SWEEP, at_best_rate, at_rate
from dbyte_paper.variants import Variant, beginnings, byte_targets, run_variant

LABELS, DENSE = "labels", "dense"
PRIOR = "from the token head"
JUDGED = (LABELS, DENSE, PRIOR)  # what the goals are about; the others have the budgets up to that of the sweep
SINCE = 3  # steps of Stage 1, which are the same for all


def rows(scale: Scale) -> tuple[Variant, ...]:
    """Every row at the scale's bytes."""
    prior = next(one for one in beginnings(scale) if one.name == PRIOR)
    return *byte_targets(scale), prior


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

    Above zero the drop is less than half. Positive `drop` and `drop_of_labels` are points below the teacher.
    """
    columns = correct_by_column(teacher)
    labels = correct_of(measured[LABELS])
    halfway = [averaged([columns, one]) for one in labels]
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
                        "drop_of_labels": -stats.difference(labels, taught).value,
                        "verdict": stats.verdict(row.low, row.high)})
    return found


def excess_rows(bits: pd.DataFrame, teacher: Mapping[str, float]) -> list[dict]:
    """Tidy rows in percent: the bits above the teacher's that each row has, of those that `labels` has at equal bytes.

    bits: what `baselines.bits_rows` recorded. teacher: bits per byte by corpus. The interval is over seeds, by the logs
    of their ratios; a seed whose bits are not above the teacher's has no ratio, and the row none.
    """
    found = []
    for (corpus, budget), part in bits[bits["model"] != STAGE1].groupby(["corpus", "budget"]):
        above = {row.model: [float(value) - teacher[corpus] for value in row.by_seed.split()]
                 for row in part.itertuples()}
        for name in [name for name in above if name != LABELS]:
            if min(*above[name], *above[LABELS]) <= 0:
                continue
            logs = [math.log(one / other) for one, other in zip(above[name], above[LABELS], strict=True)]
            mean, half = sum(logs) / len(logs), stats.half_over_seeds(logs)
            share = Interval(*(100 * math.exp(end) for end in (mean, mean - half, mean + half)))
            found.append({"what": name, "corpus": corpus, "train_bytes": budget}
                         | stats.interval_row(share, len(logs)) | {"seeds": len(logs)})
    return found


def ratio_rows(bits: pd.DataFrame) -> list[dict]:
    """Tidy rows: the bytes that `labels` needs over those of each other judged row, at equal bits per byte.

    Over the seeds that all budgets have.
    """
    found = []
    for corpus, part in bits.groupby("corpus"):
        least = min(len(text.split()) for text in part["by_seed"])
        part = part.assign(by_seed=[" ".join(text.split()[:least]) for text in part["by_seed"]])
        curves = {name: curve(of_name) for name, of_name in part.groupby("model") if name in JUDGED}
        found += [{"what": f"{LABELS} / {name}", "corpus": corpus} | ratio_row(curves[name], curves[LABELS])
                  for name in curves if name != LABELS]
    return found


def arms(rates: Mapping[str, float], total: int) -> dict[str, dict]:
    """What each row got in Stage 2: train_bytes, rate and sweep, as `evidence.arms` says, and its budget."""
    found = {name: {"train_bytes": total, "budget": total, "rate": rate, "sweep": SWEEP}
             for name, rate in rates.items()}
    return found | {STAGE1: {"train_bytes": 0, "budget": total, "rate": 0.0, "sweep": ""}}
