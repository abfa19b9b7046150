"""What one distilled student keeps of its teacher, as tidy rows, and whether that meets the project's goals.

Models are named, the teacher first, each a folder with a reading as in evaluate/measure.py. A column counts in averages
if the teacher is more than two standard errors above chance there: what is at chance cannot be retained.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dbyte.distill.curriculum import curriculum
from dbyte.distill.data import heldout_corpus
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step
from dbyte.evaluate import stats
from dbyte.evaluate.harness import ColumnResult
from dbyte.evaluate.measure import Measurer, bits_row, boundary_row, column_rows
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_tokenizer
from dbyte.plan.counting import count_step, one_document
from dbyte.presets import Scale
from dbyte.text.corpus import load_corpus
from dbyte.text.files import readable_files
from dbyte.text.spans import TokenBytes
from dbyte_paper.ablation_runs import kept_models
from dbyte_paper.above_chance import kept_above_chance
from dbyte_paper.tables import BENCHMARKS, SIGMA, estimates, target

TEACHER = "teacher"
ON_ITS_WAY = "after 1.1"
MODELS = (TEACHER, ON_ITS_WAY, "Stage 1, tokenizer's", "Stage 1, router's", "Stage 2")
NEAR = "near chance"
KEPT_COLUMNS = ("LMB", "HellaS", "PIQA", "ARC-E")  # what a teacher of this size can do: goals are about these
LEAST_KEPT = {"Stage 1, tokenizer's": 90.0, "Stage 1, router's": 85.0}  # the goals, in percent above chance
MOST_BITS = {"Stage 1, tokenizer's": 3.0, "Stage 1, router's": 3.0, "Stage 2": 10.0}  # in percent over the teacher's
KL, AGREEMENT, BITS = "KL to the teacher, nats a token", "same likeliest token, %", "bits per byte"


def is_near_chance(result: ColumnResult) -> bool:
    """True where a model is less than two standard errors above what guessing scores."""
    return result.accuracy <= result.chance + SIGMA * result.stderr


def answered(measurer: Measurer, models: Mapping[str, tuple[Path, str]]) -> dict[str, dict[str, ColumnResult]]:
    """What each model answers of the scale's columns, all on the same items.

    Only the first `dynamics_items` items are asked of a student on its way, after step 1.1, and of every student where
    the teacher is near chance: there is nothing to keep.
    """
    found = {TEACHER: measurer.columns(*models[TEACHER])}
    near = {task for task, result in found[TEACHER].items() if is_near_chance(result)}
    for model, how in models.items():
        if model != TEACHER:
            found[model] = {}
            for task in found[TEACHER]:
                few = measurer.scale.dynamics_items if task in near or model == ON_ITS_WAY else None
                found[model] |= measurer.columns(*how, items=few, only=[task])
    return found


def kept_rows(found: Mapping[str, Mapping[str, ColumnResult]]) -> list[dict]:
    """Table 1 in percent: `column_rows` with near_chance and what is kept, and an average over the other columns.

    kept: accuracy over the teacher's; above_chance: both less chance; with the ends of paired intervals over items.
    """
    judged = [task for task, result in found[TEACHER].items() if not is_near_chance(result)]
    rows = []
    for model, results in found.items():
        own = column_rows(model, results)
        rows += [row | {"near_chance": "" if row["task"] in judged else NEAR}
                 | _kept(results, found[TEACHER], [row["task"]] if row["task"] in judged else []) for row in own]
        if mean := [row for row in own if row["task"] in judged]:
            rows.append({"model": model, "task": stats.AVERAGE, "value": float(np.mean([row["value"] for row in mean])),
                         "stderr": math.hypot(*(row["stderr"] for row in mean)) / len(mean),
                         "n": sum(row["n"] for row in mean), "chance": float(np.mean([row["chance"] for row in mean])),
                         "metric": "", "near_chance": ""} | _kept(results, found[TEACHER], judged))
    return rows


def _kept(results: Mapping[str, ColumnResult], teacher: Mapping[str, ColumnResult], tasks: Sequence[str]) -> dict:
    """Retention plain and above chance over some columns, with intervals; nan where there is nothing to keep.

    Items are paired; a model that was asked fewer is compared with the teacher on these.
    """
    ours = {task: results[task].correct for task in tasks}
    theirs = {task: teacher[task].correct[:len(ours[task])] for task in tasks}
    nothing = stats.Interval(math.nan, math.nan, math.nan)
    plain = stats.retention(ours, theirs) if any(map(any, theirs.values())) else nothing
    above = (kept_above_chance(ours, theirs, chance=float(np.mean([teacher[task].chance for task in tasks])))
             if tasks else nothing)
    return {f"{name}{end}": getattr(found, part) for name, found in (("kept", plain), ("above_chance", above))
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))}


def kept_table(columns: pd.DataFrame, *, models: Sequence[str] = MODELS) -> pd.DataFrame:
    """`kept_rows` for readers: accuracy by column, the average, and how much of it is above chance, model by model."""
    named = columns.assign(task=columns.task.where(columns.near_chance == "", columns.task + f" ({NEAR})"))
    order = [f"{task}{mark}" for mark in ("", f" ({NEAR})") for task in BENCHMARKS] + [stats.AVERAGE]
    table = estimates(named, rows=["model"], columns="task", order=list(dict.fromkeys([*order, *named.task])))
    means = columns[columns.task == stats.AVERAGE].set_index("model")
    kept = {model: f"{row.above_chance:.1f} ({row.above_chance_low:.1f} to {row.above_chance_high:.1f})"
            for model, row in means.iterrows() if model != TEACHER}
    kept_words = [kept.get(model, "") for model in table["model"]]
    table = table.assign(**{"kept above chance, %": kept_words})
    return table.sort_values("model", key=lambda names: names.map(list(models).index))


def text_rows(measurer: Measurer, models: Mapping[str, tuple[Path, str]]) -> list[dict]:
    """Bits per byte of each model on each corpus, and along the tokenizer's boundaries its likeness to the teacher.

    more, more_stderr: bits over the teacher's in percent, with the paired error over pieces of text.
    """
    rows = []
    for corpus, _ in measurer.scale.corpora:
        of_teacher = measurer.bits(*models[TEACHER], corpus)["nats_P"]
        for model, (folder, reading) in models.items():
            bits = measurer.bits(folder, reading, corpus)
            ratio = stats.ratio_of_sums((bits["nats_P"], of_teacher))
            rows.append(bits_row(model, corpus, bits) | {"measure": BITS, "more": 100 * (ratio.value - 1),
                                                         "more_stderr": 100 * ratio.stderr})
            if reading == "stage1/tokenizer":
                rows += likeness_rows(measurer, folder, models[TEACHER][0], corpus, model=model)
    return rows


def goals(columns: pd.DataFrame, text: pd.DataFrame | None) -> list[dict]:
    """What this project asks of scale `real`, as rows of `target`; columns, text: of `kept_rows` and `text_rows`.

    Accuracy is asked for column by column, and on the average over the columns that are not near chance.
    """
    found = []
    for row in () if text is None else text.itertuples():
        if row.model == "Stage 1, tokenizer's" and row.measure == KL:
            found.append(target(f"KL, nats a token, {row.corpus}", row.value, row.n, row.stderr, at_most=0.1))
        if row.measure == BITS and row.model in MOST_BITS:
            found.append(target(f"bits per byte over the teacher's, %, {row.corpus}, {row.model}", row.more, row.n,
                                row.more_stderr, at_most=MOST_BITS[row.model]))
    asked = columns[columns.task.isin((*KEPT_COLUMNS, stats.AVERAGE)) & columns.above_chance.notna()]
    for row in asked.itertuples():
        if row.model in LEAST_KEPT:
            error = (row.above_chance_high - row.above_chance_low) / 4  # a 95 % interval is four standard errors wide
            found.append(target(f"kept above chance, %, {row.task}, {row.model}", row.above_chance, int(row.n), error,
                                at_least=LEAST_KEPT[row.model]))
    return found


def likeness_rows(measurer: Measurer, folder: Path, teacher: Path, corpus: str, **keys) -> list[dict]:
    """KL and agreement on a corpus as two tidy rows, with what `keys` adds."""
    found = measurer.likeness(folder, teacher, corpus)
    return [keys | {"corpus": corpus, "measure": measure, "value": unit * found[name],
                    "stderr": unit * found[f"{name}_stderr"], "n": found["n"]}
            for measure, name, unit in ((KL, "divergence", 1), (AGREEMENT, "agreement", 100))]


def divergence_rows(measurer: Measurer, runs: Sequence[Run], teacher: Path) -> list[dict]:
    """KL after each kept model of some steps, as curves: model (its step), corpus, train_bytes, value, stderr."""
    return [row for corpus, _ in measurer.scale.corpora for seen, folder, step in kept_models(runs)
            for row in likeness_rows(measurer, folder, teacher, corpus, model=f"step {step}", train_bytes=seen)
            if row["measure"] == KL]


def router_rows(measurer: Measurer, folder: Path) -> list[dict]:
    """F1 of a student's router on each corpus, and on each file of the folder $DBYTE_SCRIPTS, if that is set."""
    rows = [boundary_row(name, measurer.boundaries(folder, name)) for name, _ in measurer.scale.corpora]
    for path in readable_files(os.environ["DBYTE_SCRIPTS"]) if os.environ.get("DBYTE_SCRIPTS") else ():
        texts = load_corpus(f"file:{path}", seed=measurer.seed, max_bytes=measurer.scale.heldout_bytes)
        rows.append(boundary_row(path.stem, measurer.boundaries(folder, path.stem, texts)))
    return rows


