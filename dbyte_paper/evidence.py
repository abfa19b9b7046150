"""Rows whose comparison is fair: arms for a sweep of rates, dose responses, the paper's recipe and its departures.

As in variants.py a variant is one row of a table, and is trained by the one loop. Two arms are compared
fairly where both read as many bytes, each at the best of its own rates: `at_best_rate` tries the same three factors on
all rates of each, and chooses by items of the seed CHOOSING, which no table reports.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from dbyte.distill import objectives
from dbyte.distill.steps import Step, stage1, stage2
from dbyte.evaluate import stats
from dbyte.evaluate.harness import correct_by_column
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.noisy_lm import Noise
from dbyte.evaluate.stats import AVERAGE, Columns
from dbyte.model.router import SplitRouter
from dbyte.model.student_config import StudentConfig
from dbyte.presets import PAPER_SIZES, Scale
from dbyte.text.corpus import load_corpus
from dbyte_paper.ablation_runs import Measurements, Trained, correct_of
from dbyte_paper.nested import nested_difference
from dbyte_paper.variants import Variant, alignments, encoders, run_variant, sequence
from dbyte_tasks import minibench
from dbyte_tasks.world.full import WORLDS

CHOOSING, REPORTING = 7, 11  # seeds of items: by the first a rate is chosen, the second are asked once
RATES = (1.0, 1 / 3, 3.0)  # of each sweep, as factors; of equally good ones the first is taken
SWEEP = "1/3 1 3"
PLENTY = 1000  # items that a column has beyond those that are reported, so that it may choose
T = TypeVar("T")


def at_rate(variant: Variant, factor: float, parts: tuple[str, ...] | None = None, *, since: int = 0) -> Variant:
    """Return the variant with every rate times a factor, of all steps but the first `since`.

    parts: of the group of these parts alone.
    """
    def faster(step: Step) -> Step:
        return replace(step, groups=tuple(
            replace(group, rate=factor * group.rate, muon_rate=factor * group.muon_rate)
            if parts in (None, group.parts) else group for group in step.groups))

    return replace(variant, steps=(*variant.steps[:since], *map(faster, variant.steps[since:])), rate=factor)


def sized(variant: Variant, share: float, *, since: int = 0) -> Variant:
    """Return the variant with a share (0 to 1) of the bytes of every step but the first `since`, without snapshots."""
    return variant if share == 1 else replace(variant, steps=variant.steps[:since] + tuple(
        replace(step, train_bytes=max(round(share * step.train_bytes), 1), snapshots=0)
        for step in variant.steps[since:]))


def main_share(scale: Scale) -> Scale:
    """The scale with the share of the main budget that recipes are compared at, in every step."""
    def smaller(table: Mapping[str, float]) -> dict[str, float]:
        return {name: max(round(scale.ablation.recipe_share * value), 1) if name.endswith("_bytes") and value else value
                for name, value in table.items()}

    return replace(scale, stage1=smaller(scale.stage1), stage2=smaller(scale.stage2))


def doses(scale: Scale) -> tuple[tuple[float, tuple[Variant, Variant]], ...]:
    """Section 4.2.1 as a dose response: (bytes, the sequence and the joint objective) at each dose of the scale.

    Half of the sequence's bytes go to step 1.1, which must reach its plateau before the others can be judged.
    """
    found = []
    for dose in scale.ablation.doses:
        total = round(dose * scale.ablation.step_bytes)
        sizes = dict(align_bytes=total // 2, distill_bytes=total // 4, boundary_bytes=total - total // 2 - total // 4)
        align, distil, boundary = steps = sequence(scale, **sizes, snapshots=0)
        groups = (align.groups[0], *distil.groups[1:], boundary.groups[0])
        joint = Step("1 joint", 1, objectives.joint(1, 1, 1), groups, total, warmup=distil.warmup, floor=0.1)
        found.append((total, (Variant("1.1, 1.2, 1.3", steps), Variant("joint, weights 1 1 1", (joint,)))))
    return tuple(found)


def encoder_doses(scale: Scale) -> tuple[tuple[int, tuple[Variant, ...]], ...]:
    """Table 5 as a dose response: (bytes, Mamba2 and the Transformer) at each dose of the scale, by step 1.1 alone."""
    several = [tuple(sized(one, dose) for one in encoders(scale)[:2]) for dose in scale.ablation.encoder_doses]
    return tuple((pair[0].steps[0].train_bytes, pair) for pair in several)


BESIDE = ", Eq. 4"  # ends the name of a student whose router learns beside the encoder, from step 1.1 on


def routers(scale: Scale) -> tuple[tuple[int, tuple[Variant, ...]], ...]:
    """Table 9 as (bytes, {integrated, split} x {step 1.3 alone, Eq. 4 from the start}) at each budget of step 1.3.

    Most bytes before it go to step 1.1, so that the integrated router reads an encoder that has learnt. Where the
    integrated router has SwiGLU networks, they are as wide as makes its parameters those of the split one.
    """
    size = scale.ablation.step_bytes
    width = scale.student["byte_width"]
    split = dict(router="split", router_suffixes=0)  # a split router has none
    if width < PAPER_SIZES["byte_width"]:  # else appendix B's own, 4 layers of 512
        split |= dict(router_width=width, router_layers=2)
    integrated = dict(router_suffixes=0)
    if scale.student.get("router_ffn_width"):  # two networks of three matrices
        integrated["router_ffn_width"] = max(round(_split_size(scale, split) / (6 * width)), 1)
    found = []
    for dose in scale.ablation.router_doses:
        sizes = dict(align_bytes=3 * size // 2, distill_bytes=size // 4, boundary_bytes=round(dose * size), snapshots=0)
        rows = tuple(Variant(f"{name}{way}", sequence(scale, **sizes, boundary_loss=bool(way)), student)
                     for way in ("", BESIDE) for name, student in (("integrated", integrated), ("split", split)))
        found.append((sum(step.train_bytes for step in rows[0].steps), rows))
    return tuple(found)


def _split_size(scale: Scale, changes: Mapping[str, object]) -> int:
    """How many parameters the split router of a student has."""
    with torch.device("meta"):
        router = SplitRouter(StudentConfig(**{**scale.student, **changes}).router_shape())
    return sum(weight.numel() for weight in router.parameters())


# The departures from the paper's recipe at the small scales: Eq. 4 beside the other objectives, Muon, SwiGLU maps of
# the router. Without any of them a student is the paper's, word for word.
AS_PRINTED = "as in the paper"
DEPARTURES = ("Eq. 4", "Muon", "SwiGLU")


def recipes(scale: Scale) -> tuple[Variant, ...]:
    """All five steps at the main budget with every choice of DEPARTURES, the paper's own recipe first.

    A scale that does not depart in one of them has equal students with and without it.
    """
    found = []
    for chosen in product((False, True), repeat=len(DEPARTURES)):
        beside, muon, swiglu = chosen
        first, second = ({name: 0.0 if name.endswith("_muon") and not muon else value for name, value in table.items()}
                         | ({} if beside else {"boundary_loss": False}) for table in (scale.stage1, scale.stage2))
        steps = stage1(**first) + stage2(**second)
        taken = ", ".join(name for name, one in zip(DEPARTURES, chosen, strict=True) if one)
        found.append(Variant(taken or AS_PRINTED, steps, {} if swiglu else {"router_ffn_width": 0}))
    return tuple(found)


def rate_matched(scale: Scale) -> tuple[Variant, Variant]:
    """Table 3's two arms for a sweep: the one that only distils begins at the encoder's rates and warm-up of step 1.1.

    So section 6.1's one rate for both encoders is inside both sweeps.
    """
    first, only, *_ = alignments(scale)
    align = first.steps[0]
    step = only.steps[0]
    matched = replace(step, groups=(align.groups[0], *step.groups[1:]), warmup=align.warmup)
    return first, replace(only, steps=(matched,))


def halves(scale: Scale, corpus: str, *, seed: int) -> tuple[list[str], list[str]]:
    """Held-out documents of a corpus to choose rates by, and as many others to report."""
    size = 2 * scale.ablation.heldout_bytes
    documents = load_corpus(corpus, split="heldout", seed=seed, max_bytes=size).documents
    return list(documents[::2]), list(documents[1::2])


def real_text(scale: Scale) -> str:
    """The first corpus of a scale that is not of the built-in world; ValueError where there is none."""
    for name, _ in scale.corpora:
        if name not in WORLDS:
            return name
    raise ValueError(f"scale {scale.name} trains on the built-in world alone, and this is asked of real text: give its "
                     "corpora another one, such as pydocs")


def at_best_rate(scale: Scale, variants: Sequence[Variant], reading: str, *, seed: int, share: float = 1.0,
                 batch_rows: int | None = None, parts: tuple[str, ...] | None = None, since: int = 0,
                 noise: Noise | None = None, score: Callable[[Path], float] | None = None) -> list[Variant]:
    """Each variant with its rates times the factor of RATES at which its student of this seed scores best.

    share: of the bytes, which a sweep reads. batch_rows: as of `train`. parts: whose rates are swept, None: all.
    since: the first steps that are left as they are. noise: in front of the model that is scored. score: of a model's
    folder, in place of what `best_of` scores; it may not read what is reported.
    """
    def folder(variant: Variant, factor: float) -> Path:
        return _folder(scale, at_rate(variant, factor, parts, since=since), seed=seed, share=share,
                       batch_rows=batch_rows, since=since)

    best = {variant.name: max(RATES, key=lambda factor, one=variant: score(folder(one, factor))) if score else
            best_factor(scale, partial(folder, variant), reading, seed=seed, noise=noise) for variant in variants}
    return [at_rate(variant, best[variant.name], parts, since=since) for variant in variants]


def best_variant(scale: Scale, variants: Sequence[Variant], reading: str, *, seed: int, share: float = 1.0,
                 batch_rows: int | None = None) -> Variant:
    """The variant whose student of this seed scores best; the other arguments are those of `at_best_rate`."""
    folder = partial(_folder, scale, seed=seed, share=share, batch_rows=batch_rows)
    return best_of(scale, variants, folder, reading, seed=seed)


def _folder(scale: Scale, variant: Variant, *, seed: int, share: float, batch_rows: int | None, since: int = 0) -> Path:
    """The folder of a variant's student after a share of its bytes."""
    return run_variant(scale, sized(variant, share, since=since), seed=seed, teacher_seed=seed,
                       batch_rows=batch_rows or scale.ablation.batch_rows)[-1].model_folder


