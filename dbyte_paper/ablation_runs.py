"""An ablation table, measured: every variant over the seeds of a scale, on the same items, compared with one of them.

All seeds have the same teacher: between seeds only the student's first weights and the order of its rows differ.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dbyte.distill.runs import Run
from dbyte.evaluate import stats
from dbyte.evaluate.harness import ColumnResult, correct_by_column
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte.evaluate.stats import AVERAGE, Interval
from dbyte.model.student import ByteStudent
from dbyte.presets import Scale
from dbyte_paper.nested import accuracy_over_seeds, mean_over_seeds
from dbyte_paper.variants import Variant, run_variant
from dbyte_tasks.column import Marks

Trained = Mapping[str, Sequence[Sequence[Run]]]  # variant -> for each seed, a run for each of its steps
Measurements = Mapping[str, Sequence[Mapping[str, ColumnResult]]]  # variant -> for each seed, a result for each column


def train(scale: Scale, variants: Sequence[Variant], *, seed: int, batch_rows: int | None = None) -> Trained:
    """Every variant by as many seeds as the scale's ablations have, the first being `seed`, also the teacher's.

    batch_rows: of the students' updates, None: `scale.ablation.batch_rows`.
    """
    return {variant.name: [run_variant(scale, variant, seed=seed + k, teacher_seed=seed,
                                       batch_rows=batch_rows or scale.ablation.batch_rows)
                           for k in range(scale.ablation.seeds)] for variant in variants}


def measure(measurer: Measurer, trained: Trained, reading: str) -> Measurements:
    """MiniBench of every student after its last step; reading as in measure.py."""
    items = measurer.scale.ablation.items
    return {name: [measurer.columns(runs[-1].model_folder, reading, items=items) for runs in by_seed]
            for name, by_seed in trained.items()}


def accuracy_rows(measured: Measurements, *, arms: Mapping[str, dict] | None = None, **more: object) -> list[dict]:
    """Tidy rows in percent: model, task (and their average), value, stderr over seeds and items, n, seeds.

    arms: more columns of the rows of each model. more: of all rows.
    """
    rows = []
    for name, by_seed in measured.items():
        added = more | (arms or {}).get(name, {})
        for task, first in by_seed[0].items():
            found = accuracy_over_seeds([columns[task].correct for columns in by_seed])
            rows.append(_row(found, first.n, by_seed, model=name, task=task) | added
                        | {"chance": 100 * first.chance, "clusters": stats.clusters_in({task: first.correct})})
        correct = correct_of(by_seed)
        nothing = [{task: Marks.in_clusters([0.0] * len(marks), getattr(marks, "clusters", ()))
                    for task, marks in columns.items()} for columns in correct]
        chance = sum(result.chance for result in by_seed[0].values()) / len(by_seed[0])
        found = stats.difference(correct, nothing)
        rows.append(_row(found, stats.items_in(correct[0]), by_seed, model=name, task=AVERAGE)
                    | added | {"chance": 100 * chance, "clusters": stats.clusters_in(correct[0])})
    return rows


def dynamics_rows(measurer: Measurer, trained: Trained, reading: str) -> list[dict]:
    """`accuracy_rows` after every model kept on the way, with train_bytes since the first step began."""
    rows = []
    items = measurer.scale.ablation.items
    for name, by_seed in trained.items():
        for kept in zip(*map(kept_models, by_seed), strict=True):
            columns = [measurer.columns(folder, reading, items=items) for _, folder, _ in kept]
            rows += accuracy_rows({name: columns}, train_bytes=kept[0][0])
    return rows


def curriculum_rows(
    measurer: Measurer, runs: Sequence[Run], teacher: Path, *, only: Sequence[str] | None = None
) -> list[dict]:
    """Figure 2's rows: accuracy after each kept model of steps 1.1 and 1.2, against bytes from the start of Stage 1.

    Along the teacher's boundaries, since the router learns in step 1.3 only. only: the names of some columns.
    """
    items = measurer.scale.dynamics_items
    rows = column_rows("teacher", measurer.columns(teacher, "token", items=items, only=only), step="0", train_bytes=0)
    for seen, folder, step in kept_models(runs[:2]):
        found = measurer.columns(folder, "stage1/tokenizer", items=items, only=only)
        rows += column_rows("student", found, step=step, train_bytes=seen)
    return rows


def kept_models(runs: Sequence[Run]) -> list[tuple[int, Path, str]]:
    """(bytes since the first step began, folder, step) of each kept model of a student, the last one included."""
    kept = []
    seen = 0
    for run in runs:
        size = run.facts()["train_bytes"]
        step = run.facts()["step"].split()[0]
        kept += [(seen + done, folder, step) for done, folder in [*run.snapshots(), (size, run.model_folder)]]
        seen += size
    return kept


def variant_difference_rows(measured: Measurements, first: str, others: Sequence[str] | None = None) -> list[dict]:
    """Tidy rows of `first` minus each other variant on the same items, in points, task by task and on average.

    others: names, None: all. The verdict is on "`first` is ahead".
    """
    rows = []
    ours = correct_of(measured[first])
    for other in others if others is not None else [name for name in measured if name != first]:
        theirs = correct_of(measured[other])
        for task in (*ours[0], AVERAGE):
            one, two = ([stats.of_task(columns, task) for columns in side] for side in (ours, theirs))
            found = stats.difference(one, two)
            rows.append(_row(found, stats.items_in(one[0]), one, task=task) | {
                "what": f"{first} - {other}", "low": found.low, "high": found.high,
                "clusters": stats.clusters_in(one[0]),
                "verdict": stats.verdict(found.low, found.high)})
    return rows


def ahead_rows(differences: pd.DataFrame, *, all_but: int) -> list[dict]:
    """Tidy rows by `what`: on how many columns, in percent, the first is ahead; asked is "on all but so many".

    differences: as `variant_difference_rows` gave them. low: the columns where it surely is, high: where it is not
    surely behind, each with a quarter of a column beyond; threshold: between what is asked and one column less.
    """
    rows = []
    for what, part in differences[differences["task"] != AVERAGE].groupby("what", sort=False):
        columns = len(part)
        found = {"value": (part["value"] > 0).sum(), "low": (part["verdict"] == "shown").sum() - 0.25,
                 "high": (part["verdict"] != "opposite").sum() + 0.25, "threshold": columns - all_but - 0.5}
        rows.append({"what": what, "stderr": math.nan, "n": columns, "seeds": part["seeds"].max()}
                    | {name: 100 * count / columns for name, count in found.items()})
    return rows


def sampling_rows(trained: Trained) -> list[dict]:
    """Tidy rows: the share of the last step's time that is spent on writing samples, in percent, by model."""
    rows = []
    for name, by_seed in trained.items():
        logs = [runs[-1].metrics() for runs in by_seed]
        found = mean_over_seeds([100 * sum(line["sampling_seconds"] for line in log) / log[-1]["seconds"]
                                 for log in logs])
        rows.append(_row(found, sum(map(len, logs)), by_seed, model=name))
    return rows


