"""Models under noise: the rows of the paper's Tables 6, 7 and 8 (appendix A), from per-item answers.

A model answers every column clean and under each perturbation in each place. The answers to one perturbation are
averaged over its places item by item, so errors and intervals are over items, which are all that is independent.
Columns are those with a chance level above zero that the scale's corpora teach, and a choice of real prose: Eq. 5 asks
what is left above chance, and what is generated has no completion to perturb.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.noisy_lm import PLACES, Noise
from dbyte.evaluate.robustness import delta, over_places
from dbyte.evaluate.stats import AVERAGE, Columns, difference_rows, interval_row, kept_above_chance, mean_of_items
from dbyte.presets import Scale
from dbyte.tasks import minibench, prose
from dbyte.tasks.column import Column
from dbyte.text.corpus import load_corpus
from dbyte.text.perturb import KINDS

CLEAN = "clean"
NOISE_AVERAGE = "noise average"
PAPERS = "HellaS"  # the column of Tables 6 to 8, which `world_full` teaches; `world` teaches the others
TAUGHT = (PAPERS, "PIQA", "ARC-E")
Answers = dict[str, dict[str, np.ndarray]]  # task -> "clean" or perturbation -> [N] between 0 and 1


def columns(scale: Scale) -> dict[str, Column]:
    """The columns that are asked at a scale, by name."""
    taught = minibench.taught_by(name for name, _ in scale.corpora)
    return {name: taught[name] for name in TAUGHT if name in taught} | {prose.NAME: prose_column()}


@cache
def prose_column() -> Column:
    """The choice of real prose, from the held-out documents of its corpus."""
    heldout, trained = (load_corpus(prose.CORPUS, split=split).documents for split in ("heldout", "train"))
    return prose.column(heldout, trained)


def chances(scale: Scale, *, only: Sequence[str] | None = None) -> dict[str, float]:
    """What guessing scores on each column, and on their average; only: these columns."""
    each = {name: column.chance for name, column in columns(scale).items() if only is None or name in only}
    return each | {AVERAGE: float(np.mean(list(each.values())))}


def answers(
    measurer: Measurer, folder: Path, reading: str, *, items: int, only: Sequence[str] | None = None
) -> Answers:
    """What a model answers to the first `items` of each column (`only` these), clean and under each perturbation."""
    def correct(column: Column, noise: Noise | None = None) -> tuple[int, ...]:
        return measurer.column(folder, reading, column, items=items, noise=noise).correct

    return {name: {CLEAN: np.asarray(correct(column), dtype=float)} | {
        kind: over_places({place: correct(column, Noise(kind, place, measurer.seed)) for place in PLACES})
        for kind in KINDS} for name, column in columns(measurer.scale).items() if only is None or name in only}


def first(found: Answers, items: int) -> Answers:
    """The answers to the first items of each column: fewer items are a prefix of more."""
    return {task: {kind: each[:items] for kind, each in kinds.items()} for task, kinds in found.items()}


def of(kind: str, found: Answers) -> Columns:
    """The answers to one perturbation or to clean text, by task."""
    return {task: kinds[kind] for task, kinds in found.items()}


def noise_average(found: Answers) -> Columns:
    """Each item's mean over the five perturbations, by task."""
    return {task: np.mean([kinds[kind] for kind in KINDS], axis=0) for task, kinds in found.items()}


# -- rows of results --------------------------------------------------------------------------------------------------


def noise_rows(model: str, found: Answers, chance: dict[str, float]) -> list[dict]:
    """Accuracy in percent: model, task (and the average of all), kind (and the average of all noise), value, stderr, n.

    Columns weigh alike in their average, and their items are independent, so variances add up.
    """
    every = {task: kinds | {NOISE_AVERAGE: noise_average(found)[task]} for task, kinds in found.items()}
    rows = []
    for task in (*every, AVERAGE):
        for kind in (CLEAN, *KINDS, NOISE_AVERAGE):
            means = [mean_of_items(each) for each in _tasks(of(kind, every), task).values()]
            rows.append({"model": model, "task": task, "kind": kind,
                         "value": 100 * float(np.mean([mean.value for mean in means])),
                         "stderr": 100 * float(np.sqrt(sum(mean.stderr**2 for mean in means))) / len(means),
                         "n": sum(mean.n for mean in means), "chance": 100 * chance[task]})
    return rows


