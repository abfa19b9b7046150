"""What a GPU can do, from its maker's data sheet: the denominators of every plan.

Memory is HBM3 of an H100, HBM3e of an H200, HBM2e of an A100. Data sheets print bf16 with sparsity as the larger
number; these are the dense ones, with fp32 sums on an RTX 4090. A CPU has no such sheet: its rate is measured
(`benchmarks/steps.py`) and given.
"""

from dataclasses import dataclass, replace

TERA, GIGA = 1e12, 1e9
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One device: peak dense bf16 FLOP/s, bytes of memory (None: not known), and the rest of its data sheet."""

    name: str
    flops_per_second: float
    memory_bytes: float | None = None
    sheet: str = ""

    def describe(self) -> str:
        """The device in one line."""
        return f"{self.name} ({self.flops_per_second / TERA:,.4g} TFLOP/s{self.sheet})"


DEVICES = {
    "h100": Device("h100", 989 * TERA, 80 * GIGA, ", 80 GB, 3.35 TB/s"),  # NVIDIA H100 datasheet (SXM5)
    "h200": Device("h200", 989 * TERA, 141 * GIGA, ", 141 GB, 4.8 TB/s"),  # NVIDIA H200 datasheet (SXM)
    "a100": Device("a100", 312 * TERA, 80 * GIGA, ", 80 GB, 2.039 TB/s"),  # NVIDIA A100 80GB datasheet (SXM4)
    "rtx4090": Device("rtx4090", 165.2 * TERA, 24 * GIGA, ", 24 GB, 1.008 TB/s"),  # NVIDIA Ada architecture whitepaper
}


def device(name: str, *, flops_per_second: float | None = None) -> Device:
    """Look a device up; flops_per_second > 0 is a measured matmul rate, in place of the peak.

    Raises ValueError for an unknown name, a rate that is not positive, or a CPU without a rate.
    """
    if flops_per_second is not None and not flops_per_second > 0:
        raise ValueError(f"--flops-per-second is a positive rate, found {flops_per_second}")
    if name not in (*DEVICES, CPU):
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join([*DEVICES, CPU])}")
    if name == CPU and flops_per_second is None:
        raise ValueError("device 'cpu' has no data sheet: give the matmul rate that benchmarks/steps.py measures, "
                         "such as --flops-per-second 150e9")
    known = DEVICES.get(name, Device(CPU, 0.0))
    return known if flops_per_second is None else replace(known, flops_per_second=flops_per_second)
