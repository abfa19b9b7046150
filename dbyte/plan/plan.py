"""What a curriculum would take: parameters on the real model without weights, FLOPs, hours, memory of a GPU.

Time is bytes times FLOPs per byte (counting.py) over what the GPUs reach; memory is footprint.py's. What both assume is
part of the answer. `benchmarks/plan_check.py` compares the time model with measured updates.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from dbyte.distill.curriculum import curriculum
from dbyte.distill.sliced_losses import ROWS_AT_ONCE
from dbyte.distill.steps import ENCODER, ROUTER, Step
from dbyte.distill.teacher import teacher_config
from dbyte.model.backends import BACKENDS
from dbyte.model.core import positions_within
from dbyte.model.packed_attention import attention_blocks
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher_sizes import core_config
from dbyte.plan.counting import count_step, muon_flops, one_document
from dbyte.plan.devices import CPU, GIGA, TERA, Device
from dbyte.plan.footprint import GATHERED, LOGIT_COPIES, SHARDINGS, USABLE, Footprint, footprint
from dbyte.presets import Scale
from dbyte.text.packing import Batch

PAPER_BYTES = 30e9
PAPER_TOKENS = 7e9  # section 5.1: "a 30B byte subset (approximately 7B tokens)" of FineWeb
UTILISATION = 0.4
MEGA, HOUR = 1e6, 3600.0
DRIFT = ("Step {step} trains the encoder under a frozen router, as in the paper: its boundaries will drift from the "
         "tokenizer's (at `small` F1 fell from 99.3 to 87.5: docs/log.md). `--set stage2.boundary_loss=true` trains "
         "the router along by Eq. 4, as the authors' code does.")


def sizes_of(scale: Scale) -> dict[str, object]:
    """StudentConfig's arguments for the student of a scale, with the byte heads that Stage 2 gives it."""
    return {**scale.student} | ({"decoding": scale.stage2["decoding"]} if "decoding" in scale.stage2 else {})


def meta_student(core: PreTrainedConfig, sizes: Mapping[str, int]) -> ByteStudent:
    """A student without weights around a core of this config; sizes: StudentConfig's arguments."""
    with torch.device("meta"):
        return ByteStudent(StudentConfig(core_config=core, **sizes))


def parameters_by_part(student: ByteStudent) -> dict[str, int]:
    """How many parameters each part has, in the order of the data."""
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in student.named_children()}
    return counts | {"null_E": student.null_E.numel()}


def teacher_parameters(student: ByteStudent) -> int:
    """Parameters of the teacher that a student's core was taken from: core, embedding, and a head unless it is tied."""
    core = student.config.core_config
    tables = 1 if core.tie_word_embeddings else 2
    return parameters_by_part(student)["core"] + tables * core.vocab_size * core.hidden_size


@dataclass(frozen=True)
class Setting:
    """What is planned, and on what.

    teacher: a published teacher in place of the scale's. gpus >= 1. sharding: one of SHARDINGS, "" for fsdp2 on several
    GPUs and none on one. utilisation: the share of the device's rate that training reaches, in (0, 1].
    bytes_per_token >= 1. backend: of Mamba2. Raises ValueError where a value leaves its range.
    """

    scale: Scale
    device: Device
    teacher: str | None = None
    gpus: int = 8
    sharding: str = ""
    utilisation: float = UTILISATION
    bytes_per_token: float = PAPER_BYTES / PAPER_TOKENS
    checkpointing: bool = False
    backend: str = "torch"

    def __post_init__(self):
        if self.gpus < 1:
            raise ValueError(f"a plan needs at least one GPU, found --gpus {self.gpus}")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"--utilisation is a share of the device's rate in (0, 1], found {self.utilisation}")
        if not self.bytes_per_token >= 1:
            raise ValueError(f"a token has at least one byte, found --bytes-per-token {self.bytes_per_token}")
        if self.sharding and self.sharding not in SHARDINGS:
            raise ValueError(f"unknown sharding {self.sharding!r}: choose one of {', '.join(SHARDINGS)}")
        if self.sharding == "none" and self.gpus > 1:
            raise ValueError(f"sharding 'none' is one GPU, found --gpus {self.gpus}: choose ddp or fsdp2")
        if self.backend not in BACKENDS:
            raise ValueError(f"unknown backend {self.backend!r}: choose one of {', '.join(BACKENDS)}")
        if self.backend == "fast" and self.half():
            raise ValueError("backend 'fast' takes fp32 on a CPU: plan for --device cpu, or take 'torch' or 'triton'")

    def shards(self) -> str:
        """The sharding in effect."""
        return self.sharding or ("fsdp2" if self.gpus > 1 else "none")

    def core(self) -> PreTrainedConfig:
        """The config of the teacher, and so of the core; ValueError if it is not known here."""
        teacher = self.teacher or self.scale.teacher
        return core_config(teacher) if isinstance(teacher, str) else teacher_config(teacher)

    def half(self) -> bool:
        """True where products run in bf16."""
        return self.device.name != CPU


