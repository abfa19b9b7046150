"""A transfer as one run: which student, along which tokens, from which teacher, by which method; planned, then trained.

The run's address is a hash of all of that, so a finished transfer is loaded and an interrupted one goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.distill.loader import Feed
from dbyte.distill.losses import generalised
from dbyte.distill.objectives import Objective
from dbyte.distill.processes import Launch
from dbyte.distill.runs import Run, content_hash, model_hash, noted
from dbyte.distill.steps import Group, Step
from dbyte.distill.teacher_source import teacher_folder
from dbyte.distill.terms import Term, predicted_tokens
from dbyte.distill.trainer import train
from dbyte.model.teacher import load_model, load_teacher, read_teacher, read_tokenizer
from dbyte.text.byte_tokenizer import ByteTokenizer
from dbyte.text.spans import TokenBytes
from dbyte.transfer import methods
from dbyte.transfer.byte_targets import READINGS, ByteTargets, Shards, described
from dbyte.transfer.heads import HEADS
from dbyte.transfer.paired import PairedRows, paired_rows
from dbyte.transfer.student import TransferStudent
from dbyte.transfer.vocabulary import INITS, with_vocabulary

WARMUP = 0.1  # of the updates; then the rate falls to 0
METHODS = {"sft": ("token",), "byte_ce": ("token", "byte_ce"), "bld": ("token", "byte_ce", "byte_kl"),
           "alm": ("chunk", "hidden"), "alm_sft": ("token", "chunk", "hidden"), "gold": ("gold",)}
GOLD_BETA = 0.5  # of the generalised divergence, the default of TRL's trainer


@dataclass(frozen=True)
class Transfer:
    """What a transfer does; for what the papers leave open see docs/deviations.md.

    teacher, student: folders or hub names; student None: it begins as the teacher. tokenizer: of the student,
    "bytes", a folder or a hub name; None: its own. method: of METHODS. byte_weight, kl_weight: BLD's lambdas (>= 0).
    temperature (> 0), gamma (in [0, 1)): ALM's, see `methods.chunk_loss`. init: of new embeddings, of INITS. head: over
    bytes, of HEADS. rank: of LoRA, 0: all weights train. reading: of the teacher's bytes, of READINGS. precompute: keep
    them on disk. rate: the peak rate. Raises ValueError for other values; for sizes and rates where they are used.
    """

    teacher: str
    tokenizer: str | None = None
    student: str | None = None
    method: str = "bld"
    byte_weight: float = 1.0
    kl_weight: float = 0.1
    temperature: float = 100.0
    gamma: float = 0.1
    init: str = "mean"
    head: str = "parallel"
    rank: int = 64
    reading: str = "coverings"
    precompute: bool = False
    rate: float = 1e-4
    train_bytes: int = 1_000_000
    row_bytes: int = 1024
    batch_rows: int = 8

    def __post_init__(self) -> None:
        for name, known in {"method": METHODS, "init": INITS, "head": HEADS, "reading": READINGS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose one of {', '.join(known)}")
        weights = self.rank, self.byte_weight, self.kl_weight  # each by itself: not a number is less than nothing
        if not (all(each >= 0 for each in weights) and self.temperature > 0 and 0 <= self.gamma < 1):
            raise ValueError("the rank of LoRA (0: all weights train) and the byte weights must be at least 0, ALM's "
                             "temperature above 0 and its gamma in [0, 1); found "
                             f"{self.rank}, {self.byte_weight}, {self.kl_weight}, {self.temperature}, {self.gamma}")
        if self.batch_rows < 1:
            raise ValueError(f"an update reads at least one row (--batch-rows), found {self.batch_rows}")

    def has(self, term: str) -> bool:
        """Whether the method has this term."""
        return term in METHODS[self.method]

    def step(self, student: TokenBytes, teacher: TokenBytes) -> Step:
        """What trains."""
        groups = (Group(("",), self.rate),)
        if self.rank:
            groups = (Group(("student.model",), self.rate, lora=self.rank),
                      Group(("embeddings", "byte_head", "projection"), self.rate))
        return Step("transfer", 0, self.objective(student, teacher), groups, self.train_bytes, warmup=WARMUP,
                    weight_decay=0.0)

    def objective(self, student: TokenBytes, teacher: TokenBytes) -> Objective:
        """What it minimises."""
        chunk = partial(methods.chunk_loss, starts=(methods.starts_a_word(student), methods.starts_a_word(teacher)),
                        temperature=self.temperature, gamma=self.gamma)
        gold = partial(methods.gold_loss, same=methods.same_tokens(student, teacher),
                       divergence=generalised(GOLD_BETA))
        terms = {"token": (1, Term(methods.token_loss, predicted_tokens)),
                 "byte_ce": (self.byte_weight, Term(methods.byte_ce_loss, predicted_tokens)),
                 "byte_kl": (self.kl_weight, Term(methods.byte_kl_loss, predicted_tokens)),
                 "chunk": (1, Term(chunk, methods.chunk_ends, reads_teacher="whole")),
                 "hidden": (1, Term(methods.hidden_loss, methods.chunk_ends, reads_teacher="whole")),
                 "gold": (1, Term(gold, methods.chunk_ends, reads_teacher="whole"))}
        of_bytes = f" {self.byte_weight:g} {self.kl_weight:g}" if self.has("byte_ce") else ""
        of_chunks = f" {self.temperature:g} {self.gamma:g} by chunk" if self.has("chunk") else ""
        of_spans = f" {GOLD_BETA:g}" if self.has("gold") else ""
        return Objective(self.method + of_bytes + of_chunks + of_spans,
                         tuple(terms[name] for name in METHODS[self.method]), methods.PairedForward)


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
        if self.tokenizer.backend_tokenizer.to_str() == own.backend_tokenizer.to_str():
            return model
        return with_vocabulary(model, TokenBytes.from_tokenizer(own), self.tokenizer, init=self.asked.init,
                               seed=self.seed)


def plan(asked: Transfer, texts: Sequence[str], *, seed: int) -> Planned:
    """Pack the texts along both tokenizers and find the run's address; nothing is trained.

    Raises ValueError for settings out of range, tokenizers that are not byte-exact or do not go together, and rows that
    a model has no positions for; FileNotFoundError for a model or tokenizer that cannot be read.
    """
    place, other_place = map(teacher_folder, (asked.student or asked.teacher, asked.teacher))
    (config, tokenizer), (other_config, other_tokenizer) = map(read_teacher, (place, other_place))
    if asked.row_bytes > (limit := min(config.max_position_embeddings, other_config.max_position_embeddings)):
        raise ValueError(f"rows of {asked.row_bytes} bytes may hold as many tokens, and student or teacher has only "
                         f"{limit} positions: take shorter rows (--row-bytes)")
    if asked.tokenizer == "bytes":
        tokenizer = ByteTokenizer()
    elif asked.tokenizer:
        tokenizer = read_tokenizer(teacher_folder(asked.tokenizer))
    own, other = map(TokenBytes.from_tokenizer, (tokenizer, other_tokenizer))
    step = asked.step(own, other)
    rows = paired_rows(texts, own, other, row_bytes=asked.row_bytes)
    address = {
        "transfer": 1, "step": step.describe(), "teacher": model_hash(Path(other_place)),
        "student": model_hash(Path(place)), "tokens": own.content_hash,
        "tokenizer": content_hash(tokenizer.backend_tokenizer.to_str()), "rank": asked.rank,
        # one token as BOS and EOS began otherwise in the first transfers
        "init": asked.init if own.bos_token_id != own.eos_token_id else f"{asked.init}, single end",
        "data": rows.hash, "batch_rows": asked.batch_rows, "head": asked.head if asked.has("byte_ce") else None,
        "reading": described(asked.reading) if asked.has("byte_kl") else None, "seed": seed}
    run = Run(address, notes=noted("", asked.method))
    return Planned(asked, run, step, rows, tokenizer, place, other_place, seed)


def transfer(planned: Planned, *, device: str = "cpu", rows_at_once: int | None = None) -> Run:
    """Train the student, or load what was trained: the complete run, whose model folder holds it with its tokenizer.

    Raises as `trainer.train`, and ModuleNotFoundError for LoRA without `peft`.
    """
    asked, run, rows = planned.asked, planned.run, planned.rows
    if run.is_complete():
        return run
    student = planned.first_student()
    teacher = load_model(planned.other_place, device=device) if planned.step.objective.reads_teacher else None
    torch.manual_seed(planned.seed)
    model = TransferStudent(student, rank=asked.rank, head=asked.head if asked.has("byte_ce") else None,
                            teacher_width=teacher.config.hidden_size if asked.has("hidden") else None)
    if asked.has("byte_kl"):
        targets = ByteTargets(planned.other_place, rows.teacher, asked.reading, device)
        rows = replace(rows, targets=Shards(targets).complete() if asked.precompute else targets)
        teacher = None if asked.precompute else targets.teacher.model  # frozen weights are held once
    train(run, planned.step, Feed(rows, asked.batch_rows, planned.seed), model=model, teacher=teacher, device=device,
          launch=Launch(rows_at_once=rows_at_once), save_extra=planned.tokenizer.save_pretrained)
    return run
