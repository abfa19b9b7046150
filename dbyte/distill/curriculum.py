"""Run a tuple of steps from a teacher to a student; each step is a cached run whose parent is the step before.

So a notebook that needs step 1.2 trains what is missing and loads the rest, and two ablations share their common
beginning.
"""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dbyte.distill.data import changed_rows, training_rows
from dbyte.distill.feed import Feed
from dbyte.distill.runs import Run, model_hash
from dbyte.distill.sharing import EmbeddingsOnly
from dbyte.distill.steps import Step, stage1, stage2
from dbyte.distill.stream import StreamFeed
from dbyte.distill.teacher import teacher_run
from dbyte.distill.trainer import Launch, check_sharding, train
from dbyte.model.backends import training_backend
from dbyte.model.student import ByteStudent, StudentConfig
from dbyte.model.teacher import load_teacher
from dbyte.presets import Scale
from dbyte.text.packing import Rows
from dbyte.text.spans import TokenBytes

STAGE2_ALONE = ("smoothing", "confidence")  # what a student is asked for that nothing in Stage 1 reads
LANES = 32  # streams that are open at once, over all processes; it is part of a run's address


def curriculum(scale: Scale, *, decoding: str | None = None) -> tuple[Step, ...]:
    """The five steps of the paper at a scale; decoding "mbp": the same Stage 1, then MBP's heads at equal bytes."""
    return stage1(**scale.stage1) + stage2(**scale.stage2, decoding=decoding)


def run_steps(
    scale: Scale, steps: tuple[Step, ...], *, seed: int, teacher_seed: int | None = None, launch: Launch | None = None,
    predictions: Path | None = None,
) -> list[Run]:
    """Train a student through `steps`, reusing every run that is complete; returns one complete run per step.

    seed: of the student's first weights and the order of the rows. teacher_seed: of the teacher and of which documents
    are held out; None: seed, so that nothing is shared between seeds. predictions: another model with the teacher's
    tokens, whose predictions Eq. 3 takes; core, head and embeddings stay the teacher's (Table 10). ValueError where its
    tokens are others, or with the joint objective.
    """
    if predictions and any(step.objective.name.startswith("joint") for step in steps):
        raise ValueError("the joint objective reads embeddings and predictions of one teacher: predictions of another "
                         "one are for the steps in sequence")
    teacher_seed = seed if teacher_seed is None else teacher_seed
    launch = launch or Launch(rows_at_once=scale.rows_at_once)
    check_sharding(steps, launch.processes.sharding)
    folder = teacher_run(scale, seed=teacher_seed, launch=launch)
    device = launch.processes.device if launch.processes.count > 1 else scale.device
    teacher, tokenizer = load_teacher(folder)
    token_bytes = TokenBytes.from_tokenizer(tokenizer)
    positions = teacher.config.max_position_embeddings
    other = None if predictions is None else _of_the_same_tokens(predictions, teacher, token_bytes)
    with launch.processes.first_goes_first():
        rows = None if scale.streamed else training_rows(scale, token_bytes, seed=teacher_seed, positions=positions)
    asked = {name: value for name, value in StudentConfig(**scale.student).to_dict().items()
             if name not in ("transformers_version", "dbyte_version")}
    runs: list[Run] = []
    for step in steps:
        # Off in Stage 1, so that students that differ in it alone share their Stage 1.
        resolved = asked if step.stage == 2 else asked | dict.fromkeys(STAGE2_ALONE, False)
        parent = runs[-1] if runs else None
        rows_of_step = rows if step.text is None else changed_rows(
            scale, step.text, token_bytes, seed=teacher_seed, max_bytes=step.train_bytes, positions=positions)
        feed = _feed(scale, step, rows_of_step, token_bytes, parent, seed=seed, positions=positions)
        run = Run({"step": step.describe(), "student": resolved, "teacher": model_hash(folder),
                   "data": rows_of_step.hash if rows_of_step else feed.describe(), "batch_rows": scale.batch_rows,
                   "precision": scale.precision, "seed": seed}
                  | ({"predictions": model_hash(predictions)} if other and step.objective.reads_teacher == "whole"
                     else {}), parent=parent)
        if not launch.processes.gathered(launch.processes.is_first and run.is_complete())[0]:
            student = (ByteStudent.from_pretrained(parent.model_folder) if parent
                       else new_student(scale, teacher, tokenizer, seed=seed))
            if step.decoding:
                torch.manual_seed(seed)
                student = student.with_decoding(step.decoding)
            student.config.update({"stage": step.stage} | {name: resolved[name] for name in STAGE2_ALONE})
            # only here, since to ask is to compile
            student.use_backend(training_backend(launch.backend, device=str(device), precision=scale.precision))
            read = {"whole": other or teacher, "embeddings": EmbeddingsOnly(teacher),
                    "": None}[step.objective.reads_teacher]
            for unread in {teacher, other} - {read, None}:
                unread.cpu()
            train(run, step, feed, model=student, teacher=read, device=device, precision=scale.precision, launch=launch,
                  save_extra=lambda folder: tokenizer.save_pretrained(folder))
        runs.append(run)
    return runs


def _feed(
    scale: Scale, step: Step, rows: Rows | None, token_bytes: TokenBytes, parent: Run | None, *, seed: int,
    positions: int
) -> Feed | StreamFeed:
    """The rows of a step, from where the step before stopped reading."""
    facts = parent.facts() if parent else {}
    if rows is not None:
        return Feed(rows, scale.batch_rows, seed, facts.get("next_row", 0), step.grouped)
    feed = StreamFeed(scale.corpora, token_bytes, row_bytes=scale.row_bytes, batch_rows=scale.batch_rows, seed=seed,
                      lanes=math.gcd(scale.batch_rows, LANES), positions=positions)
    feed.restore(facts.get("feed", {}), 0)
    return feed


def _of_the_same_tokens(folder: Path, teacher: PreTrainedModel, token_bytes: TokenBytes) -> PreTrainedModel:
    """The model in a folder or of a hub name; ValueError unless the k-th token is the teacher's k-th token."""
    model, tokenizer = load_teacher(folder)
    sizes = [one.get_output_embeddings().weight.shape[0] for one in (teacher, model)]
    if TokenBytes.from_tokenizer(tokenizer).token_bytes != token_bytes.token_bytes or sizes[0] != sizes[1]:
        raise ValueError(f"{folder} has other tokens than the student's teacher ({sizes[1]} and {sizes[0]} in the "
                         "heads): Eq. 3 compares predictions of the same tokens, so take one of the same family")
    return model


def new_student(scale: Scale, teacher, tokenizer, *, seed: int) -> ByteStudent:
    """An untrained student of a scale's sizes around a loaded teacher, in fp32 whatever the teacher's dtype.

    Half-precision weights would lose updates at the curriculum's rates.
    """
    torch.manual_seed(seed)
    student = ByteStudent.from_teacher(teacher, config=StudentConfig(**scale.student), tokenizer=tokenizer)
    student.config.dtype = torch.float32
    return student.float()
