"""Our Mamba2 mixer against transformers' Mamba2Mixer and against the bound of its own FLOPs, on the CPU.

    python benchmarks/mixer.py          writes benchmarks/mixer.md

Forward and backward of one mixer, fp32, same weights in all, timed in turn in one process: ours by backend "fast",
which trains on a CPU, and by "torch", the reference. The bound: the FLOPs of the reference at its best chunk size, at
the rate of a square matrix product timed in the same rounds. Peak memory: of a fresh process that runs one of them,
less that of one that only builds it. Growth, of "fast": time over row length, one row, exponent by least squares on
logarithms.
"""

import argparse
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from measuring import MATMUL, begin, flops, interleaved, machine, matmul, write
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from dbyte.model.mamba2 import Mamba2

WIDTH, HEAD, STATE, ROWS, LENGTH = 256, 64, 128, 4, 2048
OURS, THEIRS = (32, 64, 128), (32, 64, 128, 256)  # chunk sizes
LENGTHS = (1024, 4096, 16384, 65536)
ROUNDS = 7


def ours(chunk_size: int, backend: str = "torch") -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(WIDTH, state_size=STATE, head_width=HEAD, chunk_size=chunk_size, backend=backend)


def theirs(chunk_size: int) -> Mamba2Mixer:
    config = Mamba2Config(hidden_size=WIDTH, num_heads=2 * WIDTH // HEAD, head_dim=HEAD, state_size=STATE, n_groups=1,
                          chunk_size=chunk_size, expand=2, conv_kernel=4, use_conv_bias=True, use_bias=False)
    mixer = Mamba2Mixer(config, layer_idx=0)
    mixer.load_state_dict(ours(chunk_size).state_dict())
    return mixer


FAST, REFERENCE, PEER = "dbyte fast", "dbyte torch", "transformers"
MAKERS = {FAST: partial(ours, backend="fast"), REFERENCE: ours, PEER: theirs}
SIZES = {FAST: OURS, REFERENCE: OURS, PEER: THEIRS}


def step(mixer: torch.nn.Module, rows: int = ROWS, length: int = LENGTH):
    hidden = torch.randn(rows, length, WIDTH, requires_grad=True)

    def call() -> None:
        mixer(hidden).square().mean().backward()

    return call


def check_same_function() -> None:
    """What is timed must agree: same weights in, same outputs out."""
    hidden = torch.randn(2, 300, WIDTH)
    for make in MAKERS.values():
        torch.testing.assert_close(make(64)(hidden), theirs(64)(hidden), rtol=1e-3, atol=1e-4)


def peak_megabytes(peer: str, chunk_size: int, steps: int) -> float:
    """Peak resident memory of a fresh process; `steps` 0 only builds."""
    line = [sys.executable, __file__, "--peak", peer, str(chunk_size), str(steps)]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    begin()
    calls = {(peer, size): step(make(size)) for peer, make in MAKERS.items() for size in SIZES[peer]}
    check_same_function()
    named = {f"{peer} {size}": call for (peer, size), call in calls.items()}
    seconds = interleaved(named | {"matmul": matmul()}, rounds=ROUNDS)
    middle = {name: median(values) for name, values in seconds.items()}
    rate = 2 * MATMUL**3 / middle["matmul"]
    best = {peer: min(sizes, key=lambda size, peer=peer: middle[f"{peer} {size}"])
            for peer, sizes in SIZES.items()}
    bound = flops(calls[REFERENCE, best[REFERENCE]]) / rate
    base = {peer: peak_megabytes(peer, best[peer], 0) for peer in MAKERS}
    peak = {peer: peak_megabytes(peer, best[peer], 3) - base[peer] for peer in MAKERS}
    lines = [f"Mamba2 mixer, forward and backward, fp32: {ROWS} rows of {LENGTH} bytes, width {WIDTH}, head {HEAD}, "
             f"state {STATE}. {machine()}; matmul {rate / 1e9:.0f} GFLOP/s; medians of {ROUNDS} rounds in turn.", "",
             "| mixer | chunk | ms | over the bound | peak MB |", "|---|---:|---:|---:|---:|"]
    for (peer, size) in calls:
        memory = f"{peak[peer]:.0f}" if size == best[peer] else ""
        lines.append(f"| {peer} | {size} | {1e3 * middle[f'{peer} {size}']:.0f} | "
                     f"{middle[f'{peer} {size}'] / bound:.2f} | {memory} |")
    lines.append("")
    spent = {peer: middle[f"{peer} {best[peer]}"] for peer in MAKERS}
    lines += [f"- {peer}, each at its best chunk size: {spent[PEER] / spent[peer]:.2f} times as fast as transformers, "
              f"{spent[peer] / bound:.2f} times the bound, {peak[peer] / peak[PEER]:.2f} times the peak memory of "
              "transformers." for peer in (FAST, REFERENCE)]
    lines += ["", *growth(best[FAST])]
    write(Path(__file__).with_suffix(".md"), "\n".join(lines))


def growth(chunk_size: int) -> list[str]:
    """Time over length, and its exponent, of what trains on a CPU."""
    seconds = interleaved({str(n): step(ours(chunk_size, "fast"), 1, n) for n in LENGTHS}, rounds=3)
    points = [(math.log(int(n)), math.log(median(values))) for n, values in seconds.items()]
    x, y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    rows = [f"| {int(n):,} | {1e3 * median(v):.0f} | {1e9 * median(v) / int(n):.0f} |" for n, v in seconds.items()]
    return ["| bytes in one row | ms | ns a byte |", "|---:|---:|---:|", *rows, "",
            f"Fitted exponent of time over length: {slope:.3f}."]


def report_peak(peer: str, chunk_size: int, steps: int) -> None:
    call = step(MAKERS[peer](chunk_size))
    for _ in range(steps):
        call()
    status = Path("/proc/self/status").read_text()  # not getrusage, which remembers the parent's peak
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak", nargs=3, metavar=("PEER", "CHUNK", "STEPS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        report_peak(arguments.peak[0], int(arguments.peak[1]), int(arguments.peak[2]))
    else:
        main()
