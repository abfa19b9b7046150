"""What a GPU can do, from its maker's data sheet: the denominators of every plan.

    h100      NVIDIA H100 Tensor Core GPU datasheet (SXM5): 989 TFLOP/s bf16 dense, 80 GB HBM3, 3.35 TB/s
    h200      NVIDIA H200 Tensor Core GPU datasheet (SXM): 989 TFLOP/s bf16 dense, 141 GB HBM3e, 4.8 TB/s
    a100      NVIDIA A100 80GB datasheet (SXM4): 312 TFLOP/s bf16 dense, 80 GB HBM2e, 2.039 TB/s
    rtx4090   NVIDIA Ada GPU architecture whitepaper: 165.2 TFLOP/s bf16 dense with fp32 sums, 24 GB, 1.008 TB/s

Data sheets print bf16 with sparsity as the larger number; these are the dense ones. A CPU has no such sheet: its rate
is measured (`benchmarks/steps.py`) and given.
"""

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """One device: peak dense bf16 FLOP/s, bytes of memory, bytes/s of it; None where nobody said."""

    name: str
    flops_per_second: float
    memory_bytes: float | None = None
    bytes_per_second: float | None = None

    def describe(self) -> str:
        """The device in one line."""
        facts = [f"{self.flops_per_second / TERA:,.4g} TFLOP/s"]
        if self.memory_bytes is not None:
            facts.append(f"{self.memory_bytes / GIGA:,.0f} GB")
        if self.bytes_per_second is not None:
            facts.append(f"{self.bytes_per_second / TERA:,.4g} TB/s")
        return f"{self.name} ({', '.join(facts)})"


DEVICES = {device.name: device for device in (
    Device("h100", 989 * TERA, 80 * GIGA, 3.35 * TERA), Device("h200", 989 * TERA, 141 * GIGA, 4.8 * TERA),
    Device("a100", 312 * TERA, 80 * GIGA, 2.039 * TERA), Device("rtx4090", 165.2 * TERA, 24 * GIGA, 1.008 * TERA))}
CPU = "cpu"


def device(name: str, *, flops_per_second: float | None = None) -> Device:
    """Look a device up; flops_per_second > 0 is a measured matmul rate, in place of the peak.

    Raises:
        ValueError: for an unknown name, a rate that is not positive, or a CPU without a rate.
    """
    if flops_per_second is not None and not flops_per_second > 0:
        raise ValueError(f"--flops-per-second is a positive rate, found {flops_per_second}")
    if name == CPU:
        if flops_per_second is None:
            raise ValueError("device 'cpu' has no data sheet: give the matmul rate that benchmarks/steps.py measures, "
                             "such as --flops-per-second 150e9")
        return Device(CPU, flops_per_second)
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join([*DEVICES, CPU])}")
    known = DEVICES[name]
    return known if flops_per_second is None else Device(name, flops_per_second, known.memory_bytes,
                                                         known.bytes_per_second)
