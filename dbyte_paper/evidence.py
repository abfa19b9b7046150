"""Rows whose comparison is fair: arms for a sweep of rates, a dose response, the paper's recipe and its departures.

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

from dbyte.distill import objectives
from dbyte.distill.steps import Step, stage1, stage2
from dbyte.evaluate import stats
from dbyte.evaluate.harness import correct_by_column
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.stats import AVERAGE
from dbyte.presets import Scale
from dbyte.text.corpus import load_corpus
from dbyte_paper.ablation_runs import Measurements, Trained, correct_of
from dbyte_paper.nested import nested_difference
from dbyte_paper.variants import Variant, alignments, run_variant, sequence
from dbyte_tasks import minibench
from dbyte_tasks.world.full import WORLDS

CHOOSING, REPORTING = 7, 11  # seeds of items: by the first a rate is chosen, the second are asked once
RATES = (1.0, 1 / 3, 3.0)  # of each sweep, as factors; of equally good ones the first is taken
SWEEP = "1/3 1 3"
PLENTY = 1000  # items that a column has beyond those that are reported, so that it may choose


def at_rate(variant: Variant, factor: float) -> Variant:
    """Return the variant with every rate of its steps times a factor."""
    def faster(step: Step) -> Step:
        return replace(step, groups=tuple(replace(group, rate=factor * group.rate, muon_rate=factor * group.muon_rate)
                                          for group in step.groups))

    return replace(variant, steps=tuple(map(faster, variant.steps)), rate=factor)


def sized(variant: Variant, share: float) -> Variant:
    """Return the variant with a share (0 to 1) of the bytes of every step; of fewer, no snapshots are kept."""
    return variant if share == 1 else replace(variant, steps=tuple(
        replace(step, train_bytes=max(round(share * step.train_bytes), 1), snapshots=0) for step in variant.steps))


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
                 batch_rows: int | None = None, score: Callable[[Path], float] | None = None) -> list[Variant]:
    """Each variant with all its rates times the factor of RATES at which its student of this seed scores best.

    Scored are items of the seed CHOOSING of columns with plenty of them; of equal scores, the lower bits per byte of
    the first corpus wins. share: of the bytes, which a sweep reads. batch_rows: as of `train`. score: of a model's
    folder, in place of all that; it may not read what is reported.
    """
    def folder(variant: Variant, factor: float) -> Path:
        tried = sized(at_rate(variant, factor), share)
        return run_variant(scale, tried, seed=seed, teacher_seed=seed,
                           batch_rows=batch_rows or scale.ablation.batch_rows)[-1].model_folder

    best = {variant.name: max(RATES, key=lambda factor, one=variant: score(folder(one, factor))) if score else
            best_factor(scale, partial(folder, variant), reading, seed=seed) for variant in variants}
    return [at_rate(variant, best[variant.name]) for variant in variants]


def best_factor(scale: Scale, folder: Callable[[float], Path], reading: str, *, seed: int) -> float:
    """The factor of RATES whose model, in the folder that is returned for it, scores best, as in `at_best_rate`."""
    measurer = Measurer(scale, seed, drawn=CHOOSING)
    names = [name for name, column in minibench.taught_by(name for name, _ in scale.corpora).items()
             if column.available >= PLENTY]
    corpus = scale.corpora[0][0]

    def score(factor: float) -> tuple[float, float]:
        place = folder(factor)
        found = measurer.columns(place, reading, items=scale.ablation.items, only=names)
        return (sum(column.accuracy for column in found.values()), -measurer.bits(place, reading, corpus)["value"])

    return max(RATES, key=score)


def arms(variants: Sequence[Variant]) -> dict[str, dict]:
    """What each variant got, as columns of its rows: train_bytes, rate (0: of no sweep) and sweep ("": none)."""
    return {variant.name: {"train_bytes": sum(step.train_bytes for step in variant.steps), "rate": variant.rate,
                           "sweep": SWEEP if variant.rate else ""} for variant in variants}


def effect_rows(measured: Measurements, factors: Sequence[str]) -> list[dict]:
    """Tidy rows of what each of K factors adds, in points: the mean over all pairs of models that differ in it alone.

    measured: 2^K models, the last factor changing fastest, each without before with. The pairs count as seeds.
    """
    correct = [correct_of(by_seed)[0] for by_seed in measured.values()]
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