def retention_rows(measured: Measurements, baselines: Mapping[str, Mapping[str, ColumnResult]]) -> list[dict]:
    """Tidy rows in percent: each variant's average over that of its baseline, a token model, on the same items."""
    rows = []
    for name, by_seed in measured.items():
        correct = correct_of(by_seed)
        found = stats.retention(correct, correct_by_column(baselines[name]))
        rows.append(_row(found, stats.items_in(correct[0]), by_seed, model=name, task=AVERAGE)
                    | {"low": found.low, "high": found.high, "clusters": stats.clusters_in(correct[0])})
    return rows


def bits_rows(measurer: Measurer, trained: Trained, reading: str) -> list[dict]:
    """Bits per byte of held-out text: model, corpus, value, stderr over seeds and pieces of text, n pieces.

    Unlike losses over tokens these compare students of different tokenizers.
    """
    rows = []
    for name, by_seed in trained.items():
        for corpus, _ in measurer.scale.corpora:
            found = [measurer.bits(runs[-1].model_folder, reading, corpus) for runs in by_seed]
            row = _row(mean_over_seeds([one["value"] for one in found]), found[0]["n"], by_seed, model=name)
            # Every seed reads the same pieces, so that their error does not shrink with seeds.
            of_pieces = sum(one["stderr"] for one in found) / len(found)
            row["stderr"] = math.hypot(of_pieces, 0.0 if math.isnan(row["stderr"]) else row["stderr"])
            rows.append(row | {"corpus": corpus})
    return rows


