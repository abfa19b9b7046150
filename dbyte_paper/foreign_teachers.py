"""Notebook 10's last question: from whom one student should learn its bytes, where tokens need not be the student's.

Stage 2 along the student's own tokens. Half of its loss is the text's next symbol, half the KL from a teacher's
distribution over the next byte, whether a token ends folded away: so teachers of any tokenizer can be asked. What a
teacher says is read along its own tokens, once, and kept (`dbyte/transfer/byte_targets.py`).

Shape letters: N bytes that are predicted, L bytes, B rows, K symbols that are kept of a teacher's distribution.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn.functional import log_softmax

from dbyte.distill.along_tokens import symbols_of_text
from dbyte.distill.loader import Feed
from dbyte.distill.losses import Loss
from dbyte.distill.objectives import Objective
from dbyte.distill.processes import Launch
from dbyte.distill.runs import Run, model_hash, noted
from dbyte.distill.steps import Step, stage2
from dbyte.distill.terms import Forward, Term, boundary, predicted_bytes
from dbyte.distill.trainer import train
from dbyte.evaluate.stats import Estimate
from dbyte.model.student import BYTES, ByteStudent
from dbyte.model.teacher import read_teacher, read_tokenizer
from dbyte.presets import Scale, TeacherShape
from dbyte.text.packing import Rows
from dbyte.text.spans import EOS, TokenBytes
from dbyte.transfer.byte_targets import ByteTargets, Shards, described
from dbyte.transfer.heads import END
from dbyte.transfer.methods import byte_divergence
from dbyte.transfer.paired import PairedRows, paired_rows
from dbyte_paper import domains
from dbyte_paper.ablation_runs import Trained
from dbyte_paper.byte_interface import texts_of
from dbyte_paper.evidence import RATES, SWEEP, at_rate
from dbyte_paper.teacher_scale import Reader
from dbyte_paper.variants import LARGER, OTHER_FAMILY, OWN_SIZE, Variant, teacher_shapes

TEXT, FOREIGN = "text alone", "another family, other tokens"
READING, ALONG = "joint", "stage2/router"


def other_tokens(scale: Scale) -> TeacherShape | str:
    """A teacher as large as the larger one, of the other family, with a tokenizer of all corpora.

    Where teachers are not trained here it is the other family's, whose tokens are its own.
    """
    shapes = teacher_shapes(scale)
    larger, other = shapes[LARGER], shapes[OTHER_FAMILY]
    if isinstance(larger, str) or isinstance(other, str):
        return other
    return replace(larger, family=other.family, tokenizer_corpora=())


def bytes_of_teacher(forward: Forward, mask_BL: Tensor) -> Loss:
    """KL in nats from what the batch has kept of a teacher's next byte, along the student's tokens."""
    logits_NK2 = forward.byte_logits_along_tokens_BLK[mask_BL]
    byte_NS = log_softmax(logits_NK2.float(), -1).unflatten(-1, (2, BYTES)).logsumexp(1)
    symbol_NK, prob_NK = (each_BLK.roll(-1, 1)[mask_BL] for each_BLK in (forward.batch.symbol_BLK,
                                                                         forward.batch.prob_BLK))
    symbol_NK = symbol_NK.long()
    return byte_divergence(byte_NS, symbol_NK.where(symbol_NK != END, EOS), prob_NK), mask_BL.sum()


def objective(name: str, *, routed: bool) -> Objective:
    """The text's symbols for TEXT, else half of them and half of the teacher's bytes; routed: Eq. 4 next to it."""
    beside = ((1, boundary),) if routed else ()
    if name == TEXT:
        return Objective("tokens with_boundary" if routed else "tokens", ((1, symbols_of_text), *beside))
    return Objective("tokens, bytes of a teacher" + ", boundary" * routed,
                     ((0.5, symbols_of_text), (0.5, Term(bytes_of_teacher, predicted_bytes)), *beside))


def both_steps(scale: Scale, name: str, factor: float) -> tuple[Step, ...]:
    """Steps 2.1 and 2.2, each at the bytes of an ablation; the router follows the encoder in step 2.2 (Eq. 4)."""
    settings = {name: value for name, value in scale.stage2.items() if name.endswith(("_rate", "_muon"))}
    size = scale.ablation.step_bytes
    head, full = stage2(**settings, head_bytes=size, full_bytes=size, boundary_loss=True)
    return at_rate(Variant(name, (replace(head, objective=objective(name, routed=False)),
                                  replace(full, objective=objective(name, routed=True)))), factor).steps


def rows_of_all(scale: Scale, own: Path, foreign: Path, *, seed: int) -> tuple[PairedRows, PairedRows]:
    """Rows for teachers with the student's tokens, then for the foreign one; cut where both have a token end."""
    tokens = [TokenBytes.from_tokenizer(read_teacher(place)[1]) for place in (own, foreign)]
    texts = texts_of(scale, 2 * scale.ablation.step_bytes, seed)
    paired = paired_rows(texts, *tokens, row_bytes=scale.row_bytes)
    return replace(paired, teacher=Rows(paired.byte_ids, paired.boundary, paired.document, paired.token_ids)), paired


