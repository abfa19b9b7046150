"""Scale `real`: the speed of its training against the bound of its FLOPs, and of its students against their teacher.

    python benchmarks/real_speed.py                       what runs/ holds of scale real; writes real_speed.md
    python benchmarks/real_speed.py --only training       the steps alone: minutes
    python benchmarks/real_speed.py --scale mine.toml --items 2 --new-bytes 8 --rounds 1 --no-report   only that it runs

No run is trained. Every step is judged by `--updates` updates (`timed_updates`), in turn with a square product,
whose rate makes the bound. FLOPs are those of a micro-batch of real rows, counted from shapes by a step on tensors
without numbers: products, convolutions and attention, forward and backward, of the frozen teacher and core too, and
Muon's. Beside it stands what the step's run wrote down: seconds, bytes a second and peak memory with batches, logs,
checkpoints and snapshots, on whatever machine that was. One that is still running counts with what it has logged.

Scoring: items a second inside the adapters, over the harness's own adapter around the teacher at its best batch of each
column. Writing: greedy, EOS suppressed, after held-out text, over transformers' `generate` of the teacher. Both in
turn in one process. With `--only` nothing is written. Runs in another checkout are found by $DBYTE_ROOT.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from decoding import noting
from evaluation import Timed
from evaluation import seconds as quickest
from measuring import MATMUL, begin, interleaved, machine, matmul, write
from steps import updates
from transformers import AutoConfig

from dbyte import presets
from dbyte.distill.curriculum import curriculum, new_student, plan_steps
from dbyte.distill.data import heldout_corpus
from dbyte.distill.planned_run import PlannedRun
from dbyte.distill.processes import Launch
from dbyte.evaluate.harness import teacher_lm
from dbyte.evaluate.lm import load_lm
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_teacher
from dbyte.native import engine_for
from dbyte.plan.counting import count_step, muon_flops
from dbyte.plan.plan import meta_student, sizes_of
from dbyte.presets import Scale
from dbyte.text.spans import TokenBytes
from dbyte_paper.speed import student_writes, teacher_writes
from dbyte_tasks import minibench
from dbyte_tasks.column import HarnessTask
from dbyte_tasks.paper import BENCHMARKS, data_folder

PARTS = ("training", "scoring", "writing")
SHARE, MEMORY, HALF = 0.6, 8e9, 0.5  # the goals: of the bound, bytes, of the teacher's items a second
BATCHES = (4, 16, 64)  # of the teacher's adapter
ROWS = (1, 16)
READINGS = {"Stage 1, tokenizer": (2, "tokenizer"), "Stage 1, router": (2, "router"), "Stage 2, router": (4, "router")}
STAGES = {"Stage 1": (2, 1), "Stage 2": (4, 2)}  # the place of the step, the stage


# -- training -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What a run has written down: bytes trained, seconds, peak bytes of its process (0: not yet known), its end."""

    train_bytes: int
    seconds: float
    peak_bytes: int
    complete: bool


def record(one: PlannedRun) -> Record | None:
    """The record of a run, complete or not; None if it has logged nothing."""
    if one.status == "complete":
        facts = one.run.facts()
        return Record(facts["train_bytes"], facts["seconds"], facts.get("peak_bytes", 0), True)
    lines = one.run.metrics_path.read_text(encoding="utf-8").splitlines() if one.run.metrics_path.exists() else []
    if not lines:
        return None
    last = json.loads(lines[-1])
    return Record(last["bytes"], last["seconds"], 0, False)


def flops_a_byte(scale: Scale, one: PlannedRun) -> float:
    """FLOPs of an update for each byte of its rows, padding included, at the teacher's tokens."""
    core = AutoConfig.from_pretrained(str(one.teacher))
    parts = one.feed.batch(0).split(scale.rows_at_once)
    config = StudentConfig(core_config=core, **sizes_of(scale))
    work = sum(sum(count_step(config, one.step, part, backend="fast").flops.values()) for part in parts)
    work += muon_flops(meta_student(core, sizes_of(scale)), one.step)
    return work / (one.feed.batch_rows * scale.row_bytes)


