"""An ablation table, measured: every variant over the seeds of a scale, on the same items, each compared with one of
them.

One teacher serves all seeds: what varies between seeds is the student's first weights and the order of what it reads.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbyte.distill.runs import Run
from dbyte.distill.variants import Variant, run_variant
from dbyte.evaluate.harness import ColumnResult, correct_by_column
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.stats import (
    AVERAGE,
    Interval,
    accuracy_over_seeds,
    difference,
    interval_row,
    mean_over_seeds,
    retention,
    verdict,
)
from dbyte.model.student import ByteStudent
from dbyte.presets import Scale

Trained = Mapping[str, Sequence[Sequence[Run]]]  # variant -> for each seed, a run for each of its steps
Measured = Mapping[str, Sequence[Mapping[str, ColumnResult]]]  # variant -> for each seed, a result for each column


def train(scale: Scale, variants: Sequence[Variant], *, seed: int) -> Trained:
    """Every variant by as many seeds as the scale's ablations have, the first being `seed`, also the teacher's.

    The students read batches of `scale.ablation.batch_rows`.
    """
    return {variant.name: [run_variant(scale, variant, seed=seed + k, teacher_seed=seed,
                                       batch_rows=scale.ablation.batch_rows)
                           for k in range(scale.ablation.seeds)] for variant in variants}


def measure(measurer: Measurer, trained: Trained, reading: str) -> Measured:
    """MiniBench of every student after its last step; reading as in measure.py."""
    items = measurer.scale.ablation.items
    return {name: [measurer.columns(runs[-1].model_folder, reading, items=items) for runs in by_seed]
            for name, by_seed in trained.items()}


def accuracy_rows(measured: Measured, **more: object) -> list[dict]:
    """Tidy rows in percent: model, task (and their average), value, stderr over seeds and items, n, seeds."""
    rows = []
    for name, by_seed in measured.items():
        for task, first in by_seed[0].items():
            found = accuracy_over_seeds([columns[task].correct for columns in by_seed])
            rows.append(_row(name, task, found, first.n, len(by_seed)) | {"chance": 100 * first.chance} | more)
        nothing = [{task: [0.0] * result.n for task, result in columns.items()} for columns in by_seed]
        found = difference([correct_by_column(columns) for columns in by_seed], nothing)
        chance = sum(result.chance for result in by_seed[0].values()) / len(by_seed[0])
        rows.append(_row(name, AVERAGE, found, _items(by_seed[0]), len(by_seed)) | {"chance": 100 * chance} | more)
    return rows


def dynamics_rows(measurer: Measurer, trained: Trained, reading: str) -> list[dict]:
    """`accuracy_rows` after every model kept on the way, with train_bytes since the first step began."""
    rows = []
    items = measurer.scale.ablation.items
    for name, by_seed in trained.items():
        for kept in zip(*map(_kept_models, by_seed), strict=True):
            columns = [measurer.columns(folder, reading, items=items) for _, folder in kept]
            rows += accuracy_rows({name: columns}, train_bytes=kept[0][0])
    return rows


def _kept_models(runs: Sequence[Run]) -> list[tuple[int, Path]]:
    """Bytes since the first step began, and folder, of each model that a student left on its way, the last included."""
    kept = []
    seen = 0
    for run in runs:
        size = run.facts()["train_bytes"]
        kept += [(seen + done, folder) for done, folder in [*run.snapshots(), (size, run.model_folder)]]
        seen += size
    return kept


def variant_difference_rows(measured: Measured, first: str, others: Sequence[str] | None = None) -> list[dict]:
    """Tidy rows of `first` minus each other variant on the same items, in points, task by task and on average.

    others: names, None: all. The verdict is on "`first` is ahead".
    """
    rows = []
    for other in others if others is not None else [name for name in measured if name != first]:
        one, two = ([correct_by_column(columns) for columns in measured[name]] for name in (first, other))
        for task in (*one[0], AVERAGE):
            chosen = list(one[0]) if task == AVERAGE else [task]
            sides = ([{name: columns[name] for name in chosen} for columns in side] for side in (one, two))
            found = difference(*sides)
            n = sum(len(one[0][name]) for name in chosen)
            rows.append(_row("", task, found, n, len(one))
                        | {"what": f"{first} - {other}", "low": found.low, "high": found.high,
                           "verdict": verdict(found.low, found.high)})
    return [{key: value for key, value in row.items() if key != "model"} for row in rows]


def best_of(measured: Measured, names: Sequence[str]) -> str:
    """The name of the variant with the highest average over columns and seeds; of equals, the first.

    Chosen and reported on the same items, it looks better than it is.
    """
    average = {row["model"]: row["value"] for row in accuracy_rows(measured) if row["task"] == AVERAGE}
    return max(names, key=lambda name: average[name])


def retention_rows(measured: Measured, baselines: Mapping[str, Mapping[str, ColumnResult]]) -> list[dict]:
    """Tidy rows in percent: each variant's average over that of its baseline, a token model, on the same items."""
    rows = []
    for name, by_seed in measured.items():
        found = retention([correct_by_column(columns) for columns in by_seed],
                                correct_by_column(baselines[name]))
        rows.append(_row(name, AVERAGE, found, _items(by_seed[0]), len(by_seed))
                    | {"low": found.low, "high": found.high})
    return rows


