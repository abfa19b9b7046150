"""What training costs: step 1.2 against fine-tuning the teacher itself, and the loop against its updates alone.

    python benchmarks/engine.py         scale small, real rows; writes benchmarks/engine.md

Fine-tuning runs the same loop on the same rows (next token, AdamW), as the nearest thing a user would do with the
teacher. The bound of the ratio is that of their FLOPs. The loop is timed as a user runs it, with data, log and
checkpoints, against as many updates on batches that are ready.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from measuring import begin, flops, interleaved, machine, write

from dbyte import presets
from dbyte.distill import objectives
from dbyte.distill.curriculum import curriculum, new_student
from dbyte.distill.data import training_rows
from dbyte.distill.loader import Feed
from dbyte.distill.runs import Run
from dbyte.distill.steps import EVERYTHING, Group, Step
from dbyte.distill.teacher import teacher_run
from dbyte.distill.trainer import Trainee, train, train_on
from dbyte.kernels.fast import fast_products
from dbyte.model.backends import training_backend
from dbyte.model.teacher import load_model, load_teacher
from dbyte.text.spans import TokenBytes

UPDATES, ROUNDS, LOOP_UPDATES, LOOP_ROUNDS = 8, 5, 60, 2
RATE = 1e-9  # so that rounds stay alike
BACKEND = training_backend(None, device="cpu", precision="fp32")


def updates(step: Step, trainee: Trainee, batches: list) -> Callable[[], None]:
    """One update on each batch, with the products of the training loop."""
    optimisers = step.optimisers(trainee.model)

    def call() -> None:
        with fast_products():
            for batch in batches:
                train_on(batch, step, RATE, trainee, optimisers)

    return call


def against_finetuning(scale, teacher, tokenizer, rows, folder: Path) -> list[str]:
    """Bytes a second of step 1.2 and of fine-tuning the teacher, and what their FLOPs imply."""
    feed = Feed(rows, scale.batch_rows, 0)
    step = curriculum(scale)[1]
    batches = [feed.batch(update) for update in range(UPDATES)]
    many = sum(batch.byte_ids_BL.numel() for batch in batches)
    tune = Step("fine-tune", 0, objectives.token, (Group(EVERYTHING, RATE),), many, 0.1)
    student = new_student(scale, teacher, tokenizer, seed=0).use_backend(BACKEND)
    calls = {step.name: updates(step, Trainee(student, teacher, step.objective), batches),
             tune.name: updates(tune, Trainee(load_model(folder).train(), None, tune.objective), batches)}
    seconds = {name: median(values) for name, values in interleaved(calls, rounds=ROUNDS).items()}
    work = {name: flops(call) for name, call in calls.items()}
    bound = work[tune.name] / work[step.name]
    reached = seconds[tune.name] / seconds[step.name]
    lines = ["| update | bytes/s | MFLOP a byte |", "|---|---:|---:|"]
    lines += [f"| {name} | {many / seconds[name]:,.0f} | {work[name] / many / 1e6:.2f} |" for name in calls]
    return [*lines, "", f"Step 1.2 runs at {reached:.2f} times the bytes a second of fine-tuning the teacher; their "
            f"FLOPs imply {bound:.2f}, of which {100 * reached / bound:.0f} % are reached."]


def overhead(scale, teacher, tokenizer, rows) -> list[str]:
    """The share of the loop's time that is not in its updates."""
    step = curriculum(scale)[1]
    feed = Feed(rows, scale.batch_rows, 0)
    budget = LOOP_UPDATES * scale.batch_rows * scale.row_bytes
    step = Step(step.name, 1, step.objective, tuple(Group(g.parts, RATE, g.muon_rate and RATE) for g in step.groups),
                budget, 0.1)
    loop: list[float] = []
    alone: list[float] = []
    for turn in range(LOOP_ROUNDS):
        batches = [feed.batch(update) for update in range(LOOP_UPDATES)]
        student = new_student(scale, teacher, tokenizer, seed=0).train().use_backend(BACKEND)
        call = updates(step, Trainee(student, teacher, step.objective), batches)
        started = time.perf_counter()
        call()
        alone.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            student = new_student(scale, teacher, tokenizer, seed=0)
            started = time.perf_counter()
            train(Run({"turn": turn}, root=Path(folder)), step, Feed(rows, scale.batch_rows, 0), model=student,
                  teacher=teacher)
            loop.append(time.perf_counter() - started)
    more = 100 * (min(loop) / min(alone) - 1)
    return [f"The loop with data, log, checkpoints every minute and the final save takes {min(loop):.1f} s for "
            f"{LOOP_UPDATES} updates, the updates alone {min(alone):.1f} s: {more:.1f} % more "
            f"(the shorter of {LOOP_ROUNDS} turns each)."]


def main() -> None:
    begin()
    scale = presets.scale("small")
    folder = teacher_run(scale, seed=0)
    teacher, tokenizer = load_teacher(folder)
    rows = training_rows(scale, TokenBytes.from_tokenizer(tokenizer), seed=0)
    torch.manual_seed(0)
    lines = [f"Scale small, {scale.batch_rows} rows of {scale.row_bytes} bytes, fp32. {machine()}.", "",
             *against_finetuning(scale, teacher, tokenizer, rows, folder), "",
             *overhead(scale, teacher, tokenizer, rows)]
    write(Path(__file__).with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