@dataclass(frozen=True)
class StepPlan:
    """One step: FLOPs per byte by part and of the optimiser, seconds on all GPUs, memory of one."""

    step: Step
    flops: dict[str, float]
    seconds: float
    memory: Footprint

    @property
    def flops_per_byte(self) -> float:
        """FLOPs per byte of all parts."""
        return sum(self.flops.values())


def plan_steps(setting: Setting) -> tuple[ByteStudent, Batch, list[StepPlan]]:
    """Plan every step of a scale's curriculum; also the student, without weights, and the row that was counted."""
    scale = setting.scale
    student = meta_student(setting.core(), sizes_of(scale))
    row = one_document(student.config, scale.row_bytes, setting.bytes_per_token)
    reached = setting.gpus * setting.device.flops_per_second * setting.utilisation
    planned = []
    for step in curriculum(scale):
        counted = count_step(student.config, step, row, half=setting.half(), backend=setting.backend,
                             checkpointing=setting.checkpointing)
        flops = {part: spent / scale.row_bytes for part, spent in counted.flops.items()}
        flops["Muon"] = muon_flops(student, step) / ((step.batch_rows or scale.batch_rows) * scale.row_bytes)
        seconds = step.train_bytes * sum(flops.values()) / reached
        memory = footprint(student, teacher_parameters(student), step, counted, half=setting.half(), gpus=setting.gpus,
                           sharding=setting.shards())
        planned.append(StepPlan(step, flops, seconds, memory))
    return student, row, planned


# -- as Markdown ------------------------------------------------------------------------------------------------------


def plan_text(setting: Setting, *, compared: tuple[str, ...] = ()) -> str:
    """The whole plan; compared: published teachers that the table of parameters has too."""
    student, row, planned = plan_steps(setting)
    name = setting.teacher or setting.scale.teacher
    name = name if isinstance(name, str) else f"the teacher of scale {setting.scale.name}"
    counts = {name: parameters_by_part(student)}
    counts |= {other: parameters_by_part(meta_student(core_config(other), sizes_of(setting.scale)))
               for other in compared if other != name}
    drifts = [f"- {DRIFT.format(step=one.step.name)}" for one in planned if drifts_from_router(one.step)]
    return "\n\n".join([
        f"# Plan: scale {setting.scale.name}, {name}, {setting.gpus} x {setting.device.describe()}, "
        f"sharding {setting.shards()}",
        "## Parameters", millions_table("part, million parameters", counts),
        "## MFLOP per byte, forward and backward",
        millions_table("part", {one.step.name: one.flops for one in planned}),
        "## Time", time_table(setting, planned),
        "## GB of memory on one GPU", memory_table(setting, planned),
        *(["## Warnings", "\n".join(drifts)] if drifts else []),
        "## Assumptions", assumptions(setting, row)])


