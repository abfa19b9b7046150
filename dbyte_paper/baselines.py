"""Notebook 11: every recipe from one teacher at equal bytes, each at the best of the same three rates.

A recipe is a name here. Its student is trained by the one loop, in as many bytes as all others have, whatever its steps
share them out to. `TO_BYTES` are causal language models over single bytes, made by `dbyte/transfer/`; all others are
students of the scale's shape. Both are scored at the byte level.

Legend: K budgets, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dbyte.distill import recipes
from dbyte.distill.curriculum import curriculum
from dbyte.distill.runs import Run
from dbyte.distill.steps import CORE
from dbyte.distill.teacher import teacher_run
from dbyte.distill.teacher_source import teacher_folder
from dbyte.evaluate import stats
from dbyte.evaluate.harness import ColumnResult, correct_by_column
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.stats import AVERAGE
from dbyte.model.teacher import read_teacher
from dbyte.presets import Scale
from dbyte.transfer.plan import Transfer, plan, transfer
from dbyte_paper import ablation_runs, equal_loss, tables
from dbyte_paper.ablation_runs import Measurements, Trained, correct_of
from dbyte_paper.ablations import COLOURS, MARKERS
from dbyte_paper.above_chance import kept_above_chance
from dbyte_paper.byte_interface import texts_of
from dbyte_paper.evidence import SWEEP, at_rate, best_factor
from dbyte_paper.figures import MB, STYLE, panels
from dbyte_paper.published import lines
from dbyte_paper.tables import SIGMA
from dbyte_paper.variants import Variant, byte_targets, from_nothing, run_variant

STAGES, STAGE1, DENSE = "two stages", "two stages, Stage 1", "two stages, dense targets"
SCRATCH, HNET, HNET_OWN = "from scratch", "H-Net distillation", "H-Net, own boundaries"
BLT, BOLMO, ALM, BLD = "BLT-style", "Bolmo-style", "ALM to bytes", "BLD to bytes"
TO_BYTES = {ALM: {"method": "alm"},
            BLD: {"method": "bld", "reading": "joint", "precompute": True}}
RECIPES = (STAGES, DENSE, BOLMO, HNET, HNET_OWN, BLT, ALM, BLD, SCRATCH)
BYTE_RATE, BYTE_RANK = 2e-3, 64  # of a student of TO_BYTES before the sweep, and of its LoRA
# Where the paper prints what each is named after: Table 1's average drop, Table 11's average accuracy.
TABLE1 = {STAGE1: "Ours, Llama-3.2-3B, stage1", STAGES: "Ours, Llama-3.2-3B, stage2", BLT: "BLT Distill, Llama-2-7B, "
          "student", ALM: "ALM, Llama-3.2-3B, student", HNET: "H-Net Distill, Llama-3.2-3B, student"}
TABLE11 = {STAGE1: "ours stage1", STAGES: "ours stage2", BOLMO: "Bolmo 1B", SCRATCH: "H-Net XL 1-stage", BLT: "BLT 1B",
           "teacher": "OLMo 2 1B"}


# -- recipes ----------------------------------------------------------------------------------------------------------


def reading(name: str) -> str:
    """How a recipe's model is scored; see measure.py."""
    return "token" if name in TO_BYTES else "stage1/router" if name == STAGE1 else "stage2/router"


def of_bytes(variant: Variant, total: int, *, since: int = 0) -> Variant:
    """Return the variant with `total` bytes in all steps but the first `since`, in its own proportions, to the byte.

    These keep no snapshots.
    """
    begun, rest = variant.steps[:since], variant.steps[since:]
    before = [step.train_bytes for step in rest]
    sizes = [round(total * size / sum(before)) for size in before]
    sizes[-1] += total - sum(sizes)
    return replace(variant, steps=begun + tuple(replace(step, train_bytes=size, snapshots=0)
                                                for step, size in zip(rest, sizes, strict=True)))


