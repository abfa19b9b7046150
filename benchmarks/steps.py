"""Each step of the curriculum: bytes a second, against the bound that its own FLOPs set at the measured matmul rate.

    python benchmarks/steps.py                                  scale small, real rows; writes benchmarks/steps.md
    python benchmarks/steps.py --teacher meta-llama/Llama-3.2-1B --device cuda --dtype bfloat16 --backend triton
                                                                paper sizes, random weights, made-up rows
    python benchmarks/steps.py --toy                            the second on a CPU at toy size, to see that it runs

Column `of torch`, at scale small: this rate over that of backend torch, both timed in turn. An update is batch,
objective, backward, clip and optimisers, as in the trainer. The FLOPs are those of the products, convolutions and
attention that run by torch, what attention computes and then masks included. Where the rest of the time goes is read
off a profile of the same updates.
"""

import argparse
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from measuring import MATMUL, begin, flops, interleaved, machine, matmul
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from dbyte import presets
from dbyte.distill.curriculum import curriculum, new_student
from dbyte.distill.data import training_rows
from dbyte.distill.loader import Feed
from dbyte.distill.processes import ALONE, Launch
from dbyte.distill.steps import Step, stage1, stage2
from dbyte.distill.teacher import teacher_run
from dbyte.distill.trainer import Trainee, train_on
from dbyte.kernels.fast import fast_products
from dbyte.model.backends import training_backend
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher import load_teacher
from dbyte.model.teacher_sizes import core_config
from dbyte.text.packing import Batch
from dbyte.text.spans import BOS, TokenBytes

UPDATES, ROUNDS = 8, 5
BYTES_A_TOKEN, BYTES_A_DOCUMENT = 4, 2048  # of made-up rows
KINDS = {"matmul": ("mm", "bmm", "addmm", "linear"), "attention": ("attention",),
         "convolution": ("convolution",),
         "optimiser": ("adam", "foreach", "norm"), "copies": ("copy_", "cat", "gather", "index", "clone", "fill_")}


def small() -> tuple[ByteStudent, torch.nn.Module, list[Batch], tuple[Step, ...], str]:
    """The student, teacher, rows and steps of scale `small`."""
    scale = presets.scale("small")
    teacher, tokenizer = load_teacher(teacher_run(scale, seed=0))
    rows = training_rows(scale, TokenBytes.from_tokenizer(tokenizer), seed=0)
    feed = Feed(rows, scale.batch_rows, 0)
    return (new_student(scale, teacher, tokenizer, seed=0), teacher, [feed.batch(u) for u in range(UPDATES)],
            curriculum(scale), f"scale small, {scale.batch_rows} rows of {scale.row_bytes} bytes, fp32")


def published(arguments: argparse.Namespace) -> tuple[ByteStudent, torch.nn.Module, list[Batch], tuple[Step, ...], str]:
    """A student of the paper's sizes around a teacher with random weights, and made-up rows."""
    sizes = presets.PAPER_SIZES
    config = core_config(arguments.teacher)
    if arguments.toy:
        sizes = dict(byte_width=64, encoder_layers=2, decoder_layers=2, ffn_width=128, state_size=32)
        for name, value in dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                head_dim=16, intermediate_size=128, vocab_size=512).items():
            setattr(config, name, value)
    dtype = getattr(torch, arguments.dtype)
    with torch.device(arguments.device):
        teacher = AutoModelForCausalLM.from_config(config, dtype=dtype)
        student = ByteStudent.from_teacher(teacher, config=StudentConfig(**sizes)).to(arguments.device, dtype)
    batches = [made_up(arguments.rows, arguments.row_bytes, config.vocab_size).to(arguments.device) for _ in range(2)]
    rates = dict(align_bytes=1, distill_bytes=1, boundary_bytes=1), dict(head_bytes=1, full_bytes=1)
    return (student, teacher, batches, stage1(**rates[0]) + stage2(**rates[1]),
            f"{'toy-sized ' if arguments.toy else ''}{arguments.teacher}, random weights, {arguments.rows} rows of "
            f"{arguments.row_bytes} bytes, {arguments.dtype}")