def drifts_from_router(step: Step) -> bool:
    """True where a step changes the encoder under a frozen router, and so, in time, what the router decides."""
    parts = {part for group in step.groups for part in group.parts}
    return step.stage == 2 and parts >= {*ENCODER} and not parts >= {*ROUTER}


def _table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def millions_table(corner: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    """One row per part, in millions, empty where a column has none, and the sum."""
    parts = dict.fromkeys(part for counts in columns.values() for part in counts)
    rows = {part: [counts.get(part) for counts in columns.values()] for part in parts}
    rows["all"] = [sum(counts.values()) for counts in columns.values()]
    return _table((corner, *columns), ((part, *(f"{count / MEGA:,.2f}" if count else "" for count in row))
                                       for part, row in rows.items() if any(row)))


def time_table(setting: Setting, planned: list[StepPlan]) -> str:
    """One row per step, then per stage, then all: bytes, FLOPs, hours on all GPUs together, GPU-hours."""
    rows = {one.step.name: [one] for one in planned}
    for stage in (1, 2):
        rows[f"stage {stage}"] = [one for one in planned if one.step.stage == stage]
    rows["all"] = planned
    lines = []
    for name, chosen in rows.items():
        count = sum(one.step.train_bytes for one in chosen)
        hours = sum(one.seconds for one in chosen) / HOUR
        work = sum(one.flops_per_byte * one.step.train_bytes for one in chosen)
        lines.append((name, f"{count / GIGA:,.4g}", f"{work / count / MEGA:,.2f}", f"{work:.3g}", f"{hours:,.4g}",
                      f"{hours * setting.gpus:,.4g}"))
    return _table(("step", "GB of bytes", "MFLOP per byte", "FLOPs", "hours", "GPU-hours"), lines)


def memory_table(setting: Setting, planned: list[StepPlan]) -> str:
    """One row per kind of memory, one column per step, and how many rows at a time fit."""
    each = [one.memory.kinds | {"all of these": one.memory.fixed, "activations of one row": one.memory.row}
            for one in planned]
    lines = [(kind, *(f"{kinds[kind] / GIGA:,.3g}" for kinds in each)) for kind in each[0]]
    if (memory := setting.device.memory_bytes) is not None:
        rows = [-(-(one.step.batch_rows or setting.scale.batch_rows) // setting.gpus) for one in planned]
        fitting = [min(one.memory.rows_that_fit(memory), count) for one, count in zip(planned, rows, strict=True)]
        most = " or ".join(map(str, sorted({*rows})))
        lines.append((f"rows at a time (--rows-at-once), of {most}", *map(str, fitting)))
        lines.append(("fits", *("yes" if rows else "no" for rows in fitting)))
    return _table(("", *(one.step.name for one in planned)), lines)


def assumptions(setting: Setting, row: Batch) -> str:
    """What the plan assumes, one line each: assumptions.md with the numbers of this plan."""
    text = Path(__file__).with_name("assumptions.md").read_text(encoding="utf-8")
    blocks = attention_blocks(positions_within(row.token_document_BM), gpu=setting.half())
    chunks = row.token_ids_BM.shape[1]
    keys = sum((end - start) * (end - first) for start, end, first in blocks) / chunks
    source = (f"the paper's {PAPER_BYTES / GIGA:g}B bytes of about {PAPER_TOKENS / GIGA:g}B tokens"
              if setting.bytes_per_token == PAPER_BYTES / PAPER_TOKENS else "as given")
    again = "and run forward twice" if setting.checkpointing else "and would run forward twice; it is off here"
    products = ("products run in bf16 by autocast, whose copies of the weights in the graph live through forward under "
                "any sharding; the teacher is bf16" if setting.half() else "so is the rest")
    return text.rstrip().format(
        setting=setting, rate=setting.device.flops_per_second / TERA, source=source, chunks=chunks, keys=keys,
        again=again, products=products, gathered=GATHERED, slice=ROWS_AT_ONCE, logits=LOGIT_COPIES, usable=USABLE)
