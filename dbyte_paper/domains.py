"""Is what a student learns in one kind of text of use in another? Notebook 13: domains, scripts, and where it breaks.

A domain is a name with corpora. Every student of a section has one teacher that knows all of its text. Students are
read on held-out text in pieces, all on the same ones, so that their bits are compared in pairs.

Rows of several seeds: their errors are over seeds and pieces; with one seed, over pieces alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from dbyte.distill.curriculum import execute, plan_steps, run_steps
from dbyte.distill.planned_run import PlannedRun
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step, stage1, stage2
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate import stats
from dbyte.evaluate.bits import bits_per_byte, student_scores, teacher_nats, text_of
from dbyte.evaluate.boundary_kinds import mean_rows, tally
from dbyte.evaluate.harness import correct_by_column
from dbyte.evaluate.lm import READINGS, StudentLM
from dbyte.evaluate.measure import Measurer
from dbyte.evaluate.stats import Estimate
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_teacher, load_tokenizer
from dbyte.presets import Scale
from dbyte.text.packing import pack
from dbyte.text.spans import TokenBytes
from dbyte_paper import other_texts
from dbyte_paper.nested import mean_over_seeds
from dbyte_paper.other_texts import Corpora
from dbyte_paper.real_misses import pieces_of
from dbyte_paper.real_teacher import BITS, TEACHER
from dbyte_tasks import minibench

PROSE, CODE = "prose", "code"
PLAIN, MIXED = "plain", "a tenth of other scripts"
F1, LENGTH, KEPT = "boundary F1, %", "mean chunk, bytes", "accuracy kept, %"
STAGE1 = "Stage 1 alone"
EXAMPLE = 256  # bytes of a piece that is shown
WORST = 3  # pieces of a kind that are shown
Cells = Mapping[tuple[str, str], Sequence[Run]]  # (domain of Stage 1, of Stage 2) -> a run for each step
Students = Mapping[tuple[str, str], tuple[str, Sequence[Path]]]  # names as above -> reading, a folder for each seed
Read = Mapping[tuple[str, str, str], Sequence[Mapping]]  # names, and a kind of text -> for each seed bits and cuts


def trains_here(scale: Scale) -> bool:
    """True where the scale's teacher is trained here, so that it can be taught another domain."""
    return not isinstance(scale.teacher, str)


def largest_dose(scale: Scale) -> int:
    """The most bytes that a student of an ablation reads at a scale."""
    return round(scale.ablation.doses[-1] * scale.ablation.step_bytes)


def short_steps(scale: Scale) -> tuple[Step, ...]:
    """The scale's five steps: Stage 1 on a quarter of its largest dose, half of that in 1.1; Stage 2 on an eighth."""
    part = largest_dose(scale) // 16
    first = dict(align_bytes=2 * part, distill_bytes=part, boundary_bytes=part, snapshots=0)
    return (*stage1(**{**scale.stage1, **first}), *stage2(**{**scale.stage2, "head_bytes": part, "full_bytes": part}))


def of_domain(scale: Scale, corpora: Corpora) -> Scale:
    """The scale with other corpora, which all fit into memory."""
    return replace(scale, corpora=corpora, streamed=False)


def taught(scale: Scale, corpora: Corpora, *, seed: int) -> Scale:
    """The scale with a teacher as a folder: its own, trained further on `corpora` for its largest dose."""
    teacher = replace(scale.teacher, train_bytes=largest_dose(scale))
    folder = teacher_run(replace(of_domain(scale, corpora), teacher=teacher, continues=scale), seed=seed)
    return replace(scale, teacher=str(folder))