def made_up(rows: int, row_bytes: int, vocabulary: int, *, document_bytes: int = BYTES_A_DOCUMENT) -> Batch:
    """Random bytes, a token every BYTES_A_TOKEN bytes, a document every `document_bytes`."""
    order_L = torch.arange(row_bytes)
    document_BL = (order_L // document_bytes).expand(rows, -1)
    byte_ids_BL = torch.randint(0, 250, (rows, row_bytes))
    byte_ids_BL[:, ::document_bytes] = BOS
    boundary_BL = (order_L % BYTES_A_TOKEN == BYTES_A_TOKEN - 1).expand(rows, -1)
    token_document_BM = document_BL[:, BYTES_A_TOKEN - 1 :: BYTES_A_TOKEN]
    return Batch(byte_ids_BL=byte_ids_BL, boundary_BL=boundary_BL, document_BL=document_BL,
                 mask_BL=torch.ones_like(boundary_BL),
                 token_ids_BM=torch.randint(0, vocabulary, token_document_BM.shape),
                 token_document_BM=token_document_BM, token_mask_BM=torch.ones_like(token_document_BM).bool())


def updates(step: Step, student: ByteStudent, teacher: torch.nn.Module, batches: list[Batch], backend: str, *,
            launch: Launch = ALONE):
    """A call that makes one update a batch; the rate is next to nothing, so that rounds stay alike."""
    optimisers = step.optimisers(student)
    trainee = Trainee(student, teacher, step.objective)

    def call() -> None:
        student.use_backend(backend)
        with fast_products() if backend == "fast" else nullcontext():  # as the trainer does
            for batch in batches:
                train_on(batch, step, 1e-6, trainee, optimisers, launch=launch)

    return call


def shares(call, device: str) -> str:
    """Where the time of a call goes, in percent by kind of operation."""
    activity = ProfilerActivity.CUDA if device.startswith("cuda") else ProfilerActivity.CPU
    with profile(activities=[activity]) as recorded:
        call()
    spent: Counter = Counter()
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::").lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "elementwise")
        spent[kind] += event.self_device_time_total if device.startswith("cuda") else event.self_cpu_time_total
    return ", ".join(f"{kind} {100 * value / spent.total():.0f} %" for kind, value in spent.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="a published teacher (dbyte/model/teacher_sizes.py) instead of scale small")
    parser.add_argument("--toy", action="store_true", help="shrink it to a toy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--backend", help="of Mamba2 (default: what training takes)")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--row-bytes", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="where the table goes (default: next to this file)")
    arguments = parser.parse_args()
    if arguments.toy:
        arguments.teacher = arguments.teacher or "meta-llama/Llama-3.2-1B"
    begin()
    device = arguments.device
    dtype = getattr(torch, arguments.dtype)
    arguments.backend = arguments.backend or training_backend(
        None, device=device, precision="fp32" if dtype == torch.float32 else "bf16")
    student, teacher, batches, steps, what = published(arguments) if arguments.teacher else small()
    backends = {"step": arguments.backend} | ({} if arguments.teacher else {"plain": "torch"})
    lines = [f"Training updates: {what}, backend {arguments.backend}. {machine(device)}; medians of "
             f"{arguments.rounds} rounds.", "",
             "| step | bytes/s | of torch | MFLOP a byte | matmul GFLOP/s | over the bound | % of it | peak GB | "
             "time goes to |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    print("\n".join(lines), flush=True)
    for step in steps:
        calls = {name: updates(step, student, teacher, batches, backend) for name, backend in backends.items()}
        many = sum(batch.byte_ids_BL.numel() for batch in batches)
        size = MATMUL if device == "cpu" else 4 * MATMUL
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        seconds = interleaved(calls | {"matmul": matmul(device, dtype, size)}, rounds=arguments.rounds, device=device)
        # before the FLOPs are counted, which runs the step by plain torch
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.startswith("cuda") else ""
        rate = 2 * size**3 / median(seconds["matmul"])
        spent = median(seconds["step"])
        work = flops(updates(step, student, teacher, batches, "torch"))
        ratio = f"{median(seconds['plain']) / spent:.2f}" if "plain" in calls else ""
        lines.append(f"| {step.name} | {many / spent:,.0f} | {ratio} | {work / many / 1e6:.2f} | {rate / 1e9:,.0f} | "
                     f"{spent * rate / work:.2f} | {100 * work / rate / spent:.0f} | {peak} | "
                     f"{shares(calls['step'], device)} |")
        print(lines[-1], flush=True)
    report = Path(__file__).with_suffix(".md")
    if arguments.teacher:
        report = report.with_stem("steps-" + ("toy" if arguments.toy else device))
    (arguments.out or report).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
