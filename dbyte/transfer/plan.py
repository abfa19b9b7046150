"""A transfer as one run: which student, along which tokens, from which teacher, by which method; planned, then trained.

The run's address is a hash of all of that, so a finished transfer is loaded and an interrupted one goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.byte_probabilities import ByteTeacher
from dbyte.distill.loader import Feed
from dbyte.distill.processes import Launch
from dbyte.distill.runs import Run, content_hash, model_hash, noted
from dbyte.distill.steps import Group, Step
from dbyte.distill.teacher_source import teacher_folder
from dbyte.distill.trainer import train
from dbyte.model.teacher import load_model, load_teacher, read_teacher
from dbyte.paths import RUNS
from dbyte.text.spans import TokenBytes
from dbyte.transfer.byte_targets import ByteReading, Shards, WhileTraining
from dbyte.transfer.heads import HEADS
from dbyte.transfer.methods import TERMS, method
from dbyte.transfer.paired import PairedRows, paired_rows
from dbyte.transfer.student import TransferStudent
from dbyte.transfer.tokenizer import open_tokenizer
from dbyte.transfer.vocabulary import with_vocabulary


@dataclass(frozen=True)
class Transfer:
    """What a transfer does; for what the papers leave open see docs/deviations.md.

    teacher, student: folders or hub names; student None: it begins as the teacher. tokenizer: of the student, as
    `open_tokenizer` reads it; None: its own. method: of TERMS, weights as `method` takes them. init: of new embeddings.
    head: of HEADS. rank: of LoRA, 0: all weights train. rate: the peak rate, warmup: the share of updates that lead to
    it; then it falls to 0. precompute: keep the teacher's byte targets on disk. Raises ValueError for a rank below 0,
    another method or head; for other fields where they are used.
    """

    teacher: str
    tokenizer: str | None = None
    student: str | None = None
    method: str = "bld"
    weights: Mapping[str, float] = field(default_factory=dict)
    init: str = "mean"
    head: str = "parallel"
    rank: int = 64
    reading: ByteReading = ByteReading()
    precompute: bool = False
    rate: float = 1e-4
    warmup: float = 0.1
    train_bytes: int = 1_000_000
    row_bytes: int = 1024
    batch_rows: int = 8

    def __post_init__(self) -> None:
        if self.rank < 0 or self.head not in HEADS or self.method not in TERMS:
            raise ValueError(f"a transfer needs a rank of LoRA of 0 (all weights train) or more, a head of "
                             f"{', '.join(HEADS)} and a method of {', '.join(TERMS)}; found {self.rank}, {self.head!r} "
                             f"and {self.method!r}")

    def has(self, term: str) -> bool:
        """Whether the method has a term of `methods.TERMS`."""
        return term in TERMS[self.method]


@dataclass(frozen=True)
class Planned:
    """A transfer whose run has an address. place, other_place: of the first student and of the teacher."""

    asked: Transfer
    run: Run
    step: Step
    rows: PairedRows
    tokenizer: PreTrainedTokenizerBase
    place: Path | str
    other_place: Path | str
    seed: int

    def first_student(self) -> PreTrainedModel:
        """The student before training, with its new vocabulary."""
        model, own = load_teacher(self.place)
        if _content(self.tokenizer) == _content(own):
            return model
        return with_vocabulary(model, TokenBytes.from_tokenizer(own), self.tokenizer, init=self.asked.init,
                               seed=self.seed)

    def with_targets(self, *, device: str = "cpu") -> PairedRows:
        """The rows with the teacher's byte targets on disk; those of an interrupted call are kept."""
        reading = self.asked.reading
        address = content_hash([model_hash(Path(self.other_place)), self.rows.teacher.hash, reading.describe()])
        shards = Shards(RUNS / "data" / f"targets-{address[:16]}", address, self.rows.teacher)
        shards.complete(reading, lambda: ByteTeacher.from_pretrained(self.other_place, device=device))
        return replace(self.rows, targets=shards)


def plan(asked: Transfer, texts: Sequence[str], *, seed: int) -> Planned:
    """Pack the texts along both tokenizers and find the run's address; nothing is trained.

    Raises ValueError for settings out of range, tokenizers that are not byte-exact or do not go together, and rows that
    a model has no positions for; FileNotFoundError for a model or tokenizer that cannot be read.
    """
    place, other_place = (teacher_folder(name) for name in (asked.student or asked.teacher, asked.teacher))
    config, tokenizer = read_teacher(place)
    other_config, other_tokenizer = read_teacher(other_place)
    if asked.row_bytes > (limit := min(config.max_position_embeddings, other_config.max_position_embeddings)):
        raise ValueError(f"rows of {asked.row_bytes} bytes may hold as many tokens, and student or teacher has only "
                         f"{limit} positions: take shorter rows (--row-bytes)")
    tokenizer = open_tokenizer(asked.tokenizer) if asked.tokenizer else tokenizer
    own, other = map(TokenBytes.from_tokenizer, (tokenizer, other_tokenizer))
    read = WhileTraining(asked.reading, other_tokenizer) if asked.has("byte_kl") else None
    objective = method(asked.method, student=own, teacher=other, read=read, **asked.weights)
    groups = (Group(("",), asked.rate),)
    if asked.rank:
        groups = (Group(("student.model",), asked.rate, lora=asked.rank),
                  Group(("embeddings", "byte_head", "projection"), asked.rate))
    step = Step("transfer", 0, objective, groups, asked.train_bytes, warmup=asked.warmup, weight_decay=0.0)
    rows = paired_rows(texts, own, other, row_bytes=asked.row_bytes)
    described = {"transfer": 1, "step": step.describe(), "teacher": model_hash(Path(other_place)),
                 "student": model_hash(Path(place)), "tokens": own.content_hash, "tokenizer": _content(tokenizer),
                 "init": asked.init, "rank": asked.rank, "data": rows.hash, "batch_rows": asked.batch_rows,
                 "head": asked.head if asked.has("byte_ce") else None,
                 "reading": asked.reading.describe() if read else None, "seed": seed}
    run = Run(described, notes=noted("", asked.method))
    return Planned(asked, run, step, rows, tokenizer, place, other_place, seed)


def transfer(planned: Planned, *, device: str = "cpu", rows_at_once: int | None = None) -> Run:
    """Train the student, or load what was trained: the complete run, whose model folder holds it with its tokenizer.

    Raises as `trainer.train`, and ModuleNotFoundError for LoRA without `peft`.
    """
    asked, run = planned.asked, planned.run
    if run.is_complete():
        return run
    torch.manual_seed(planned.seed)
    teacher = load_model(planned.other_place, device=device) if planned.step.objective.reads_teacher else None
    model = TransferStudent(planned.first_student(), rank=asked.rank, head=asked.head if asked.has("byte_ce") else None,
                            teacher_width=teacher.config.hidden_size if asked.has("hidden") else None)
    rows = planned.with_targets(device=device) if asked.precompute and asked.has("byte_kl") else planned.rows
    train(run, planned.step, Feed(rows, asked.batch_rows, planned.seed), model=model, teacher=teacher, device=device,
          launch=Launch(rows_at_once=rows_at_once), save_extra=planned.tokenizer.save_pretrained)
    return run


def _content(tokenizer: PreTrainedTokenizerBase) -> str:
    return content_hash(tokenizer.backend_tokenizer.to_str())