def score_rows(model: str, found: Answers, chance: dict[str, float]) -> list[dict]:
    """Eq. 5 with its interval in percent, and Delta in points, a row a task and one for their average.

    A task on which the model is not above chance has no score and no row.
    """
    rows = []
    noisy = noise_average(found)
    clean = of(CLEAN, found)
    for task in (*found, AVERAGE):
        one = _tasks(noisy, task)
        other = _tasks(clean, task)
        score = kept_above_chance(one, other, chance=chance[task])
        if np.isnan(score.value):
            continue
        lost = delta(*(float(np.mean([each.mean() for each in side.values()])) for side in (other, one)))
        rows.append({"model": model, "task": task} | interval_row(score, _items(one)) | {"delta": 100 * lost})
    return rows


def cost_difference_rows(what: str, one: Answers, other: Answers, *, direction: str = "above") -> list[dict]:
    """Delta of one minus Delta of other in points, as `difference_rows`.

    (a - b) - (c - d) is twice (a + d) / 2 - (c + b) / 2, and those halves lie in [0, 1] as the bootstrap takes them.
    """
    ours = _halves(one, other)
    theirs = _halves(other, one)
    return _doubled(difference_rows(what, ours, theirs, direction=direction))


def robustness_claims(teacher: Answers, stage1: Answers, stage2: Answers, *, within: float) -> list[dict]:
    """The claims of appendix A.1; `within`: the points that "about as robust as its teacher" allows."""
    noisy = [noise_average(found) for found in (teacher, stage1, stage2)]
    return [
        *difference_rows("Stage 1 - teacher, noise average", noisy[1], noisy[0], threshold=-within),
        *difference_rows("Stage 1 - teacher, antspeak", of("antspeak", stage1), of("antspeak", teacher)),
        *difference_rows("Stage 1 - teacher, drop", of("drop", stage1), of("drop", teacher)),
        *difference_rows("Stage 2 - Stage 1, noise average", noisy[2], noisy[1], direction="below"),
        *cost_difference_rows("Stage 2 - Stage 1, Delta", stage2, stage1),
    ]


def boundary_claims(control: Answers, trimmed: Answers, penalised: Answers) -> list[dict]:
    """The claims of appendix A.2, each variant against as many more bytes of the plain step 1.3."""
    return [
        *difference_rows("Trim Data - control, noise average", noise_average(trimmed), noise_average(control)),
        *cost_difference_rows("Whitespace Penalty - control, Delta", penalised, control, direction="below"),
        *difference_rows("Whitespace Penalty - control, clean", of(CLEAN, penalised), of(CLEAN, control),
                         direction="below"),
    ]


def tuning_claims(before: dict[str, Answers], after: dict[str, Answers]) -> list[dict]:
    """The claims of appendix A.3: what fine-tuning on noise gives teacher and Stage 1, and what clean text loses.

    A gain is after - before; the gains of two models are compared item by item, as the costs of noise are.
    """
    rows = []
    for model in before:
        rows += difference_rows(f"{model}, tuned - before, noise average", noise_average(after[model]),
                                noise_average(before[model]))
    for kind in (NOISE_AVERAGE, "antspeak", CLEAN):
        ours = _mean(kind, after["stage1"], before["teacher"])
        theirs = _mean(kind, before["stage1"], after["teacher"])
        rows += _doubled(difference_rows(f"stage1 - teacher, gain when tuned, {kind}", ours, theirs))
    return rows


def _mean(kind: str, one: Answers, other: Answers) -> Columns:
    """The mean of two models' answers to one perturbation, to clean text, or to all noise."""
    first, second = (noise_average(found) if kind == NOISE_AVERAGE else of(kind, found) for found in (one, other))
    return {task: (first[task] + second[task]) / 2 for task in first}


def _doubled(rows: list[dict]) -> list[dict]:
    return [row | {name: 2 * row[name] for name in ("value", "stderr", "low", "high")} for row in rows]


def _halves(one: Answers, other: Answers) -> Columns:
    clean = of(CLEAN, one)
    noisy = noise_average(other)
    return {task: (clean[task] + noisy[task]) / 2 for task in one}


def _tasks(side: Columns, task: str) -> Columns:
    return side if task == AVERAGE else {task: side[task]}


def _items(side: Columns) -> int:
    return sum(map(len, side.values()))