def best_factor(scale: Scale, folder: Callable[[float], Path], reading: str, *, seed: int,
                noise: Noise | None = None) -> float:
    """The factor of RATES whose model, in the folder that is returned for it, scores best, as in `best_of`."""
    return best_of(scale, RATES, folder, reading, seed=seed, noise=noise)


def best_of(scale: Scale, among: Sequence[T], folder: Callable[[T], Path], reading: str, *, seed: int,
            noise: Noise | None = None) -> T:
    """The one whose model, in the folder that is returned for it, scores best; of equal ones the first.

    Scored are items of the seed CHOOSING of columns with plenty of them; of equal scores, the lower bits per byte of
    the first corpus wins. noise: in front of the model that is scored.
    """
    measurer = Measurer(scale, seed, drawn=CHOOSING)
    names = [name for name, column in minibench.taught_by(name for name, _ in scale.corpora).items()
             if column.available >= PLENTY]
    corpus = scale.corpora[0][0]

    def score(one: T) -> tuple[float, float]:
        place = folder(one)
        found = measurer.columns(place, reading, items=scale.ablation.items, only=names, noise=noise)
        return (sum(column.accuracy for column in found.values()),
                -measurer.bits(place, reading, corpus, noise)["value"])

    return max(among, key=score)


def arms(variants: Sequence[Variant], *, since: int = 0, **more: Mapping[str, object]) -> dict[str, dict]:
    """What each variant got, as columns of its rows: train_bytes, rate (0: of no sweep) and sweep ("": none).

    since: the first steps, which are not counted. more: further columns, each with a value for every variant by its
    name.
    """
    return {variant.name: {"train_bytes": sum(step.train_bytes for step in variant.steps[since:]), "rate": variant.rate,
                           "sweep": SWEEP if variant.rate else ""}
            | {column: values[variant.name] for column, values in more.items()} for variant in variants}