def boundary_rows(measurer: Measurer, trained: Trained) -> list[dict]:
    """F1 of every student's router on held-out text, in percent: model, corpus, value, stderr over seeds, n bytes."""
    rows = []
    for name, by_seed in trained.items():
        for corpus, _ in measurer.scale.corpora:
            found = [measurer.boundaries(runs[-1].model_folder, corpus) for runs in by_seed]
            rows.append(_row(mean_over_seeds([100 * one.f1 for one in found]), found[0].n, by_seed, model=name)
                        | {"corpus": corpus})
    return rows


def last_loss(run: Run) -> float:
    """The mean loss of a step over the last tenth of its updates, whose rows were read for the first time."""
    log = run.metrics()
    last = log[-max(len(log) // 10, 1) :]
    return sum(line["loss"] for line in last) / len(last)


def loss_rows(trained: Trained) -> list[dict]:
    """`last_loss` of the last step: value, stderr over seeds. Losses of different objectives do not compare."""
    return [_row(mean_over_seeds([last_loss(runs[-1]) for runs in by_seed]), len(by_seed), by_seed, model=name,
                 task="loss") for name, by_seed in trained.items()]


def curve_rows(trained: Trained, *, step: int = 0) -> list[dict]:
    """The logged loss of one step against its bytes, averaged over seeds, one row per tenth of the log."""
    rows = []
    for name, by_seed in trained.items():
        logs = [runs[step].metrics() for runs in by_seed]
        count = min(map(len, logs))
        parts = min(count, 10)
        for part in range(parts):
            chosen = slice(part * count // parts, (part + 1) * count // parts)
            rows.append(_loss_row(name, [log[chosen] for log in logs])
                        | {"train_bytes": logs[0][chosen.stop - 1]["bytes"]})
    return rows


def watched_rows(trained: Trained, names: Sequence[str]) -> list[dict]:
    """Logged values of the last step, in ten parts of the log: model, quantity, train_bytes, value, stderr over seeds.

    names: keys of the log, or `divergence`, the first term of the objective; a log without one gives no rows for it.
    """
    rows = []
    for name, by_seed in trained.items():
        logs = [[line | {"divergence": line["terms"][0]} for line in runs[-1].metrics()] for runs in by_seed]
        count = min(map(len, logs))
        parts = min(count, 10)
        for quantity in names:
            for part in range(parts):
                chosen = slice(part * count // parts, (part + 1) * count // parts)
                values = [[line[quantity] for line in log[chosen] if quantity in line] for log in logs]
                if all(values):
                    found = mean_over_seeds([sum(each) / len(each) for each in values])
                    rows.append(_row(found, len(logs), by_seed, model=name, quantity=quantity)
                                | {"train_bytes": logs[0][chosen.stop - 1]["bytes"]})
    return rows


def sizes(trained: Trained, part: str = "encoder") -> dict[str, int]:
    """Parameters of that part of each variant's student."""
    return {name: sum(weight.numel() for weight in getattr(ByteStudent.from_pretrained(by_seed[0][-1].model_folder),
                                                           part).parameters()) for name, by_seed in trained.items()}


def _row(found: Interval, n: int, by_seed: Sequence, **keys: str) -> dict:
    row = stats.interval_row(found, n)
    return keys | {"value": row["value"], "stderr": row["stderr"], "n": n, "seeds": len(by_seed)}


def correct_of(by_seed: Sequence[Mapping[str, ColumnResult]]) -> list[dict[str, tuple[int, ...]]]:
    """Return the answers of each seed's model by column."""
    return [correct_by_column(columns) for columns in by_seed]


def _loss_row(name: str, logs: Sequence[Sequence[dict]]) -> dict:
    """The mean loss of each seed's lines of a log, averaged over seeds."""
    losses = [sum(line["loss"] for line in lines) / len(lines) for lines in logs]
    return _row(mean_over_seeds(losses), len(logs), logs, model=name, task="loss")