def bits_rows(measurer: Measurer, trained: Trained, reading: str) -> list[dict]:
    """Bits per byte of held-out text: model, corpus, value, stderr over seeds and pieces of text, n pieces.

    Unlike losses over tokens these compare students of different tokenizers.
    """
    rows = []
    for name, by_seed in trained.items():
        for corpus, _ in measurer.scale.corpora:
            found = [measurer.bits(runs[-1].model_folder, reading, corpus) for runs in by_seed]
            over_seeds = mean_over_seeds([one["value"] for one in found])
            row = _row(name, "", over_seeds, found[0]["n"], len(found)) | {"corpus": corpus}
            # Every seed reads the same pieces, so that their error does not shrink with seeds.
            of_pieces = sum(one["stderr"] for one in found) / len(found)
            row["stderr"] = math.hypot(of_pieces, 0.0 if math.isnan(row["stderr"]) else row["stderr"])
            rows.append({key: value for key, value in row.items() if key != "task"})
    return rows


def boundary_rows(measurer: Measurer, trained: Trained) -> list[dict]:
    """F1 of every student's router on held-out text, in percent: model, corpus, value, stderr over seeds, n bytes."""
    rows = []
    for name, by_seed in trained.items():
        for corpus, _ in measurer.scale.corpora:
            found = [measurer.boundaries(runs[-1].model_folder, corpus) for runs in by_seed]
            row = _row(name, "", mean_over_seeds([100 * one.f1 for one in found]), found[0].n, len(found))
            rows.append({key: value for key, value in row.items() if key != "task"} | {"corpus": corpus})
    return rows


def loss_rows(trained: Trained, *, step: int = -1) -> list[dict]:
    """The loss of one step over the last tenth of its updates, whose rows were read for the first time: value, stderr.

    Losses of different objectives do not compare.
    """
    rows = []
    for name, by_seed in trained.items():
        last = [_mean_of_last_tenth(runs[step]) for runs in by_seed]
        rows.append(_row(name, "loss", mean_over_seeds(last), len(last), len(last)))
    return rows


def curve_rows(trained: Trained, *, step: int = 0) -> list[dict]:
    """The logged loss of one step against its bytes, averaged over seeds, a tenth of the log a row."""
    rows = []
    for name, by_seed in trained.items():
        logs = [_log(runs[step]) for runs in by_seed]
        count = min(map(len, logs))
        parts = min(count, 10)
        for part in range(parts):
            chosen = range(part * count // parts, (part + 1) * count // parts)
            values = [sum(log[i]["loss"] for i in chosen) / len(chosen) for log in logs]
            rows.append(_row(name, "loss", mean_over_seeds(values), len(values), len(values))
                        | {"train_bytes": logs[0][chosen[-1]]["bytes"]})
    return rows


def sizes(trained: Trained) -> dict[str, int]:
    """Parameters of each variant's encoder."""
    return {name: sum(weight.numel() for weight in ByteStudent.from_pretrained(by_seed[0][-1].model_folder)
                      .encoder.parameters()) for name, by_seed in trained.items()}


def _row(model: str, task: str, found: Interval, n: int, count: int) -> dict:
    row = interval_row(found, n)
    return {"model": model, "task": task, "value": row["value"], "stderr": row["stderr"], "n": n, "seeds": count}


def _items(columns: Mapping[str, ColumnResult]) -> int:
    return sum(result.n for result in columns.values())


def _log(run: Run) -> list[dict]:
    return [json.loads(line) for line in run.metrics_path.read_text(encoding="utf-8").splitlines()]


def _mean_of_last_tenth(run: Run) -> float:
    log = _log(run)
    last = log[-max(len(log) // 10, 1) :]
    return sum(line["loss"] for line in last) / len(last)
