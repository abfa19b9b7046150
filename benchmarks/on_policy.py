"""On-policy distillation: the share of sampling, memory next to step 1.2, tokens judged a second next to TRL's trainer.

    python benchmarks/on_policy.py          scale small; writes benchmarks/on_policy.md
    python benchmarks/on_policy.py --toy    scale smoke, one round, no report: only that it runs

The student is a short Stage 1, as in notebook 03, which is trained if it is missing. An update is sampling, batch,
objective, backward, clip and optimisers, as in the trainer. The trainer writes by torch; compiled steps are timed next
to it.

The peer is the GOLD trainer of TRL (`pip install trl`, for development alone), with the same teacher, prompts, rows,
temperature and divergence. It needs a student with token ids of its own, so there the student is a copy of the teacher:
it is as large as the core, and has no encoder, which here runs once a byte. Its limit is as many tokens as the limit in
bytes has here on average. It is timed by its own loss for one tokenizer, and by the hybrid one for several (ULD), which
is the one that merges spans as here; the goal is the faster of the two. Of its trainer only `training_step` and the
optimiser are timed, not the loop around them.

Memory is what the resident set grows by at most in three updates after all is loaded, each in a process of its own, as
Linux counts it. Step 1.2 has its own rows, or as many as on-policy has and as long.
"""

import argparse
import ctypes
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

import torch
from measuring import begin, interleaved, machine, write
from transformers import AutoModelForCausalLM

from dbyte import presets
from dbyte.decode.generate import begin as begin_to_write
from dbyte.decode.sampling import Sampling
from dbyte.distill.curriculum import plan_steps
from dbyte.distill.planned_run import PlannedRun
from dbyte.distill.trainer import Trainee, train_on
from dbyte.kernels.fast import fast_products
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_teacher, load_tokenizer
from dbyte.native import engine_for, library
from dbyte_paper.variants import on_policy, run_variant

UPDATES, ROUNDS = 4, 5  # of a call; calls
RATE = 1e-6  # of the peak rates: next to nothing, so that rounds stay alike
SHARE = 0.6  # the goal for sampling, of a step's time
STEPS = {"on-policy": (1, 3), "step 1.2": (1, 1), "step 1.2 on rows as on-policy has": (2, 1)}  # variant and step
COMPILED = "ours, compiled steps"
PEERS = {"TRL, one tokenizer": False, "TRL, hybrid": True}


class Updates:
    """Calls of so many updates of a step; `told` has for each call tokens judged, sampling seconds and samples."""

    def __init__(self, planned: tuple[PlannedRun, ...], step: PlannedRun, updates: int, *, compiled: bool = False):
        self.student = ByteStudent.from_pretrained(planned[2].run.model_folder).train()
        self.student.use_backend("fast")
        self.teacher, _ = load_teacher(step.teacher)
        self.step, self.feed, self.updates = step.step, step.feed, updates
        self.step.thaw(self.student)
        if self.step.policy:
            self.feed = replace(self.feed, engine=partial(engine_for, compiled=compiled))
            self.feed.watch(self.student, self.teacher)
        self.optimisers = self.step.optimisers(self.student)
        self.trainee = Trainee(self.student, self.teacher, self.step.objective)
        self.numbers = count()
        self.told: list[tuple[int, float, int]] = []

    def __call__(self) -> None:
        tokens, sampling = 0, 0.0
        with fast_products():
            for _ in range(self.updates):
                batch = self.feed.batch(next(self.numbers))
                train_on(batch, self.step, RATE, self.trainee, self.optimisers)
                if self.step.policy:
                    tokens += int((batch.own_boundary_BL & batch.judged_BL).sum())
                    sampling += self.feed.told["sampling_seconds"]
        self.told.append((tokens, sampling, self.updates * self.feed.batch_rows))


class Peer:
    """The same of TRL's trainer, with a copy of the teacher as the student."""

    def __init__(self, ours: Updates, folder: Path, out: str, *, hybrid: bool, limit: int):
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        from datasets import Dataset
        from trl.experimental.gold import GOLDConfig, GOLDTrainer

        policy = ours.step.policy
        tokenizer = load_tokenizer(folder)
        tokenizer.pad_token = tokenizer.eos_token
        student, teacher = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
        data = Dataset.from_list([{"prompt": tokenizer.bos_token + bytes(prompt.byte_ids.tolist()).decode(),
                                   "completion": " "} for prompt in ours.feed.prompts])
        told = GOLDConfig(out, per_device_train_batch_size=policy.rows, temperature=policy.temperature, top_p=1.0,
                          lmbda=1.0, beta=1.0, max_completion_length=limit, use_uld_loss=hybrid, bf16=False,
                          uld_use_hybrid_loss=hybrid, teacher_tokenizer_name_or_path=str(folder) if hybrid else None,
                          gradient_checkpointing=False, use_cpu=True, report_to=[], disable_tqdm=True,
                          learning_rate=RATE * policy.rate)
        self.trainer = GOLDTrainer(student, teacher, told, train_dataset=data, processing_class=tokenizer)
        self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1  # the loop around it would set this
        self.student, self.updates, self.rows = student.train(), ours.updates, policy.rows
        self.batches = cycle(self.trainer.get_train_dataloader())
        self.told: list[tuple[int, float, int]] = []

    def __call__(self) -> None:
        tokens = 0
        for _ in range(self.updates):
            self.trainer.training_step(self.student, next(self.batches))
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.trainer.optimizer.step()
            self.trainer.optimizer.zero_grad()
            tokens += int((self.trainer._buffered_inputs[0]["labels"] != -100).sum())
        self.told.append((tokens, 0.0, self.updates * self.rows))


