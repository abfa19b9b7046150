"""From a teacher to a student through a tuple of steps: first the plan, which is data, then its execution.

Each step is a run with an address, a hash of its content, and its parent is the run of the step before. So a notebook
that needs step 1.2 trains what is missing and loads the rest, and two ablations share their common beginning.
"""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.distill.data import training_rows, transformed_rows
from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.mixed_rows import mixed_feed
from dbyte.distill.on_policy import OnPolicyFeed, on_policy_feed
from dbyte.distill.planned_run import PlannedRun
from dbyte.distill.processes import Launch
from dbyte.distill.runs import Run, model_hash, noted
from dbyte.distill.steps import Step, check_sharding, stage1, stage2
from dbyte.distill.teacher import plan_teacher, teacher_run
from dbyte.distill.teacher_source import teacher_folder
from dbyte.distill.trainer import train
from dbyte.model.checkpointing import EmbeddingsOnly
from dbyte.model.student import ByteStudent, new_core
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_teacher, read_teacher
from dbyte.presets import Scale
from dbyte.text.spans import TokenBytes

STAGE2_ALONE = ("smoothing", "confidence")  # settings of a student that only Stage 2 reads
LANES = 32  # streams that are open at once, over all processes; it is part of a run's address


def curriculum(scale: Scale, *, decoding: str | None = None) -> tuple[Step, ...]:
    """The five steps of the paper at a scale; decoding: the same Stage 1, then byte heads that are not the scale's."""
    return stage1(**scale.stage1) + stage2(**scale.stage2 | ({"decoding": decoding} if decoding else {}))


def run_steps(
    scale: Scale, steps: tuple[Step, ...], *, seed: int, teacher_seed: int | None = None, launch: Launch | None = None,
    predictions: Path | None = None, variant: str = "",
) -> list[Run]:
    """Train a student through `steps`, reusing every run that is complete; returns one complete run per step.

    Arguments and errors are those of `plan_steps`; a teacher that is not there yet is trained first.
    """
    launch = launch or Launch(rows_at_once=scale.rows_at_once)
    check_sharding(steps, launch.processes.sharding)
    teacher_seed = seed if teacher_seed is None else teacher_seed
    teacher_run(scale, seed=teacher_seed, launch=launch)
    with launch.processes.first_goes_first():
        planned = plan_steps(scale, steps, seed=seed, teacher_seed=teacher_seed, predictions=predictions,
                             variant=variant)
    return execute(scale, planned, seed=seed, launch=launch)


# -- the plan ---------------------------------------------------------------------------------------------------------


