"""Models under noise: the rows of the paper's Tables 6, 7 and 8 (appendix A), from per-item answers.

A model answers every column clean and under each perturbation in each place. The answers to one perturbation are
averaged over its places item by item, so errors and intervals are over items, which are all that is independent.
Columns are those with a chance level above zero that the scale's corpora teach, and a choice of real prose: Eq. 5 asks
what is left above chance, and what is generated has no completion to perturb.

The rates of BLT's noise leave a small teacher little to lose. So noise is graded as well: it hits a share of the words
alone, in prompt and completion, and an item's answers are averaged over GRADES. Beside right and wrong there are two
outcomes without a floor: margins, and bits per byte of noisy text.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dbyte.evaluate import stats
from dbyte.evaluate.measure import CLEAN, Measurer, bits_row
from dbyte.evaluate.noisy_lm import MIXED, PLACES, Noise
from dbyte.evaluate.stats import AVERAGE, Columns
from dbyte.presets import Scale
from dbyte.text.corpus import load_corpus
from dbyte.text.perturb import KINDS
from dbyte_paper.above_chance import kept_above_chance
from dbyte_tasks import minibench, prose
from dbyte_tasks.column import Column, Marks
from dbyte_tasks.paper import BENCHMARKS, Benchmark

NOISE_AVERAGE = "noise average"
PAPERS = "HellaS"  # the column of Tables 6 to 8, which `world_full` teaches; `world` teaches the others
TAUGHT = (PAPERS, "PIQA", "ARC-E")
TOGETHER = "together"  # a key of answers: the cluster of each item
GRADES = (0.2, 0.5, 1.0)  # shares of the words that are hit: Drop leaves out 2, 5 and 10 of a hundred characters
RIGHT, MARGINS = "correct", "margins"  # what is said of an item: whether the model is right, and by how many nats
# task -> "clean" or perturbation -> [N]: between 0 and 1, or margins in nats
Answers = dict[str, dict[str, np.ndarray]]
Models = Mapping[str, tuple[Path, str]]  # name -> folder and reading


def columns(scale: Scale, *, only: Sequence[str] | None = None) -> dict[str, Column] | dict[str, Benchmark]:
    """The columns that are asked at a scale, by name; only: these alone. With real benchmarks it is the paper's own."""
    if scale.benchmarks:
        return {PAPERS: BENCHMARKS[PAPERS]}
    taught = minibench.taught_by(name for name, _ in scale.corpora)
    asked = {name: taught[name] for name in TAUGHT if name in taught} | {prose.NAME: prose_column()}
    return {name: column for name, column in asked.items() if only is None or name in only}


@cache
def prose_column() -> Column:
    """The choice of real prose, from the held-out documents of its corpus."""
    heldout, trained = (load_corpus(prose.CORPUS, split=split).documents for split in ("heldout", "train"))
    return prose.column(heldout, trained)


def chances(scale: Scale, *, only: Sequence[str] | None = None) -> dict[str, float]:
    """What guessing scores on each column, and on their average; only: these columns."""
    each = {name: column.chance for name, column in columns(scale, only=only).items()}
    return each | {AVERAGE: float(np.mean(list(each.values())))}


def answers(
    measurer: Measurer, folder: Path, reading: str, *, items: int, only: Sequence[str] | None = None,
    share: float = 1.0, places: Sequence[str] = PLACES, what: str = RIGHT,
) -> Answers:
    """Whether a model is right on the first `items` of each column (or `only` some), clean and under each noise.

    share: of the words that noise hits. what: RIGHT, or MARGINS in their place. ValueError for margins of a column that
    has none.
    """
    found: Answers = {}
    for name, column in columns(measurer.scale, only=only).items():
        def said(noise: Noise | None = None, column: Column | Benchmark = column) -> tuple[np.ndarray, Sequence]:
            result = measurer.column(folder, reading, column, items=items, noise=noise)
            if not len(values := getattr(result, what)):
                raise ValueError(f"{result.column} was measured without {what}, before they were kept: remove "
                                 "runs/measured, and it is measured again")
            return np.asarray(values, dtype=float), getattr(result.correct, "clusters", ())

        clean, together = said()
        found[name] = {CLEAN: clean, TOGETHER: together}
        for kind in KINDS:
            found[name][kind] = np.mean([said(Noise(kind, place, measurer.seed, share))[0] for place in places], axis=0)
    return found