def domains(scale: Scale) -> dict[str, Corpora]:
    """Prose, half of the scale's corpora, and as much source of the standard library."""
    prose = tuple((name, amount // 2) for name, amount in scale.corpora)
    size = sum(amount for _, amount in prose)
    return {PROSE: prose, CODE: ((other_texts.code_corpus(size), size),)}


def crossed(
    scale: Scale, corpora: Mapping[str, Corpora], steps: tuple[Step, ...], *, seed: int, teacher_seed: int
) -> dict[tuple[str, str], list[Run]]:
    """Students of every pair of domains, by (domain of Stage 1, domain of Stage 2); returns a run for each step.

    Those with equal first domains share their Stage 1; those with equal second domains read the same rows in Stage 2.
    scale: with a teacher as a folder.
    """
    plans = {name: plan_steps(of_domain(scale, each), steps, seed=seed, teacher_seed=teacher_seed, variant=name)
             for name, each in corpora.items()}
    return {(first, second): execute(scale, joined(plans[first], plans[second]), seed=seed)
            for first, second in product(corpora, repeat=2)}


def joined(first: Sequence[PlannedRun], second: Sequence[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Stage 1 of one plan, then Stage 2 of another, whose Stage 1 has as many steps."""
    planned = [one for one in first if one.step.stage == 1]
    for one in second[len(planned):]:
        described = {key: value for key, value in one.run.config.items() if key != "parent"}
        planned.append(replace(one, run=Run(described, parent=planned[-1].run, notes=one.run.notes)))
    return tuple(planned)


# -- reading ----------------------------------------------------------------------------------------------------------


def bits_on(folder: Path, reading: str, texts: Sequence[str], *, row_bytes: int, device: str = "cpu") -> dict:
    """`bits_per_byte` of texts under a teacher (reading "token") or a student; readings as in evaluate/measure.py."""
    pieces = pieces_of(folder, texts, row_bytes=row_bytes)
    if reading == "token":
        return bits_per_byte(teacher_nats(load_teacher(folder, device=device)[0], pieces), pieces)
    stage, boundaries = READINGS[reading]
    tokens = TokenBytes.from_tokenizer(load_tokenizer(folder))
    lm = StudentLM(ByteStudent.from_pretrained(folder).eval().to(device), tokens, stage=stage, boundaries=boundaries)
    return bits_per_byte([-one.nats for one in student_scores(lm.scorer, pieces, boundaries=boundaries)], pieces)


def cuts_on(folder: Path, texts: Sequence[str], *, row_bytes: int, device: str = "cpu") -> dict[str, Estimate]:
    """F1 of a student's router against the tokens in percent, and mean bytes of its chunks and of the tokens."""
    student = ByteStudent.from_pretrained(folder).eval().to(device)
    found = tally(student, pack(pieces_of(folder, texts, row_bytes=row_bytes), row_bytes=row_bytes))
    agreed = found.agreement()
    router, tokens, _ = (Estimate(row["value"], row["stderr"], row["n"]) for row in mean_rows(found))
    return {F1: Estimate(100 * agreed.f1, 100 * agreed.f1_stderr, agreed.n), LENGTH: router, TEACHER: tokens}


def over_seeds(found: Sequence[Estimate]) -> dict:
    """value, stderr over seeds and pieces, n and seeds of one number that each seed's student has."""
    value = mean_over_seeds([one.value for one in found])
    of_seeds = stats.interval_row(value, 1)["stderr"]
    error = math.hypot(float(np.mean([one.stderr for one in found])), 0.0 if math.isnan(of_seeds) else of_seeds)
    return {"value": value.value, "stderr": error, "n": found[0].n, "seeds": len(found)}


def compared(ratios: Sequence[Estimate], **keys: object) -> dict:
    """A tidy row of how much more one side has, in percent or points: value, low, high, and whether that is above 0."""
    half = math.hypot(stats.Z95 * float(np.mean([one.stderr for one in ratios])),
                      stats.half_over_seeds([one.value for one in ratios]))
    row = keys | over_seeds(ratios)
    low, high = row["value"] - half, row["value"] + half
    return row | {"low": low, "high": high, "verdict": "" if math.isnan(half) else stats.verdict(low, high)}


def more_bits(other: Mapping, own: Mapping) -> Estimate:
    """By how many percent `other` needs more bits than `own` on the same pieces; both of `bits_per_byte`."""
    found = stats.ratio_of_sums((other["nats_P"], own["nats_P"]))
    return Estimate(100 * (found.value - 1), 100 * found.stderr, found.n)


def _estimate(bits: Mapping) -> Estimate:
    return Estimate(bits["value"], bits["stderr"], bits["n"])


# -- domains ----------------------------------------------------------------------------------------------------------


def domain_texts(scale: Scale, corpora: Mapping[str, Corpora], *, seed: int) -> dict[str, list[str]]:
    """Held-out text of each domain, a quarter of `heldout_bytes`."""
    return {name: other_texts.first(other_texts.heldout(each, seed=seed, max_bytes=scale.heldout_bytes),
                                    max_bytes=scale.heldout_bytes // 4) for name, each in corpora.items()}


def students(by_seed: Sequence[Cells]) -> Students:
    """Every cell after Stage 2, along its router's boundaries, and each Stage 1 alone, along the tokenizer's."""
    found = {}
    for first, second in by_seed[0]:
        if first == second:
            found[first, STAGE1] = "stage1/tokenizer", [cells[first, first][2].model_folder for cells in by_seed]
        found[first, second] = "stage2/router", [cells[first, second][-1].model_folder for cells in by_seed]
    return found


def read_all(scale: Scale, models: Students, texts: Mapping[str, Sequence[str]]) -> Read:
    """What each seed's students make of each kind of text."""
    how = dict(row_bytes=scale.row_bytes, device=scale.device)
    return {(*names, kind): [{BITS: bits_on(folder, reading, each, **how)} | cuts_on(folder, each, **how)
                             for folder in folders]
            for names, (reading, folders) in models.items() for kind, each in texts.items()}


def named(first: str, second: str) -> str:
    """What tables call a student: its domains, one after another."""
    return f"{first}, {second}" if second == STAGE1 else f"{first}, then {second}"


def read_rows(scale: Scale, read: Read, texts: Mapping[str, Sequence[str]]) -> list[dict]:
    """Tidy rows of students and their teacher: model, corpus, measure (bits per byte, F1, mean chunk)."""
    rows = []
    for (first, second, kind), by_seed in read.items():
        for measure in (BITS, F1, LENGTH):
            found = [_estimate(one[BITS]) if measure == BITS else one[measure] for one in by_seed]
            rows.append({"model": named(first, second), "corpus": kind, "measure": measure} | over_seeds(found))
    for kind, each in texts.items():
        bits = bits_on(Path(scale.teacher), "token", each, row_bytes=scale.row_bytes, device=scale.device)
        tokens = next(by_seed[0][TEACHER] for (_, _, one), by_seed in read.items() if one == kind)
        rows += ({"model": TEACHER, "corpus": kind, "measure": measure} | over_seeds([one])
                 for measure, one in ((BITS, _estimate(bits)), (LENGTH, tokens)))
    return rows


def kept_rows(scale: Scale, prose: Corpora, models: Students, *, seed: int) -> list[dict]:
    """What is kept of the teacher's accuracy on MiniBench, in percent, with the keys of `read_rows`.

    All its columns are about prose; those that are generated are left out. [] where the corpora teach no column, or the
    teacher has nothing right.
    """
    columns = minibench.taught_by(name for name, _ in prose)
    chosen = [name for name, column in columns.items() if column.metric != "exact_match"]
    measurer = Measurer(of_domain(scale, prose), seed)

    def right(folder: Path, reading: str) -> dict:
        return correct_by_column(measurer.columns(folder, reading, items=scale.ablation.items, only=chosen))

    teacher = right(Path(scale.teacher), "token")
    if not any(map(any, teacher.values())):
        return []
    rows = []
    for names, (reading, folders) in models.items():
        found = stats.retention([right(folder, reading) for folder in folders], teacher)
        rows.append({"model": named(*names), "corpus": PROSE, "measure": KEPT, "seeds": len(folders)}
                    | stats.interval_row(found, stats.items_in(teacher)))
    return rows


def transfer_rows(read: Read) -> list[dict]:
    """What it costs to have had another domain in Stage 1 on each kind of text, against that kind itself; tidy rows.

    after: STAGE1, or "Stage 2" on the text's own domain. In percent of bits per byte, and in points of F1.
    """
    rows = []
    for kind in dict.fromkeys(kind for _, _, kind in read):
        for first in dict.fromkeys(first for first, _, _ in read):
            for after, second in ((STAGE1, STAGE1), ("Stage 2", kind)):
                if first != kind and (kind, second, kind) in read:
                    pairs = list(zip(read[first, second, kind], read[kind, second, kind], strict=True))
                    keys = {"corpus": kind, "instead": first, "after": after}
                    rows.append(compared([more_bits(ours[BITS], theirs[BITS]) for ours, theirs in pairs],
                                         **keys, measure=BITS))
                    rows.append(compared([lost_f1(ours[F1], theirs[F1]) for ours, theirs in pairs],
                                         **keys, measure=F1))
    return rows


def lost_f1(other: Estimate, own: Estimate) -> Estimate:
    """By how many points the F1 of `other` is below that of `own`; errors as if independent, which is too wide."""
    return Estimate(own.value - other.value, math.hypot(own.stderr, other.stderr), own.n)


# -- scripts ----------------------------------------------------------------------------------------------------------


def script_students(scale: Scale, *, seed: int, seeds: Sequence[int]) -> tuple[Scale, Students]:
    """Stage 1 on the scale's corpora, and on them with a tenth of other scripts, at equal bytes; with their scale.

    The teacher has read the mixed text. Raises ValueError where $DBYTE_SCRIPTS names no folder with other scripts.
    """
    found = other_texts.scripts()
    if not other_texts.others(found):
        raise ValueError(f"${other_texts.SCRIPTS} must name a folder of .txt files, a file for each script, of which "
                         f"some are beyond ASCII; found {list(found)}")
    plain, mixed = other_texts.mixed_corpora(scale.corpora, found)
    known = taught(scale, mixed, seed=seed)
    folders = {name: [run_steps(of_domain(known, corpora), short_steps(scale)[:3], seed=each, teacher_seed=seed,
                                variant=name)[-1].model_folder for each in seeds]
               for name, corpora in ((PLAIN, plain), (MIXED, mixed))}
    return known, {(name, STAGE1): ("stage1/tokenizer", each) for name, each in folders.items()}


def script_texts(scale: Scale) -> dict[str, list[str]]:
    """What is read of each script: its pieces that are not trained on, `heldout_bytes` of all together."""
    found = {name: both[1] for name, both in other_texts.scripts().items()}
    return {name: other_texts.first(each, max_bytes=scale.heldout_bytes // len(found)) for name, each in found.items()}


def script_transfer_rows(read: Read, kinds: Sequence[str]) -> list[dict]:
    """What it costs on other scripts to have had none of them in Stage 1; rows as of `transfer_rows`.

    kinds: the scripts that count. Bits are over all their pieces together; F1 is averaged over scripts, whose spread is
    its error.
    """
    bits = []
    points = []
    for number in range(len(read[PLAIN, STAGE1, kinds[0]])):
        ours, theirs = ([read[name, STAGE1, kind][number] for kind in kinds] for name in (PLAIN, MIXED))
        bits.append(more_bits(*({"nats_P": [nats for one in side for nats in one[BITS]["nats_P"]]}
                                for side in (ours, theirs))))
        lost = [own[F1].value - other[F1].value for other, own in zip(ours, theirs, strict=True)]
        spread = float(np.std(lost, ddof=1) / math.sqrt(len(lost))) if len(lost) > 1 else math.nan
        points.append(Estimate(float(np.mean(lost)), spread, len(lost)))
    keys = {"corpus": "other scripts", "instead": PLAIN, "after": STAGE1}
    return [compared(bits, **keys, measure=BITS), compared(points, **keys, measure=F1)]


# -- where a student breaks -------------------------------------------------------------------------------------------


def broken_rows(
    models: Mapping[str, tuple[Path, str]], kinds: Mapping[str, Sequence[str]], *, device: str = "cpu"
) -> tuple[list[dict], list[dict]]:
    """(bits per byte by kind and model, the worst pieces by kind and student); models: the teacher first, as folders.

    Pieces have EXAMPLE bytes at most, each read from BOS, so that a piece can be shown. A row of the first kind has
    `more`, percent over the teacher's. The second has the pieces at which a student needs most bits more than its
    teacher: value (bits per byte more), n (bytes), the bits of both, text.
    """
    rows = []
    worst = []
    how = dict(row_bytes=EXAMPLE, device=device)
    for kind, texts in kinds.items():
        teacher = bits_on(*models[TEACHER], texts, **how)
        pieces = [text_of(piece) for piece in pieces_of(models[TEACHER][0], texts, row_bytes=EXAMPLE)]
        for model, (folder, reading) in models.items():
            bits = bits_on(folder, reading, texts, **how)
            more = more_bits(bits, teacher)
            rows.append({"kind": kind, "model": model, "more": more.value, "more_stderr": more.stderr}
                        | {name: bits[name] for name in ("value", "stderr", "n")})
            if model != TEACHER:
                worst += ({"kind": kind, "model": model} | row for row in worst_rows(bits, teacher, pieces))
    return rows, worst


def worst_rows(ours: Mapping, teacher: Mapping, pieces: Sequence[bytes]) -> Iterator[dict]:
    """The pieces at which a student needs most bits per byte more than its teacher, the worst first: place 1, 2, .."""
    size_P = math.log(2) * np.array([len(piece) for piece in pieces])
    ours_P, theirs_P = (np.array(one["nats_P"]) / size_P for one in (ours, teacher))
    for place, number in enumerate(np.argsort(theirs_P - ours_P, kind="stable")[:WORST], start=1):
        text = pieces[number].decode(errors="replace")
        for character, shown in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            text = text.replace(character, shown)
        yield {"place": place, "value": float(ours_P[number] - theirs_P[number]), "stderr": math.nan,
               "n": len(pieces[number]), "student": float(ours_P[number]), "teacher": float(theirs_P[number]),
               "text": text}


# -- in words ---------------------------------------------------------------------------------------------------------


COSTS = {"shown": "costs", "opposite": "saves", "equal": "costs next to nothing", "not shown": "cannot be told from 0"}


def is_alignment_bound(transfer: pd.DataFrame) -> str:
    """A paragraph that answers whether what Stage 1 learns is bound to its text; transfer: of `transfer_rows`.

    Rows of `script_transfer_rows` may be among them. Each sentence follows from the interval of its row.
    """
    bits = transfer[transfer["measure"] == BITS]
    alone = bits[bits["after"] == STAGE1]
    said = [f"Stage 1 on {row.instead} text instead, read on {row.corpus}, {_costs(row)}."
            for row in alone.itertuples()]
    bound = alone[alone["verdict"] == "shown"]
    if len(bound) == len(alone):
        answer = "Alignment is bound to its text"
    elif len(bound):
        answer = f"Alignment is bound to its text in part, on {' and '.join(bound['corpus'])}"
    elif not alone["verdict"].isin(["equal", "opposite"]).all():
        answer = "Whether alignment is bound to its text cannot be told from these numbers"
    else:
        answer = "Alignment is not bound to its text"
    said.insert(0, f"{answer}: of {len(alone)} changes of the text of Stage 1 {len(bound)} cost bits.")
    later = bits[bits["after"] != STAGE1]
    said += [f"After Stage 2 on {row.corpus} the same change {_costs(row)}." for row in later.itertuples()]
    left = later[later["corpus"].isin(bound["corpus"])]
    if len(left):
        lasting = left.loc[left["verdict"] == "shown", "corpus"]
        said.append(f"So Stage 2 does not make up for it on {' and '.join(lasting)}." if len(lasting) else
                    "So Stage 2 on the new text makes up for it, as far as can be told.")
    return " ".join(said)


def _costs(row: object) -> str:
    """What a row of transfer says: more bits per byte in percent, with its interval."""
    words = COSTS.get(row.verdict, "has no interval")
    value = f" {abs(row.value):.1f} % of bits per byte" if row.verdict in ("shown", "opposite") else ""
    return f"{words}{value} ({row.value:+.1f} %, 95 %: {row.low:+.1f} to {row.high:+.1f})"


def where_it_breaks(kinds: pd.DataFrame) -> str:
    """Which kind of text each student of a teacher needs most bits on beyond its teacher, and which fewest."""
    said = []
    for model, rows in kinds[kinds["model"] != TEACHER].groupby("model"):
        most, least = (rows.loc[place] for place in (rows["more"].idxmax(), rows["more"].idxmin()))
        said.append(f"{model}: most beyond the teacher on {most.kind} ({most.more:+.1f} ± {most.more_stderr:.1f} % of "
                    f"bits per byte), least on {least.kind} ({least.more:+.1f} ± {least.more_stderr:.1f} %).")
    return " ".join(said)
