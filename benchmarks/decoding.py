"""Decoding: bytes a second of Stage 1, JBP and MBP against the teacher's own `transformers` generation.

    python benchmarks/decoding.py                  teacher and students from the runs of scale small; writes decoding.md
    python benchmarks/decoding.py --random         random weights of the same sizes, where there are no runs
    python benchmarks/decoding.py --random --prompt-bytes 64 --new-bytes 32 --rounds 1 --no-report   only that it runs
    python benchmarks/decoding.py --profile        where the time of a JBP step goes, one row and sixteen
    OMP_NUM_THREADS=1 python benchmarks/decoding.py --folders TEACHER JBP [MBP]   these models, on one thread

Greedy, EOS suppressed in all four, prompts and lengths as given (1 kB each by default), all timed in turn in one
process. Reading the prompt counts; "writing alone" leaves it out. The teacher writes tokens until its text has as many
bytes; its bytes a second are those of the tokens that it wrote. Notebook 06 judges what JBP and MBP write. "compiled"
is the native engine (`compiled=True`); compiling it is not timed.

The bound that is kept: JBP writes at least as many bytes a second as the teacher, at 16 rows on a CPU.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from operator import sub
from pathlib import Path
from statistics import median

import torch
from measuring import begin as settle
from measuring import interleaved, machine, write
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaForCausalLM

from dbyte import presets
from dbyte.decode.generate import begin
from dbyte.decode.sampling import Sampling
from dbyte.distill.curriculum import curriculum, new_student, run_steps
from dbyte.distill.teacher import teacher_config, teacher_run, train_tokenizer
from dbyte.model.packed_attention import PACKED
from dbyte.model.student import BYTES, ByteStudent
from dbyte.model.teacher import load_teacher
from dbyte.native import engine_for
from dbyte.text.spans import TokenBytes
from dbyte_paper.speed import Output, student_writes, teacher_writes
from dbyte_tasks.world.world import world_documents

SCALE = "small"
ROUNDS = 5
BATCHES = (1, 16)  # rows
BOUND = 1.0  # of the teacher's bytes a second, at the last of BATCHES
DAMPED = 0.9  # flagged symbols of random heads


def trained() -> tuple:
    """Teacher, tokenizer, JBP and MBP student of the runs of the scale; trains what is missing."""
    scale = presets.scale(SCALE)
    students = [ByteStudent.from_pretrained(run_steps(scale, steps, seed=0)[-1].model_folder).eval()
                for steps in (curriculum(scale), curriculum(scale, decoding="mbp"))]
    return *load_teacher(teacher_run(scale, seed=0)), *students


def untrained() -> tuple:
    """The same sizes with random weights; the joint head's flags are damped until chunks have a few bytes."""
    scale = presets.scale(SCALE)
    texts = list(world_documents(seed=0, max_bytes=400_000))
    tokenizer = train_tokenizer(texts, vocabulary=scale.teacher.vocabulary)
    torch.manual_seed(0)
    config = teacher_config(scale.teacher, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    config.max_position_embeddings *= 4  # untrained routers cut more often
    teacher = LlamaForCausalLM._from_config(config, attn_implementation=PACKED).eval()
    student = new_student(scale, teacher, tokenizer, seed=0).eval()
    with torch.no_grad():
        student.byte_head.weight[BYTES:] *= DAMPED
    return teacher, tokenizer, student, student.with_decoding("mbp").eval()


def prompts_of(rows: int, size: int) -> list[bytes]:
    """So many prompts of so many bytes, of the world's text."""
    text = "".join(world_documents(seed=7, max_bytes=2 * rows * size + 10_000)).encode()
    return [text[row * size : (row + 1) * size] for row in range(rows)]


Call = tuple[str, int]  # decoder and rows
Told = dict[Call, list[Output]]
def noting(call: Callable[[], Output], told: list[Output]) -> Callable[[], None]:
    """The call, which appends what it wrote to `told`."""
    return lambda: told.append(call())


def chosen(arguments: argparse.Namespace) -> tuple[tuple, str]:
    """Teacher, tokenizer, JBP and MBP student (or None), and what they are."""
    if arguments.folders:
        students = (ByteStudent.from_pretrained(folder).eval() if folder else None
                    for folder in (*arguments.folders, None)[1:3])
        names = ", ".join(Path(folder).parent.name for folder in arguments.folders)
        return (*load_teacher(arguments.folders[0]), *students), f"models of the runs {names}"
    return (untrained() if arguments.random else trained(),
            f"scale {SCALE}, {'random weights' if arguments.random else 'trained'}")


def measured(models: tuple, arguments: argparse.Namespace) -> tuple[dict[Call, list[float]], Told]:
    """Seconds of each decoder in each round, and what it wrote."""
    teacher, tokenizer, student, mbp = models
    calls: dict[Call, Callable[[], object]] = {}
    told: Told = defaultdict(list)
    size = arguments.new_bytes
    for rows in BATCHES:
        prompts = prompts_of(rows, arguments.prompt_bytes)
        for kind, of, stage in (("Stage 1", student, 1), ("JBP", student, 2), ("MBP", mbp, 2)):
            for how in ("", " compiled") if of else ():
                call = student_writes(of, prompts, size, stage=stage, engine=engine_for(of, bool(how)))
                calls[kind + how, rows] = noting(call, told[kind + how, rows])
        call = teacher_writes(teacher, TokenBytes.from_tokenizer(tokenizer), prompts, size)
        calls["teacher", rows] = noting(call, told["teacher", rows])
    return interleaved(calls, rounds=arguments.rounds), told


def report(arguments: argparse.Namespace) -> str:
    """The table and what became of the bound, as Markdown."""
    models, what = chosen(arguments)
    if arguments.profile:
        return profiled(models[2], arguments)
    seconds, told = measured(models, arguments)
    rate = {key: told[key][-1].text_bytes / median(values) for key, values in seconds.items()}
    alone = {key: told[key][-1].text_bytes / median(map(sub, values, (one.reading for one in told[key][-len(values):])))
             for key, values in seconds.items() if key[0] != "teacher"}
    lines = [f"Decoding: {what}, prompts of {arguments.prompt_bytes} bytes, {arguments.new_bytes} written a row, "
             f"greedy, EOS suppressed. {machine()}; medians of {arguments.rounds} rounds in turn.", "",
             "| decoder | rows | bytes/s | of the teacher's | spread % | bytes a core position | over one row | "
             "writing alone, bytes/s | over one row |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for (kind, rows), value in rate.items():
        values = seconds[kind, rows]
        wrote = told[kind, rows][-1]
        spread = 100 * (max(values) - min(values)) / median(values)
        writing = (f"{alone[kind, rows]:,.0f} | {alone[kind, rows] / alone[kind, 1]:.1f}" if (kind, rows) in alone
                   else " | ")
        lines.append(f"| {kind} | {rows} | {value:,.0f} | {value / rate['teacher', rows]:.2f} | {spread:.0f} | "
                     f"{wrote.text_bytes / max(wrote.positions, 1):.2f} | {value / rate[kind, 1]:.1f} | {writing} |")
    for kind in ("JBP", "JBP compiled"):
        of_teacher = rate[kind, BATCHES[-1]] / rate["teacher", BATCHES[-1]]
        verdict = "kept" if of_teacher >= BOUND else "missed"
        lines += ["", f"{kind} at {BATCHES[-1]} rows: {of_teacher:.2f} of the teacher; the bound of {BOUND:.1f} is "
                  f"{verdict}."]
    return "\n".join(lines)


def profiled(student: ByteStudent, arguments: argparse.Namespace) -> str:
    """Where the time of JBP steps goes, by operation, for each batch."""
    lines = []
    for rows in BATCHES:
        writer = begin(student, prompts_of(rows, arguments.prompt_bytes), max_new_bytes=arguments.new_bytes,
                       sampling=Sampling(), stage=2, valid_utf8=False)
        for _ in range(8):
            writer.advance()
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(16):
                writer.advance()
        lines.append(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=22,
                                                   max_name_column_width=40))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", action="store_true", help="random weights instead of the runs")
    parser.add_argument("--folders", nargs="+", metavar="FOLDER", help="these instead: teacher, JBP, perhaps MBP")
    parser.add_argument("--prompt-bytes", type=int, default=1000)
    parser.add_argument("--new-bytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="profile JBP steps instead")
    parser.add_argument("--no-report", action="store_true", help="print alone")
    arguments = parser.parse_args()
    settle()
    text = report(arguments)
    if arguments.no_report or arguments.profile:
        print(text)
    else:
        write(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    main()
