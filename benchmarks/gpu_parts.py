"""What benchmarks/steps.py does not ask of a GPU: losses over a large vocabulary, and bytes written a second.

    python benchmarks/gpu_parts.py kl --device cuda          Eq. 4 in slices: positions a second, peak memory
    python benchmarks/gpu_parts.py targets --device cuda     joint byte targets of a head: positions a second, peak
    python benchmarks/gpu_parts.py writing --device cuda     a 1B-size student writes, next to what memory allows
    python benchmarks/gpu_parts.py writing --toy             each on a CPU at toy size, to see that it runs

launch/gpu_check.sh runs all three. Weights are random, in bf16 on a GPU. The bound of a loss is the time of its matrix
products at the rate of a product timed in the same rounds. The bound of writing: each byte reads the weights of encoder
and decoder once, each chunk those of the core, at the rate at which the device copies.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from measuring import MATMUL, begin, interleaved, machine, matmul
from transformers import AutoModelForCausalLM

import dbyte
from dbyte import presets
from dbyte.byte_probabilities import within_token
from dbyte.distill import sliced_losses
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.model.teacher_sizes import core_config
from dbyte.plan.plan import parameters_by_part
from dbyte.text.sorted_vocabulary import SortedVocabulary

TEACHER = "meta-llama/Llama-3.2-1B"
V, T, E = 128_256, 8192, 2048  # of Llama 3.2 1B; T: positions of 32 kB
TOY_V, TOY_T, TOY_E = 1024, 64, 32
ROUNDS, NEW_BYTES = 3, 128
COPIED = 1 << 28  # numbers of a tensor that is copied to find the rate


def peak(device: str) -> str:
    """The most memory that was allocated on a GPU, in GB."""
    return f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if device.startswith("cuda") else "not asked of a CPU"


def timed(call: Callable[[], object], product: Callable[[], object], device: str) -> tuple[float, float]:
    """Median seconds of a call and of a matrix product in the same rounds."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    seconds = interleaved({"call": call, "matmul": product}, rounds=ROUNDS, device=device)
    return median(seconds["call"]), median(seconds["matmul"])


def loss(kind: str, device: str, dtype: torch.dtype, *, toy: bool) -> list[str]:
    """A row for each number of positions in a slice of one of the two losses."""
    tokens, positions, width = (TOY_V, TOY_T, TOY_E) if toy else (V, T, E)
    size = 64 if toy else 2 * MATMUL
    student_TE, teacher_TE, head_VE = (torch.randn(many, width, device=device, dtype=dtype) / width**0.25
                                       for many in (positions, positions, tokens))
    student_TE.requires_grad_(kind == "kl")
    vocabulary = SortedVocabulary([number.to_bytes(3, "big") for number in range(tokens)])
    ids = torch.randint(tokens, (positions,), generator=torch.Generator().manual_seed(0)).tolist()
    lines = ["| loss | positions a slice | positions/s | over the bound | peak GB |", "|---|---:|---:|---:|---:|"]

    def divergence(rows: int) -> None:
        total, _ = sliced_losses.distill(student_TE, head_VE, teacher_TE, head_VE, rows=rows)
        total.backward()
        student_TE.grad = None

    def targets(rows: int) -> None:
        within_token.log_probs(teacher_TE, head_VE, ids, vocabulary, rows=rows)

    # products: logits of both models and the gradient of one, or logits alone
    call, products = {"kl": (divergence, 3), "targets": (targets, 1)}[kind]
    for rows in (16,) if toy else (256, 1024, 4096):
        spent, one = timed(partial(call, rows), matmul(device, dtype, size), device)
        least = products * 2 * positions * tokens * width * one / (2 * size**3)
        lines.append(f"| {kind}, V = {tokens:,} | {rows:,} | {positions / spent:,.0f} | {spent / least:.1f} | "
                     f"{peak(device)} |")
    return lines


def writing(device: str, dtype: torch.dtype, *, toy: bool) -> list[str]:
    """Bytes a second at both stages, next to those that copying the weights for each would allow."""
    config, sizes = core_config(TEACHER), presets.PAPER_SIZES
    if toy:
        sizes = dict(byte_width=32, encoder_layers=1, decoder_layers=1, ffn_width=32, state_size=16)
        for name, value in dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
                                head_dim=8, intermediate_size=32, vocab_size=512).items():
            setattr(config, name, value)
    torch.manual_seed(0)
    with torch.device(device):
        teacher = AutoModelForCausalLM.from_config(config, dtype=dtype)
        student = ByteStudent.from_teacher(teacher, config=StudentConfig(**sizes)).to(device, dtype).eval()
    one = torch.empty(1024 if toy else COPIED, device=device, dtype=torch.bfloat16)
    (spent, _) = timed(one.clone, matmul(device, dtype, 64), device)
    bandwidth = 2 * one.nbytes / spent  # read and written
    sizes_of = parameters_by_part(student)
    width = student.byte_embedding.weight.element_size()
    every = width * sum(sizes_of[part] for part in ("encoder", "encoder_projection", "residual", "decoder_projection",
                                                    "decoder", "byte_head"))
    lines = [f"Copies at {bandwidth / 1e9:,.0f} GB/s; weights that each byte reads: {every / 1e9:.3f} GB, each chunk: "
             f"{width * sizes_of['core'] / 1e9:.3f} GB.", "",
             "| rows | bytes/s of all rows | ms a byte of one | bytes/s of a row, bound if no chunk ended |",
             "|---:|---:|---:|---:|"]
    new = 8 if toy else NEW_BYTES
    for rows in (1, 2) if toy else (1, 16, 64):
        prompts = [f"The number {row} is " for row in range(rows)]
        dbyte.generate(student, prompts, max_new_bytes=4, stage=2, valid_utf8=False)
        began = time.perf_counter()
        written = dbyte.generate(student, prompts, max_new_bytes=new, stage=2, as_bytes=True)
        spent = time.perf_counter() - began
        most = max(map(len, written))
        lines.append(f"| {rows} | {sum(map(len, written)) / spent:,.0f} | {1000 * spent / max(most, 1):.2f} | "
                     f"{bandwidth / every:,.0f} |")
    return lines


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("part", choices=("kl", "targets", "writing"))
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--toy", action="store_true", help="at toy size")
    arguments = asked.parse_args()
    begin()
    dtype = torch.bfloat16 if arguments.device.startswith("cuda") else torch.float32
    lines = (writing(arguments.device, dtype, toy=arguments.toy) if arguments.part == "writing" else
             loss(arguments.part, arguments.device, dtype, toy=arguments.toy))
    print("\n".join([f"{arguments.part}: {'toy-sized ' if arguments.toy else ''}{TEACHER}, random weights, {dtype}. "
                     f"{machine(arguments.device)}; medians of {ROUNDS} rounds.", "", *lines]))


if __name__ == "__main__":
    main()