def effect_rows(measured: Measurements, factors: Sequence[str]) -> list[dict]:
    """Tidy rows of what each of K factors adds, in points: the mean over all pairs of models that differ in it alone.

    measured: 2^K models, the last factor changing fastest, each without before with. The pairs count as seeds.
    """
    return effects([correct_of(by_seed)[0] for by_seed in measured.values()], factors)


def effects(correct: Sequence[Columns], factors: Sequence[str]) -> list[dict]:
    """`effect_rows` of the answers of each model."""
    rows = []
    for place, factor in enumerate(factors):
        bit = 1 << (len(factors) - 1 - place)
        without = [number for number in range(len(correct)) if not number & bit]
        found = stats.difference([correct[number | bit] for number in without], [correct[number] for number in without])
        rows.append({"what": factor, "task": AVERAGE} | stats.interval_row(found, stats.items_in(correct[0]))
                    | {"clusters": stats.clusters_in(correct[0]), "pairs": len(without),
                       "verdict": stats.verdict(found.low, found.high)})
    return rows


def nested_row(measured: Sequence[Mapping[str, object]], what: str) -> dict:
    """A tidy row of student minus teacher in points over several teachers, each with as many students.

    measured: for each teacher, {"teacher": its columns, "students": those of each of its students}, of the same items.
    """
    students = [correct_of(one["students"]) for one in measured]
    teachers = [correct_by_column(one["teacher"]) for one in measured]
    found = nested_difference(students, teachers)
    return {"what": what, "task": AVERAGE} | stats.interval_row(found, stats.items_in(teachers[0])) | {
        "clusters": stats.clusters_in(teachers[0]), "teachers": len(teachers), "seeds": len(students[0])}


def falling(trained: Trained, *, step: int = 0) -> dict[str, float]:
    """By how many percent each variant's loss of one step fell from its third to its last quarter: 0 on a plateau.

    Over all seeds; nan where the step has fewer than four lines in its log.
    """
    found = {}
    for name, by_seed in trained.items():
        quarters = [[line["loss"] for runs in by_seed for log in [runs[step].metrics()]
                     for line in log[k * len(log) // 4 : (k + 1) * len(log) // 4]] for k in (2, 3)]
        before, after = (sum(each) / len(each) if each else math.nan for each in quarters)
        found[name] = 100 * (1 - after / before)
    return found


def gained(rows: Sequence[Mapping]) -> dict[str, float]:
    """By how many points each model's mean over corpora rose from the second largest budget to the largest.

    rows: model, corpus, train_bytes, value, such as F1 in percent, of at least two budgets.
    """
    means = pd.DataFrame(rows).groupby(["model", "train_bytes"])["value"].mean().unstack()
    before, last = sorted(means)[-2:]
    return (means[last] - means[before]).to_dict()