def plan_steps(
    scale: Scale, steps: tuple[Step, ...], *, seed: int, teacher_seed: int | None = None,
    predictions: Path | None = None, variant: str = "",
) -> tuple[PlannedRun, ...]:
    """The run of each step, without training anything; texts that were never packed are packed, and kept.

    Args:
        seed: of the student's first weights and the order of the rows.
        teacher_seed: of the teacher and of which documents are held out; None: seed, so that seeds share nothing.
        predictions: another model with the teacher's tokens, whose predictions Eq. 3 takes; core, head and embeddings
            stay the teacher's (Table 10).
        variant: the row of an ablation that asked for the runs, for their notes.
    Raises:
        ValueError: if `predictions` has other tokens than the teacher, or comes with the joint objective; if a step has
            rows of its own an update and the scale streams its corpora.
        FileNotFoundError: if the teacher cannot be read.
    """
    if predictions and any(step.objective.name.startswith("joint") for step in steps):
        raise ValueError("the joint objective reads embeddings and predictions of one teacher: predictions of another "
                         "one are for the steps in sequence")
    teacher_seed = seed if teacher_seed is None else teacher_seed
    if isinstance(scale.teacher, str):
        folder = teacher_folder(scale.teacher)
    else:
        last = plan_teacher(scale, seed=teacher_seed)[-1]
        if last.status != "complete":
            return tuple(PlannedRun(step, None) for step in steps)
        folder = last.run.model_folder
    config, tokenizer = read_teacher(folder)
    token_bytes = TokenBytes.from_tokenizer(tokenizer)
    positions = config.max_position_embeddings
    if predictions is not None:
        other_config, other_tokenizer = read_teacher(predictions)
        other_bytes = TokenBytes.from_tokenizer(other_tokenizer).token_bytes
        if other_bytes != token_bytes.token_bytes or other_config.vocab_size != config.vocab_size:
            raise ValueError(f"{predictions} has other tokens than the student's teacher ({other_config.vocab_size} "
                             f"and {config.vocab_size} in the heads): Eq. 3 compares predictions of the same tokens, "
                             "so take one of the same family")
    rows = None if scale.streamed else training_rows(scale, token_bytes, seed=teacher_seed, positions=positions)
    teacher_hash = model_hash(folder)
    planned: list[PlannedRun] = []
    rows_before = 0
    for step in steps:
        batch_rows = step.batch_rows or scale.batch_rows
        if scale.streamed and batch_rows != scale.batch_rows:
            raise ValueError(f"step {step.name!r} has {batch_rows} rows an update and the scale {scale.batch_rows}, "
                             "but a scale that streams its corpora reads them in as many lanes throughout: set "
                             "streamed = false, or one batch_rows")
        rows_of_step = rows if step.text is None else transformed_rows(
            scale, step.text, token_bytes, seed=teacher_seed, max_bytes=step.train_bytes, positions=positions)
        if step.policy is not None:
            feed = on_policy_feed(scale, step.policy, tokenizer, seeds=(seed, teacher_seed), positions=positions)
        elif rows_of_step is None:
            feed = StreamFeed(scale.corpora, token_bytes, row_bytes=scale.row_bytes, batch_rows=batch_rows, seed=seed,
                              lanes=math.gcd(batch_rows, LANES), positions=positions)
        else:
            feed = Feed(rows_of_step, batch_rows, seed, grouped=step.grouped)
        feed = mixed_feed(feed, step, token_bytes, first_row=rows_before)
        rows_before += step.updates(batch_rows * scale.row_bytes) * batch_rows
        student = StudentConfig(**scale.student).to_dict()
        for version in ("transformers_version", "dbyte_version"):
            student.pop(version, None)
        for name in ("suffix", "router_suffixes"):  # newer than the first runs, whose addresses must stay
            if not student[name]:
                del student[name]
        if step.stage != 2:  # off, so that students that differ in these alone share their Stage 1
            student |= dict.fromkeys(STAGE2_ALONE, False)
        described = {
            "step": step.describe(), "student": student, "teacher": teacher_hash,
            "data": feed.describe(), "batch_rows": batch_rows, "precision": scale.precision, "seed": seed}
        if predictions and step.objective.reads_teacher == "whole":
            described["predictions"] = model_hash(predictions)
        run = Run(described, parent=planned[-1].run if planned else None, notes=noted(scale.name, variant))
        planned.append(PlannedRun(step, run, feed, folder, predictions))
    return tuple(planned)


# -- its execution ----------------------------------------------------------------------------------------------------


def execute(scale: Scale, planned: tuple[PlannedRun, ...], *, seed: int, launch: Launch | None = None) -> list[Run]:
    """Train what is not complete of a plan; returns its runs."""
    launch = launch or Launch(rows_at_once=scale.rows_at_once)
    teacher = None
    for one in planned:
        if launch.processes.of_first(one.run.is_complete):
            continue
        if teacher is None:
            dtype = "auto" if scale.precision == "bf16" else torch.float32
            teacher, tokenizer = load_teacher(one.teacher, dtype=dtype)
            other = load_teacher(one.predictions, dtype=dtype)[0] if one.predictions else teacher
        read = {"whole": other, "embeddings": EmbeddingsOnly(teacher), "": None}[one.step.objective.reads_teacher]
        for unread in {teacher, other} - {read}:
            unread.cpu()
        parent = one.run.parent
        model = (ByteStudent.from_pretrained(parent.model_folder) if parent
                 else new_student(scale, teacher, tokenizer, seed=seed))
        if one.step.decoding:
            torch.manual_seed(seed)
            model = model.with_decoding(one.step.decoding)
        if one.step.new_core:
            torch.manual_seed(-1 - seed)  # by its own seed it would be what a teacher of that seed began as
            model.core = new_core(model.config.core_config).float()
        settings = one.run.config["student"]
        model.config.update({"stage": one.step.stage} | {name: settings[name] for name in STAGE2_ALONE})
        one.feed.follow(parent.facts() if parent else {})
        if isinstance(one.feed, OnPolicyFeed):
            one.feed.watch(model, read)
        train(one.run, one.step, one.feed, model=model, teacher=read, device=scale.device,
              precision=scale.precision, launch=launch, save_extra=tokenizer.save_pretrained)
    return [one.run for one in planned]


def new_student(
    scale: Scale, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> ByteStudent:
    """An untrained student of a scale's sizes around a loaded teacher, in fp32 whatever the teacher's dtype.

    Half-precision weights would lose updates at the curriculum's rates.
    """
    torch.manual_seed(seed)
    student = ByteStudent.from_teacher(teacher, config=StudentConfig(**scale.student), tokenizer=tokenizer)
    student.config.dtype = torch.float32
    return student.float()