def planned(scale: presets.Scale, variant: int) -> tuple[PlannedRun, ...]:
    """The steps of a row of Table 2; its Stage 1 is trained if it is missing."""
    begun, *_ = rows = on_policy(scale)
    run_variant(scale, begun, seed=0)
    return plan_steps(scale, rows[variant].steps, seed=0)


def growth(name: str, scale: str) -> int:
    """Bytes that the resident set grows by at most in three updates of a step; of a process of its own."""
    variant, place = STEPS[name]
    steps = planned(presets.scale(scale), variant)
    call = Updates(steps, steps[place], updates=3)
    if variant == 2:
        call.feed = steps[3].feed.corpus
    ctypes.CDLL(None).malloc_trim(0)  # what loading has left free must not hide what training takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
               if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def cache_bytes(ours: Updates) -> int:
    """Bytes of all states of the rows of one update while they are written, their prompts the longest."""
    policy = ours.step.policy
    longest = sorted((bytes(prompt.byte_ids.tolist()) for prompt in ours.feed.prompts), key=len)[-policy.rows :]
    stream = begin_to_write(ours.student, longest, max_new_bytes=policy.new_bytes, sampling=Sampling(1.0), stage=1,
                            chat=True).stream
    return sum(getattr(holder, name).nbytes for holder, name, _ in stream.parts())


def timing(steps: tuple[PlannedRun, ...], ours: Updates, *, rounds: int) -> list[str]:
    """Rows of the table on time."""
    folder = steps[3].teacher
    with fast_products():
        batch = ours.feed.batch(0)
    bytes_a_token = int(batch.judged_BL.sum()) / max(int((batch.own_boundary_BL & batch.judged_BL).sum()), 1)
    limit = max(round(ours.step.policy.new_bytes / bytes_a_token), 1)
    with tempfile.TemporaryDirectory() as out:
        calls: dict[str, Updates | Peer] = {"ours": ours}
        if library.compiles():
            calls[COMPILED] = Updates(steps, steps[3], ours.updates, compiled=True)
        calls |= {name: Peer(ours, folder, out, hybrid=hybrid, limit=limit) for name, hybrid in PEERS.items()}
        seconds = interleaved(calls, rounds=rounds)
    told = {name: call.told[-rounds:] for name, call in calls.items()}
    rates = {name: median(one[0] / spent for one, spent in zip(told[name], seconds[name], strict=True))
             for name in calls}
    best = max(rates[name] for name in PEERS)
    lines = []
    for name in [name for name in calls if name not in PEERS]:
        share = median(one[1] / spent for one, spent in zip(told[name], seconds[name], strict=True))
        lines += [row(f"sampling, of a step's time, {name}", f"{100 * share:.0f} %", f"below {100 * SHARE:.0f} %",
                      share < SHARE),
                  row(f"tokens judged a second, {name}", f"{rates[name]:,.0f}", f"at least {best:,.0f}",
                      rates[name] >= best)]
    lines += [row(f"tokens judged a second, {name}", f"{rates[name]:,.0f}") for name in PEERS]
    for name in calls:
        tokens = mean(one[0] / one[2] for one in told[name])
        lines.append(row(f"tokens of a sample, {name}", f"{tokens:.1f}"))
    return lines


def memory(ours: Updates, scale: presets.Scale) -> list[str]:
    """Rows of the table on memory."""
    grown = {}
    for name in STEPS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            grown[name] = alone.submit(partial(growth, name, scale.name)).result() / 1e6
    caches = cache_bytes(ours) / 1e6
    found, *others = grown
    return [row("caches while it writes, MB", f"{caches:,.1f}"),
            *(row(f"memory that updates take, MB, against {name} plus caches", f"{grown[found]:,.0f}",
                  f"at most {grown[name] + caches:,.0f}", grown[found] <= grown[name] + caches) for name in others)]


def row(what: str, found: str, goal: str = "", met: bool | None = None) -> str:
    """A line of the table; met: None where there is no goal."""
    return f"| {what} | {found} | {goal} | {'' if met is None else 'met' if met else 'missed'} |"


def report(scale: presets.Scale, *, updates: int, rounds: int) -> str:
    policy = scale.on_policy
    steps = planned(scale, 1)
    ours = Updates(steps, steps[3], updates)
    return "\n".join([
        f"On-policy distillation: scale {scale.name}, {policy.rows} prompts an update, at most {policy.new_bytes} new "
        f"bytes, fp32. {machine()}; medians of {rounds} rounds in turn of {updates} updates each.", "",
        "| what | found | goal | |", "|---|---:|---:|---|", *memory(ours, scale),
        *timing(steps, ours, rounds=rounds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="scale smoke and one round, printed alone")
    arguments = parser.parse_args()
    begin()
    if arguments.toy:
        print(report(presets.scale("smoke"), updates=1, rounds=1))
    else:
        write(Path(__file__).with_suffix(".md"), report(presets.scale("small"), updates=UPDATES, rounds=ROUNDS))


if __name__ == "__main__":
    main()
