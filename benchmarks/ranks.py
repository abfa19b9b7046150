"""What eight GPUs will meet, tried with processes on a CPU: FSDP2's memory and traffic against the plan, 1,000 shards.

    python benchmarks/ranks.py                       2 and 4 gloo processes, the streams; writes benchmarks/ranks.md
    python benchmarks/ranks.py --counts 2 --shards 20 --out /tmp/ranks.md            to see that it runs

Memory: each process trains on the row that the plan counts, in micro-batches of one, step by step, with scale `hub`'s
steps and shape at toy widths. Its peak is what the system says the process has resident during an update, above what it
had before the model. Two allowances of the plan are taken off: a second unit of FSDP2, which a GPU fetches ahead and a
CPU does not, and the part of a slice of logits that such a short row does not fill.

Traffic: bytes that a process receives or sends in an update by a ring, (n-1)/n of each gathered or scattered tensor,
read off the calls of the collectives; `traffic` says how many that should be, at these sizes and at those of the paper.

Shards: a folder of small parquet files is streamed by as many lanes as `paper` has rows in an update, by the first of
eight processes and by one process alone, and resumed by four where eight stopped.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from measuring import machine, write
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig

from dbyte import presets
from dbyte.distill.curriculum import curriculum
from dbyte.distill.loader import StreamFeed
from dbyte.distill.processes import Processes, join
from dbyte.distill.steps import Step
from dbyte.distill.teacher import train_tokenizer
from dbyte.distill.trainer import Launch, Trainee, train_on
from dbyte.model.checkpointing import EmbeddingsOnly, sharding_units, share_frozen
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher_sizes import core_config
from dbyte.plan.counting import AtTokens, Counted, count_step, one_document
from dbyte.plan.footprint import FP32, ROWS_AT_ONCE, footprint
from dbyte.plan.plan import meta_student, teacher_parameters
from dbyte.text.packing import Batch
from dbyte.text.spans import TokenBytes

ROW_BYTES, BYTES_A_TOKEN = 512, 4
MICRO_BATCHES = 2
MB, GB = 1e6, 1e9
CORE = dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1024,
            vocab_size=4096)
SIZES = dict(byte_width=256, encoder_layers=4, decoder_layers=4, ffn_width=1024, state_size=32, chunk_size=128)
STREAM_LANES, STREAM_ROW_BYTES, STREAM_UPDATES = 256, 512, 3  # lanes: `paper` has as many rows in an update
# malloc gives memory back as soon as it is free: what is resident is what is in use.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def toy_core() -> PreTrainedConfig:
    """The core of scale `hub` at toy widths."""
    config = core_config(presets.scale("hub").teacher)
    for name, value in CORE.items():
        setattr(config, name, value)
    return config


# -- traffic ----------------------------------------------------------------------------------------------------------


def traffic(student: ByteStudent, counted: Counted, *, trained: set[str], processes: int) -> float:
    """Bytes that each process receives or sends for a micro-batch under FSDP2.

    A unit that runs is gathered, and again in the backward pass where it is in the graph, as is the one that ran
    before all of these, which is fetched ahead for nothing. What is in no unit is gathered once. Gradients are
    scattered. trained: the names of what the step trains.
    """
    inside = {id(weight) for unit in sharding_units(student) for weight in unit.parameters()}
    numbers = before = 0
    for name, part in student.named_children():
        for unit in sharding_units(part) if name in counted.ran else ():
            size = sum(weight.numel() for weight in unit.parameters())
            numbers += size * (1 + (name in counted.in_graph))
            before = before if name in counted.in_graph else size
    numbers += before
    numbers += sum(weight.numel() for weight in student.parameters() if id(weight) not in inside)
    numbers += sum(weight.numel() for name, weight in student.named_parameters() if name in trained)
    return FP32 * numbers * (processes - 1) / processes


class Sent(TorchDispatchMode):
    """Adds up what the collectives of a block move, by a ring: bytes of all-gathers, reduce-scatters and all-reduces.

    count: of processes.
    """

    def __init__(self, count: int):
        super().__init__()
        self.share = (count - 1) / count
        self.bytes = {"gather": 0.0, "scatter": 0.0, "reduce": 0.0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count a call, and let it go on."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own collectives come back here
        name = func._schema.name
        if "c10d" in name and "wait" not in name:
            kind = "gather" if "allgather" in name else "scatter" if "reduce_scatter" in name else "reduce"
            whole = args[1] if kind == "scatter" else args[0]
            tensors = whole if isinstance(whole, list | tuple) else [whole]
            size = sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))
            self.bytes[kind] += size * self.share * (1 + (kind == "reduce"))
        return func(*args, **(kwargs or {}))


# -- one of the processes ---------------------------------------------------------------------------------------------


def resident(name: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def forget_peak() -> None:
    """Let the peak begin again at what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def update(step: Step, config: PreTrainedConfig, sizes: dict, processes: Processes, row_bytes: int) -> dict:
    """Train a new student by two updates of a step; what the second takes: {"peak", "gather", "scatter", "reduce"}.

    peak: bytes above what the process had before the student and its teacher.
    """
    gc.collect()
    before = resident("VmRSS")
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(config).eval()
    student = ByteStudent.from_teacher(teacher, config=StudentConfig(**sizes)).train().use_backend("torch")
    step.thaw(student)
    read = {"": None, "whole": teacher, "embeddings": EmbeddingsOnly(teacher)}[step.objective.reads_teacher]
    if read is teacher:
        share_frozen(student, teacher)
    del teacher
    # the router of a random student sets boundaries anywhere
    trainee = Trainee(student, read, replace(step.objective, way=AtTokens))
    trainee = processes.wrap(trainee, sharding_units(student))
    optimisers = step.optimisers(student)
    row = one_document(student.config, row_bytes, BYTES_A_TOKEN)
    batch = Batch(*(torch.cat([tensor] * MICRO_BATCHES) for tensor in vars(row).values()))
    launch = Launch(processes=processes, rows_at_once=1)
    train_on(batch, step, 1e-3, trainee, optimisers, launch=launch)
    forget_peak()
    with Sent(processes.count) as sent:
        train_on(batch, step, 1e-3, trainee, optimisers, launch=launch)
    return {"peak": resident("VmHWM") - before} | sent.bytes