def graded(measurer: Measurer, folder: Path, reading: str, *, items: int, only: Sequence[str] | None = None,
           what: str = RIGHT) -> dict[float, Answers]:
    """`answers` at each of GRADES, with noise in prompt and completion, and under 0 their mean over grades."""
    each = {share: answers(measurer, folder, reading, items=items, only=only, share=share, places=("both",), what=what)
            for share in GRADES}
    means = {task: {kind: one if kind == TOGETHER else np.mean([found[task][kind] for found in each.values()], axis=0)
                    for kind, one in kinds.items()} for task, kinds in each[GRADES[0]].items()}
    return {0.0: means} | each


def minus(one: Answers, other: Answers) -> Answers:
    """One model's answers less another's, item by item."""
    return {task: {kind: each if kind == TOGETHER else each - other[task][kind] for kind, each in kinds.items()}
            for task, kinds in one.items()}


def first(found: Answers, items: int) -> Answers:
    """The answers to the first items of each column: fewer items are a prefix of more."""
    return {task: {kind: each[:items] for kind, each in kinds.items()} for task, kinds in found.items()}


def of(kind: str, found: Answers) -> Columns:
    """The answers to one perturbation or to clean text, by task; NOISE_AVERAGE: each item's mean over all five."""
    wanted = KINDS if kind == NOISE_AVERAGE else (kind,)
    return {task: Marks.in_clusters(np.mean([kinds[each] for each in wanted], axis=0), kinds.get(TOGETHER, ()))
            for task, kinds in found.items()}


# -- rows of results --------------------------------------------------------------------------------------------------


def noise_rows(model: str, found: Answers, chance: dict[str, float]) -> list[dict]:
    """Accuracy in percent: model, task (and the average of all), kind (and the average of all noise), value, stderr, n.

    Columns weigh equally in their average, and their items are independent, so variances add up. Without chances it is
    margins, in nats.
    """
    rows = []
    unit = 100 if chance else 1
    for task in (*found, AVERAGE):
        for kind in (CLEAN, *KINDS, NOISE_AVERAGE):
            means = [stats.mean_of_items(each) for each in stats.of_task(of(kind, found), task).values()]
            rows.append({"model": model, "task": task, "kind": kind,
                         "value": unit * float(np.mean([mean.value for mean in means])),
                         "stderr": unit * float(np.sqrt(sum(mean.stderr**2 for mean in means))) / len(means),
                         "n": sum(mean.n for mean in means), "chance": 100 * chance.get(task, math.nan),
                         "clusters": stats.clusters_in(stats.of_task(of(kind, found), task))})
    return rows


def margin_rows(found: Mapping[str, Answers], first: str) -> list[dict]:
    """Margins of every model in nats, and of every other model less the first's, paired by item, named by both."""
    rows = [row for model, each in found.items() for row in noise_rows(model, each, {})]
    return rows + [row for model, each in found.items() if model != first
                   for row in noise_rows(f"{model} - {first}", minus(each, found[first]), {})]


def bits_rows(measurer: Measurer, models: Models, first: str) -> list[dict]:
    """Bits per byte of held-out text, clean (share 0) and with mixed noise of each grade: model, corpus, share.

    more, more_stderr: how many more they are than the first model's, in percent, with the paired error over pieces.
    """
    rows = []
    for corpus, _ in measurer.scale.corpora:
        for share in (0.0, *GRADES):
            noise = Noise(MIXED, seed=measurer.seed, share=share) if share else None
            found = {model: measurer.bits(*how, corpus, noise) for model, how in models.items()}
            for model, one in found.items():
                ratio = stats.ratio_of_sums((one["nats_P"], found[first]["nats_P"]))
                rows.append(bits_row(model, corpus, one) | {"share": share, "more": 100 * (ratio.value - 1),
                                                            "more_stderr": 100 * ratio.stderr})
    return rows