def trained(scale: Scale, name: str, teacher: Path, stage1: Run, rows: PairedRows, *, own: Path, seed: int,
            factor: float) -> Run:
    """Stage 2 of one student on what a teacher says of bytes; the last run.

    teacher: whose bytes; of TEXT nothing of it is read. own: the teacher whose tokens and core the student has.
    """
    run = stage1
    for step in both_steps(scale, name, factor):
        parent = run
        run = Run({"step": step.describe(), "data": rows.hash, "reading": described(READING), "seed": seed,
                   "teacher": model_hash(teacher) if name != TEXT else "", "batch_rows": scale.batch_rows},
                  parent=parent, notes=noted(scale.name, f"bytes of {name}"))
        if run.is_complete():
            continue
        if name != TEXT and rows.targets is None:
            targets = ByteTargets(teacher, rows.teacher, READING, scale.device)
            rows = replace(rows, targets=Shards(targets).complete())
        feed = Feed(rows, scale.batch_rows, seed)
        feed.follow(parent.facts() if parent is not stage1 else {})
        model = ByteStudent.from_pretrained(parent.model_folder)
        model.config.update({"stage": step.stage})
        train(run, step, feed, model=model, teacher=None, device=scale.device,
              launch=Launch(rows_at_once=scale.rows_at_once), save_extra=read_tokenizer(own).save_pretrained)
    return run


def compared(scale: Scale, teachers: Mapping[str, Path], stage1: Sequence[Run], *, seed: int,
             choosing: Reader) -> tuple[Trained, dict[str, dict]]:
    """Each row's students, one for each Stage 1, at its best rate by bits of documents to choose by; what each got."""
    own = teachers[OWN_SIZE]
    own_rows, foreign_rows = rows_of_all(scale, own, teachers[FOREIGN], seed=seed)
    found, arms = {}, {}
    for name, folder in teachers.items():
        rows = foreign_rows if name == FOREIGN else own_rows

        def run_at(factor: float, number: int, name: str = name, folder: Path = folder, rows: Rows = rows) -> Run:
            return trained(scale, name, folder, stage1[number], rows, own=own, seed=seed + number, factor=factor)

        best = min(RATES, key=lambda factor, run_at=run_at: choosing.bits(run_at(factor, 0).model_folder,
                                                                         ALONG)["value"])
        found[name] = [[run_at(best, number)] for number in range(len(stage1))]
        arms[name] = {"train_bytes": 2 * scale.ablation.step_bytes, "rate": best, "sweep": SWEEP}
    return found, arms


def named(folders: Mapping[str, Path], foreign: Path) -> dict[str, Path]:
    """The teachers that are asked, by row: none, the student's own, the larger, and the foreign one."""
    own = folders[OWN_SIZE]
    return {TEXT: own, OWN_SIZE: own, LARGER: folders[LARGER], FOREIGN: foreign}


def bits_rows(read: Reader, teachers: Mapping[str, Path], found: Trained, corpus: str,
              arms: Mapping[str, dict]) -> list[dict]:
    """Tidy rows of bits per byte of each teacher, and of its students: model, corpus, and what the students got."""
    none = dict.fromkeys(next(iter(arms.values())), math.nan) | {"sweep": ""}
    several = {f"teacher, {name}": ([read.bits(folder, "token")], none) for name, folder in teachers.items()
               if name != TEXT}
    several |= {name: (_bits(read, by_seed), arms[name]) for name, by_seed in found.items()}
    return [{"model": name, "corpus": corpus} | added
            | domains.over_seeds([Estimate(one["value"], one["stderr"], one["n"]) for one in by_seed])
            for name, (by_seed, added) in several.items()]


def more_rows(read: Reader, found: Trained, corpus: str) -> list[dict]:
    """Tidy rows in percent: how many bits more a student of the text alone needs than one that a teacher told more."""
    text = _bits(read, found[TEXT])
    return [domains.compared([domains.more_bits(*pair) for pair in zip(text, _bits(read, by_seed), strict=True)],
                             what=f"{TEXT} - {name}") | {"corpus": corpus}
            for name, by_seed in found.items() if name != TEXT]


def _bits(read: Reader, by_seed: Sequence[Sequence[Run]]) -> list[dict]:
    return [read.bits(runs[-1].model_folder, ALONG) for runs in by_seed]