def rank(out: Path, count: int) -> None:
    """One of the processes: every step; the largest peak and the first process's traffic go to a file."""
    torch.set_num_threads(1)
    processes = join("cpu", expected=count, sharding="fsdp2")
    steps = curriculum(presets.scale("hub"))
    config = toy_core()
    small = dict(SIZES, byte_width=32, ffn_width=32)
    for step in steps[1:3]:  # what comes once: threads, libraries, connections
        update(step, config, small, processes, 64)
    found = {step.name: update(step, config, SIZES, processes, ROW_BYTES) for step in steps}
    every = processes.gathered(found)
    if processes.is_first:
        out.write_text(json.dumps({name: one | {"peak": max(each[name]["peak"] for each in every)}
                                   for name, one in found.items()}))


# -- the tables -------------------------------------------------------------------------------------------------------


def counts_of(config: PreTrainedConfig) -> dict[str, Counted]:
    """What each step of scale `hub` computes and keeps for a row at toy widths, by its name."""
    student = meta_student(config, SIZES)
    row = one_document(student.config, ROW_BYTES, BYTES_A_TOKEN)
    return {step.name: count_step(student.config, step, row, backend="torch")
            for step in curriculum(presets.scale("hub"))}


def planned(student: ByteStudent, step: Step, counted: Counted, *, processes: int) -> tuple[float, float]:
    """The bytes of memory that the plan has for a process of a CPU, and `traffic` of a micro-batch of one row."""
    memory = footprint(student, teacher_parameters(student), step, counted, half=False, gpus=processes,
                       sharding="fsdp2")
    ahead = max(sum(weight.numel() for weight in unit.parameters()) for name, part in student.named_children()
                if name in counted.ran for unit in sharding_units(part))
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    unfilled = memory.kinds["logits of one slice"] * max(1 - ROW_BYTES / BYTES_A_TOKEN / ROWS_AT_ONCE, 0)
    return (memory.fixed + memory.row - FP32 * ahead - unfilled,
            traffic(student, counted, trained=trained, processes=processes))


def memory_table(numbers: list[int]) -> list[str]:
    """A step and a number of processes a row: memory and traffic, planned and found."""
    lines = ["| processes | step | MB a process, planned | found | off by | MB of traffic for a row, planned | found "
             "| off by |",
             "|---:|---|---:|---:|---:|---:|---:|---:|"]
    config = toy_core()
    counts = counts_of(config)
    for number in numbers:
        found = launched(number)
        for step in curriculum(presets.scale("hub")):
            memory, moved = planned(meta_student(config, SIZES), step, counts[step.name], processes=number)
            one = found[step.name]
            sent = (one["gather"] + one["scatter"] + one["reduce"]) / MICRO_BATCHES
            lines.append(f"| {number} | {step.name} | {memory / MB:.1f} | {one['peak'] / MB:.1f} | "
                         f"{100 * (memory / one['peak'] - 1):+.1f} % | {moved / MB:.2f} | {sent / MB:.2f} | "
                         f"{100 * (moved / sent - 1):+.1f} % |")
            print(lines[-1], flush=True)
    return lines