def score_rows(model: str, found: Answers, chance: dict[str, float]) -> list[dict]:
    """Eq. 5 with its interval in percent, and Delta in points: one row per task and one for the average.

    A task on which the model is not above chance has no score and no row.
    """
    rows = []
    for task in (*found, AVERAGE):
        noisy, clean = (stats.of_task(of(kind, found), task) for kind in (NOISE_AVERAGE, CLEAN))
        score = kept_above_chance(noisy, clean, chance=chance[task])
        if not np.isnan(score.value):
            kept, had = (float(np.mean([np.mean(each) for each in side.values()])) for side in (noisy, clean))
            row = stats.interval_row(score, stats.items_in(noisy))
            rows.append({"model": model, "task": task} | row | {"delta": 100 * (had - kept)})
    return rows


# -- the claims of appendix A -----------------------------------------------------------------------------------------


def robustness_claims(teacher: Answers, stage1: Answers, stage2: Answers, *, within: float) -> list[dict]:
    """The claims of appendix A.1; `within`: the points that "about as robust as its teacher" allows."""
    return [
        *_rows("Stage 1 - teacher, noise average", NOISE_AVERAGE, stage1, teacher, threshold=-within),
        *_rows("Stage 1 - teacher, antspeak", "antspeak", stage1, teacher),
        *_rows("Stage 1 - teacher, drop", "drop", stage1, teacher),
        *_rows("Stage 2 - Stage 1, noise average", NOISE_AVERAGE, stage2, stage1, direction="below"),
        *_cost_rows("Stage 2 - Stage 1, Delta", stage2, stage1),
    ]


def boundary_claims(control: Answers, trimmed: Answers, penalised: Answers) -> list[dict]:
    """The claims of appendix A.2, each variant against as many more bytes of the plain step 1.3."""
    return [
        *_rows("Trim Data - control, noise average", NOISE_AVERAGE, trimmed, control),
        *_cost_rows("Whitespace Penalty - control, Delta", penalised, control, direction="below"),
        *_rows("Whitespace Penalty - control, clean", CLEAN, penalised, control, direction="below"),
    ]


def tuning_claims(before: dict[str, Answers], after: dict[str, Answers]) -> list[dict]:
    """The claims of appendix A.3: what fine-tuning on noise gives teacher and Stage 1, and what clean text loses.

    A gain is after - before; the gains of two models are compared item by item, as the costs of noise are.
    """
    rows = []
    for model in before:
        rows += _rows(f"{model}, tuned - before, noise average", NOISE_AVERAGE, after[model], before[model])
    for kind in (NOISE_AVERAGE, "antspeak", CLEAN):
        rows += _change_rows(f"stage1 - teacher, gain when tuned, {kind}",
                             (of(kind, after["stage1"]), of(kind, before["stage1"])),
                             (of(kind, after["teacher"]), of(kind, before["teacher"])))
    return rows


def _rows(what: str, kind: str, one: Answers, other: Answers, **claim) -> list[dict]:
    """`difference_rows` of the answers to one perturbation."""
    return stats.difference_rows(what, of(kind, one), of(kind, other), **claim)


def _cost_rows(what: str, one: Answers, other: Answers, **claim) -> list[dict]:
    """Delta of one minus Delta of other in points."""
    sides = [(of(CLEAN, found), of(NOISE_AVERAGE, found)) for found in (one, other)]
    return _change_rows(what, *sides, **claim)


def _change_rows(what: str, one: tuple[Columns, Columns], other: tuple[Columns, Columns], **claim) -> list[dict]:
    """(a - b) - (c - d) in points as `difference_rows`, for one = (a, b) and other = (c, d).

    That is twice (a + d) / 2 - (c + b) / 2, and those halves lie in [0, 1] as the bootstrap takes them.
    """
    ours, theirs = ({task: Marks.in_clusters(np.add(marks, second[task]) / 2, getattr(marks, "clusters", ()))
                     for task, marks in first.items()} for first, second in ((one[0], other[1]), (other[0], one[1])))
    return [row | {name: 2 * row[name] for name in ("value", "stderr", "low", "high")}
            for row in stats.difference_rows(what, ours, theirs, **claim)]