def timed_updates(
    scale: Scale, planned: tuple[PlannedRun, ...], count: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Of every step: bytes a second of `count` updates, and FLOP/s of a product in turn.

    A step of Stage 2 begins with the student of the run before it, if that is complete: chunks of a router that has
    learnt nothing are as many as chance makes them.
    """
    teacher, tokenizer = load_teacher(planned[0].teacher)
    found = {}
    for one in planned:
        begun = one.run.parent if one.step.stage == 2 and one.run.parent.is_complete() else None
        student = (ByteStudent.from_pretrained(begun.model_folder) if begun
                   else new_student(scale, teacher, tokenizer, seed=0))
        if one.step.stage == 2 and (decoding := sizes_of(scale).get("decoding")):
            student = student.with_decoding(decoding)
        batches = [one.feed.batch(update) for update in range(count)]
        call = updates(one.step, student, teacher, batches, "fast", launch=Launch(rows_at_once=scale.rows_at_once))
        seconds = interleaved({"step": call, "matmul": matmul()}, rounds=rounds)
        found[one.step.name] = (count * one.feed.batch_rows * scale.row_bytes / median(seconds["step"]),
                                2 * MATMUL**3 / median(seconds["matmul"]))
    return found


def training(scale: Scale, planned: tuple[PlannedRun, ...], arguments: argparse.Namespace) -> list[str]:
    """A step a row: its updates against the bound of their FLOPs, and the record of its run."""
    lines = [f"Training: {arguments.updates} updates of each step in turn with a square product; then the records of "
             "the runs.", "",
             "| step | MFLOP a byte | product, GFLOP/s | bound, bytes/s | updates, bytes/s | % of the bound | "
             "run: MB | seconds | bytes/s | peak GB |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    shares, peak = {}, 0
    measured = timed_updates(scale, planned, arguments.updates, arguments.rounds)
    for one in planned:
        work = flops_a_byte(scale, one)
        speed, rate = measured[one.step.name]
        shares[one.step.name] = speed * work / rate
        told = "| | | "
        if found := record(one):
            peak = max(peak, found.peak_bytes)
            told = (f"{found.train_bytes / 1e6:.2f}{'' if found.complete else ' so far'} | {found.seconds:,.0f} | "
                    f"{found.train_bytes / max(found.seconds, 1e-9):,.0f} | "
                    + (f"{found.peak_bytes / 1e9:.1f}" if found.peak_bytes else ""))
        lines.append(f"| {one.step.name} | {work / 1e6:.2f} | {rate / 1e9:,.0f} | {rate / work:,.0f} | {speed:,.0f} | "
                     f"{100 * shares[one.step.name]:.0f} | {told} |")
        print(lines[-1], flush=True)
    least = min(shares, key=shares.get)
    lines += ["", f"Least of the bound: {100 * shares[least]:.0f} % in {least}; the goal of {100 * SHARE:.0f} % in "
              f"every step is {_met(shares[least] >= SHARE)}."]
    if peak:
        lines[-1] += f" Most memory: {peak / 1e9:.1f} GB; the goal of {MEMORY / 1e9:.0f} GB is {_met(peak <= MEMORY)}."
    return lines


# -- scoring and writing, against the teacher -------------------------------------------------------------------------


def task(scale: Scale, column: str, items: int) -> HarnessTask:
    """The first items of a column: of the paper's if the scale measures real items, else of MiniBench."""
    if scale.benchmarks:
        return BENCHMARKS[column].as_task(items, data=data_folder())
    return minibench.EVERY[column].as_task(items)


def scoring(scale: Scale, planned: tuple[PlannedRun, ...], arguments: argparse.Namespace) -> list[str]:
    """A column a row: the teacher's items a second, and every student's over it."""
    def timed(lm: object) -> Timed:
        return Timed(lm, time.perf_counter, lambda column, items: task(scale, column, items))

    loaded = load_teacher(planned[0].teacher)
    teachers = {batch: timed(teacher_lm(*loaded, batch_size=batch)) for batch in BATCHES}
    lms = {name: timed(load_lm(planned[place].run.model_folder, boundaries=boundaries))
           for name, (place, boundaries) in READINGS.items() if planned[place].status == "complete"}
    rows = [f"Scoring {arguments.items} items a column: the teacher's items a second, and a student's over them.", "",
            "| column | items | teacher, items/s | its batch | " + " | ".join(lms) + " |",
            "|---|---:|---:|---:|" + "---:|" * len(lms)]
    ratios = defaultdict(dict)
    for column in arguments.columns.split(","):
        for one in (*teachers.values(), *lms.values()):
            one.ask(column, 2, count=False)
        for _ in range(arguments.rounds):
            counts = {one.ask(column, arguments.items) for one in (*teachers.values(), *lms.values())}
        best = min(teachers, key=lambda batch: median(teachers[batch].calls[column]))
        spent = quickest(teachers.values(), [column])
        for name, lm in lms.items():
            ratios[name][column] = spent / quickest([lm], [column])
        count = counts.pop()
        rows.append(f"| {column} | {count} | {count / spent:,.2f} | {best} | "
                    + " | ".join(f"{ratios[name][column]:.2f}" for name in lms) + " |")
        print(rows[-1], flush=True)
    return [*rows, "", *(f"- {name}: at least {min(found.values()):.2f} of the teacher's; the goal of {HALF} is "
                         f"{_met(min(found.values()) >= HALF)}." for name, found in ratios.items())]


def writing(scale: Scale, planned: tuple[PlannedRun, ...], arguments: argparse.Namespace) -> list[str]:
    """A decoder and a number of rows a line: bytes a second, and over the teacher's."""
    teacher, tokenizer = load_teacher(planned[0].teacher)
    table = TokenBytes.from_tokenizer(tokenizer)
    text = "\n".join(heldout_corpus(scale, scale.corpora[0][0], seed=0).documents).encode()
    students = {name: (ByteStudent.from_pretrained(planned[place].run.model_folder).eval(), stage)
                for name, (place, stage) in STAGES.items() if planned[place].status == "complete"}
    size, told = arguments.prompt_bytes, defaultdict(list)
    calls = {}
    for rows in ROWS:
        step = max((len(text) - size) // rows, 1)
        prompts = [text[row * step : row * step + size] for row in range(rows)]
        writers = {"teacher": teacher_writes(teacher, table, prompts, arguments.new_bytes)}
        for name, (student, stage) in students.items():
            for how in ("", " compiled"):
                writers[name + how] = student_writes(student, prompts, arguments.new_bytes, stage=stage,
                                                     engine=engine_for(student, bool(how)))
        calls |= {(name, rows): noting(call, told[name, rows]) for name, call in writers.items()}
    seconds = interleaved(calls, rounds=arguments.rounds)
    speed = {key: told[key][-1].text_bytes / median(values) for key, values in seconds.items()}
    lines = [f"Writing {arguments.new_bytes} bytes a row after {size}, the prompt's reading included.", "",
             "| decoder | rows | bytes/s | over the teacher's | bytes a core position | spread % |",
             "|---|---:|---:|---:|---:|---:|"]
    for (name, rows), value in speed.items():
        values, wrote = seconds[name, rows], told[name, rows][-1]
        lines.append(f"| {name} | {rows} | {value:,.0f} | {value / speed['teacher', rows]:.2f} | "
                     f"{wrote.text_bytes / max(wrote.positions, 1):.2f} | "
                     f"{100 * (max(values) - min(values)) / median(values):.0f} |")
    return lines


def _met(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="real", help="a name or a .toml file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append", help="print this part alone (repeatable)")
    parser.add_argument("--columns", default="LMB,PIQA", help="with commas between")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=2, help="of every step")
    parser.add_argument("--prompt-bytes", type=int, default=400)
    parser.add_argument("--new-bytes", type=int, default=200)
    parser.add_argument("--no-report", action="store_true", help="print alone")
    arguments = parser.parse_args()
    begin()
    scale = presets.scale(arguments.scale)
    planned = plan_steps(scale, curriculum(scale), seed=arguments.seed)
    if planned[0].run is None:
        parser.error(f"the teacher of scale {scale.name} is not trained: python -m dbyte train --scale "
                     f"{arguments.scale} --through teacher")
    makers = {"training": training, "scoring": scoring, "writing": writing}
    parts = [makers[name](scale, planned, arguments) for name in arguments.only or PARTS]
    text = "\n".join([f"Scale {scale.name}. {machine()}; medians of {arguments.rounds} rounds in turn.",
                      *(line for part in parts for line in ("", *part))])
    if arguments.no_report or arguments.only:
        print(text)
    else:
        write(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    main()