def without_alignment(scale: Scale, runs: Sequence[Run], teacher: Path, *, seed: int) -> Step:
    """Step 1.2 alone, for as many bytes as the training FLOPs of 1.1 and 1.2 buy; the optimiser's are left out.

    Its encoder begins untrained, so it has the rates and the warm-up of step 1.1. runs: those of steps 1.1 and 1.2.
    """
    tokens = TokenBytes.from_tokenizer(load_tokenizer(teacher))
    aligned = [one for name, _ in scale.corpora
               for one in tokens.align_batch(tokens.spelled(heldout_corpus(scale, name, seed=seed).documents))]
    size = sum(len(one.byte_ids) for one in aligned) / sum(len(one.token_ids) for one in aligned)
    config = ByteStudent.from_pretrained(runs[0].model_folder).config
    align, distil = curriculum(scale)[:2]
    config.suffix = False  # not counted, as the suffixes of the router: the address of this run depends on neither
    config.router_suffixes = 0
    row = one_document(config, scale.row_bytes, size)
    dear, cheap = (sum(count_step(config, step, row, backend="fast").flops.values()) for step in (distil, align))
    return replace(distil, groups=(align.groups[0], *distil.groups[1:]), warmup=align.warmup, snapshots=0,
                   train_bytes=distil.train_bytes + round(align.train_bytes * cheap / dear))