def students(scale: Scale, total: int) -> dict[str, Variant]:
    """The recipes whose student has the scale's shape, each in `total` bytes, at rates before a sweep.

    What is new trains at step 1.1's rates, by Muon where that does, and a core next to it at step 1.2's; Bolmo's second
    step is at step 2.2's, its core at half of that.
    """
    scale = from_nothing(scale)  # as all other recipes
    align, distil, *_, full = (step.groups for step in curriculum(scale) if step.name != "2.2 own")
    new = align[0]
    given = {"train_bytes": total, "rate": new.rate, "muon": new.muon_rate}
    core_rate = next((group.rate for group in distil if group.parts == CORE), recipes.SLOWER * new.rate)
    width = {"router_width": scale.student["byte_width"], "router_layers": 2}
    shape = scale.teacher
    layers = (read_teacher(teacher_folder(shape))[0].num_hidden_layers if isinstance(shape, str) else shape.layers)
    bolmo = recipes.bolmo(layers=max(layers // 4, 1), outer_rate=full[0].rate,
                          core_rate=full[0].rate / 2, **given)
    dense = next(one for one in byte_targets(scale) if one.name == "dense")
    return {one.name: one for one in (
        of_bytes(Variant(STAGES, curriculum(scale)), total),
        of_bytes(Variant(DENSE, dense.steps), total),
        Variant(BOLMO, bolmo),
        Variant(HNET, recipes.hnet_distillation(**given), recipes.HNET),
        Variant(HNET_OWN, recipes.hnet_own_boundaries(core_rate=core_rate, **given), recipes.HNET),
        Variant(BLT, recipes.blt(**given), recipes.BLT | width),
        Variant(SCRATCH, recipes.from_scratch(**given), recipes.HNET))}


def budgets(scale: Scale) -> list[int]:
    """The bytes of each student, ascending."""
    return sorted(round(budget * scale.ablation.step_bytes) for budget in scale.ablation.budgets)


def runs_of(scale: Scale, name: str, total: int, *, factor: float, seed: int, number: int = 0) -> list[Run]:
    """Train one student of a recipe in `total` bytes, or load it: its runs; number: of its seed under one teacher.

    factor: what its rates are multiplied by.
    """
    if name not in TO_BYTES:
        return run_variant(scale, at_rate(students(scale, total)[name], factor), seed=seed + number,
                           teacher_seed=seed)
    asked = Transfer(teacher=str(teacher_run(scale, seed=seed)), tokenizer="bytes", rank=BYTE_RANK,
                     rate=factor * BYTE_RATE, train_bytes=total, row_bytes=scale.row_bytes,
                     batch_rows=scale.batch_rows, **TO_BYTES[name])
    texts = texts_of(scale, total, seed)
    return [transfer(plan(asked, texts, seed=seed + number), device=scale.device, rows_at_once=scale.rows_at_once)]


def best_rates(scale: Scale, names: Sequence[str], total: int, *, seed: int) -> dict[str, float]:
    """The factor at which each recipe does best in `total` bytes, as `evidence.at_best_rate` chooses it."""
    def folder(name: str, factor: float) -> Path:
        return runs_of(scale, name, total, factor=factor, seed=seed)[-1].model_folder

    return {name: best_factor(scale, lambda factor, name=name: folder(name, factor), reading(name), seed=seed)
            for name in names}


def train(scale: Scale, rates: Mapping[str, float], total: int, *, seed: int) -> Trained:
    """Every recipe of `rates` in `total` bytes, by the scale's seeds of an ablation; two stages also by its Stage 1."""
    trained = {name: [runs_of(scale, name, total, factor=factor, seed=seed, number=number)
                      for number in range(scale.ablation.seeds)] for name, factor in rates.items()}
    if STAGES in trained:
        trained[STAGE1] = [[run for run in runs if run.config["step"]["stage"] == 1] for runs in trained[STAGES]]
    return trained


def arms(trained: Trained, rates: Mapping[str, float], total: int) -> dict[str, dict]:
    """What each row got: train_bytes, rate and sweep, as `evidence.arms` says; Stage 1 has its part of the bytes."""
    sizes = {name: total if name != STAGE1 else sum(run.config["step"]["train_bytes"] for run in by_seed[0])
             for name, by_seed in trained.items()}
    return {name: {"train_bytes": size, "budget": total, "rate": rates[STAGES if name == STAGE1 else name],
                   "sweep": SWEEP} for name, size in sizes.items()}


# -- rows -------------------------------------------------------------------------------------------------------------


def measure(measurer: Measurer, trained: Trained) -> Measurements:
    """MiniBench of each student, as its recipe is read."""
    return {name: ablation_runs.measure(measurer, {name: by_seed}, reading(name))[name]
            for name, by_seed in trained.items()}


def kept_rows(measured: Measurements, teacher: Mapping[str, ColumnResult], given: Mapping[str, dict]) -> list[dict]:
    """Tidy rows in percent: what of the teacher's average above chance each recipe keeps; none of a teacher at chance.

    given: as `arms` returns it.
    """
    chance = float(np.mean([column.chance for column in teacher.values()]))
    rows = []
    for name, by_seed in measured.items():
        found = kept_above_chance(correct_of(by_seed), correct_by_column(teacher), chance=chance)
        if not math.isnan(found.value):
            n = sum(column.n for column in teacher.values())
            rows.append({"model": name, "task": AVERAGE} | stats.interval_row(found, n) | {"seeds": len(by_seed)}
                        | given[name])
    return rows


def bits_rows(measurer: Measurer, trained: Trained, given: Mapping[str, dict]) -> list[dict]:
    """Tidy rows of bits per byte on held-out text, with the value of each seed (`by_seed`, words)."""
    rows = []
    for name, by_seed in trained.items():
        for row in ablation_runs.bits_rows(measurer, {name: by_seed}, reading(name)):
            found = [measurer.bits(runs[-1].model_folder, reading(name), row["corpus"])["value"] for runs in by_seed]
            rows.append(row | given[name] | {"by_seed": " ".join(f"{value:.6g}" for value in found)})
    return rows


def ratio_rows(bits: pd.DataFrame, one: str, others: Sequence[str]) -> list[dict]:
    """Tidy rows of the bytes that each other recipe needs, over those that `one` needs, at equal bits per byte.

    bits: what `bits_rows` recorded, with the bits of each seed; see `equal_loss.ratio_row`.
    """
    rows = []
    for corpus, of_corpus in bits.groupby("corpus"):
        curves = {name: curve(rows_of_name) for name, rows_of_name in of_corpus.groupby("model")}
        for other in others:
            rows.append({"what": f"{other} / {one}", "corpus": corpus}
                        | equal_loss.ratio_row(curves[one], curves[other]))
    return rows


def curve(rows: pd.DataFrame) -> list[list[tuple[float, float]]]:
    """(bytes, bits per byte) by seed, ascending in bytes; what more bytes made worse counts as not worse."""
    rows = rows.sort_values("train_bytes")
    bits_KS = np.array([[float(value) for value in text.split()] for text in rows["by_seed"]])
    best_KS = np.minimum.accumulate(bits_KS)
    return [list(zip(map(float, rows["train_bytes"]), bits_K.tolist(), strict=True)) for bits_K in best_KS.T]


# -- as readers see it ------------------------------------------------------------------------------------------------


def beside_published(rows: pd.DataFrame) -> pd.DataFrame:
    """Table 1 of our rows, teacher first, and the drop (Table 1) and the average (Table 11) that the paper prints.

    Ours are named after theirs and are not theirs: Table 11's H-Net and BLT were trained without a teacher.
    """
    table = tables.main_table(rows[rows["task"] != AVERAGE])
    drops, averages = lines("table01_main"), lines("table11_bolmo_comparison")
    printed = [drops[TABLE1[name]]["avg_drop"] if name in TABLE1 else "" for name in table["model"]]
    average = [averages[TABLE11[name]]["Avg"] if name in TABLE11 else "" for name in table["model"]]
    return table.assign(**{"drop, Table 1": printed, "average, Table 11": average})


@rc_context(STYLE)
def recipes_figure(kept: pd.DataFrame | None, bits: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Return what is kept above chance (left out where there is none) and bits per byte, against training bytes.

    One line a recipe; bands are two standard errors.
    """
    parts = {} if kept is None else {"kept of the teacher above chance (%)": kept}
    parts |= {f"bits per byte, {corpus}": part for corpus, part in bits.groupby("corpus")}
    figure, (grid,) = panels(1, len(parts), size=(1.0 + 3.2 * len(parts), 3.8), labels=("training bytes (MB)", ""))
    for axes, (title, part) in zip(grid, parts.items(), strict=True):
        _curves(axes, part, order)
        axes.set(title=title, xscale="log")
    handles, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _curves(axes: Axes, rows: pd.DataFrame, order: Sequence[str]) -> None:
    for name, colour, marker in zip(order, COLOURS, MARKERS, strict=False):
        part = rows[rows["model"] == name].sort_values("train_bytes")
        x, y, band = part["train_bytes"] / MB, part["value"], SIGMA * part["stderr"].fillna(0)
        axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(x, y - band, y + band, color=colour, alpha=0.15, linewidth=0)
