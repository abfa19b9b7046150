"""What the benchmarks share: interleaved timing, the matmul rate, the FLOPs of a call, a line on the machine."""

import gc
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dbyte.memory import ask_for_huge_pages, keep_freed_memory

MATMUL = 2048
aten = torch.ops.aten
CPU_ATTENTION = {  # the library counts that of GPUs only
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v),
}


def interleaved(calls: dict[str, Callable[[], object]], *, rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each call, `rounds` times in turn after two unmeasured rounds, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            gc.collect()
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul(device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = MATMUL) -> Callable[[], object]:
    """A square product to time with the rest; it takes 2 size^3 FLOPs."""
    one, two = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: one @ two


def flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products, convolutions and attention of a call, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


def machine(device: str = "cpu") -> str:
    """The machine and versions in one line."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    threads = torch.get_num_threads()
    plural = "s" * (threads != 1)
    return f"{name}, {threads} thread{plural}, torch {torch.__version__}, Python {platform.python_version()}"


def begin() -> None:
    """Settle what would disturb the first rounds."""
    ask_for_huge_pages()
    keep_freed_memory()
    torch.manual_seed(0)


def write(path: Path, text: str) -> None:
    """Print a report and write it next to the script."""
    print(text)
    path.write_text(text + "\n", encoding="utf-8")