def launched(count: int) -> dict:
    """What `rank` found in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count),
                        str(Path(__file__)), "--rank", str(out), "--counts", str(count)],
                       env=os.environ | GIVEN_BACK, check=True)
        return json.loads(out.read_text())


def paper_table(gpus: int = 8) -> list[str]:
    """What `traffic` says of the scales for GPUs, a row each step: which parts run is known from the toy."""
    lines = ["| scale | step | micro-batches an update | GB a GPU and update | bytes of text an update |",
             "|---|---|---:|---:|---:|"]
    counts = counts_of(toy_core())
    for name in ("hub", "paper"):
        scale = presets.scale(name)
        student = meta_student(core_config(scale.teacher), dict(scale.student))
        for step in curriculum(scale):
            step.thaw(student)
            trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
            moved = traffic(student, counts[step.name], trained=trained, processes=gpus)
            rows = step.batch_rows or scale.batch_rows
            many = rows // gpus // (scale.rows_at_once or rows // gpus)
            lines.append(f"| {name}, {gpus} GPUs | {step.name} | {many} | {many * moved / GB:,.0f} | "
                         f"{rows * scale.row_bytes:,} |")
    return lines


# -- streams ----------------------------------------------------------------------------------------------------------


def shards(folder: Path, count: int) -> str:
    """A folder of so many parquet files of made-up text; returns its corpus name."""
    import pandas as pd

    (folder / "data").mkdir(parents=True)
    for shard in range(count):
        texts = [f"Shard {shard}, document {number}. " + f"The cat {number} sat on mat {shard}. " * 8
                 for number in range(40)]
        pd.DataFrame({"text": texts}).to_parquet(folder / "data" / f"train-{shard:05}-of-{count:05}.parquet")
    return f"hub:{folder}"


def content(feed: StreamFeed, update: int, *, part: int, parts: int) -> list[bytes]:
    """The rows of a share of an update, as bytes."""
    return [row.numpy().tobytes() for row in feed.batch(update, part=part, parts=parts).byte_ids_BL]


def streams(count: int) -> list[str]:
    """Who reads a row: seconds, files and memory; then whether four processes go on where eight stopped."""
    words = ["Shard 0, document 1. The cat 2 sat on mat 3. "] * 8
    token_bytes = TokenBytes.from_tokenizer(train_tokenizer(words, vocabulary=280))
    lines = ["| read by | lanes | s to the first update | s for the next | open files | MB of memory | kB of state |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        name = shards(Path(folder) / "set", count)

        def new() -> StreamFeed:
            return StreamFeed([(name, 1)], token_bytes, row_bytes=STREAM_ROW_BYTES, batch_rows=STREAM_LANES, seed=0)

        for who, parts in (("the first of eight processes", 8), ("one process alone", 1)):
            files, memory, began = len(os.listdir("/proc/self/fd")), resident("VmRSS"), time.monotonic()
            feed = new()
            feed.batch(0, part=0, parts=parts)
            first, began = time.monotonic() - began, time.monotonic()
            for number in range(1, STREAM_UPDATES):
                feed.batch(number, part=0, parts=parts)
            each = (time.monotonic() - began) / (STREAM_UPDATES - 1)
            lines.append(f"| {who} | {STREAM_LANES // parts} | {first:.1f} | {each:.2f} | "
                         f"{len(os.listdir('/proc/self/fd')) - files} | {(resident('VmRSS') - memory) / MB:.0f} | "
                         f"{len(json.dumps(feed.state())) / 1000:.0f} |")
            print(lines[-1], flush=True)
            if parts == 1:
                wanted = sorted(content(feed, STREAM_UPDATES, part=0, parts=1))
            feed.close()
        eight = [new() for _ in range(8)]
        states = {}
        for part, feed in enumerate(eight):
            for number in range(STREAM_UPDATES):
                feed.batch(number, part=part, parts=8)
            states |= feed.state()
            feed.close()
        found = []
        for part in range(4):
            feed = new()
            feed.restore(states, STREAM_UPDATES)
            found += content(feed, STREAM_UPDATES, part=part, parts=4)
            feed.close()
    same = sum(one == two for one, two in zip(sorted(found), wanted, strict=True))
    return [*lines, "", f"Read by eight processes for {STREAM_UPDATES} updates and resumed by four: {same} of "
            f"{STREAM_LANES} rows of the next update are those of one process that nobody stopped."]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--counts", default="2,4", help="numbers of processes")
    asked.add_argument("--shards", type=int, default=1000)
    asked.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    asked.add_argument("--rank", type=Path, help=argparse.SUPPRESS)  # a process of `launched`
    arguments = asked.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    if arguments.rank:
        rank(arguments.rank, counts[0])
        return
    torch.set_num_threads(1)
    write(arguments.out, "\n".join([
        f"FSDP2 over gloo processes, the shape of scale hub at toy widths, a row of {ROW_BYTES:,} bytes each, fp32. "
        f"{machine()}.", "", *memory_table(counts), "",
        "What the same count of traffic says of the scales for GPUs, gathered and scattered in fp32 for each "
        "micro-batch:", "", *paper_table(), "",
        f"A corpus of {arguments.shards:,} parquet files, {STREAM_LANES} lanes, rows of {STREAM_ROW_BYTES} bytes:", "",
        *streams(arguments.shards)]))


if __name__ == "__main__":
    main()
