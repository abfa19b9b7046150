"""Where a number was made: the commit, the versions, the device and the threads, as written with every result."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from dbyte.device import check_device
from dbyte.paths import ROOT

# Those that can change a number; the rest is in constraints.txt.
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "lm-eval", "numpy", "pandas")
OPTIONAL_PACKAGES = ("triton", "mamba-ssm", "causal-conv1d")


def _git(*arguments: str) -> str | None:
    """Return git's answer about the checkout, or None where there is no git or no repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def commit() -> str:
    """Return the commit of the code: 40 hex digits, then `+changes` where dbyte/ differs from it, or `unknown`."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    # Only what computes counts: writing results must not make the next result look home-made.
    return head + ("+changes" if _git("status", "--porcelain", "--", "dbyte", "pyproject.toml") else "")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Return package -> version for what can change a number (None: not installed; optional ones only if present)."""
    found = {"python": platform.python_version(), "dbyte": _installed("dbyte")}
    found |= {package: _installed(package) for package in PACKAGES}
    return found | {package: _installed(package) for package in OPTIONAL_PACKAGES if _installed(package)}


def device_name(device: str = "cpu") -> str:
    """Return `device` with its name, as `cuda (NVIDIA H100)`, or a CPU's architecture; ValueError if it is not here."""
    if device.startswith("cuda"):
        import torch

        check_device(device)
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {os.cpu_count()} cores)"


def environment(device: str = "cpu") -> dict[str, object]:
    """Return commit, versions, device, torch's thread count and the platform, ready for JSON."""
    import torch

    return {
        "commit": commit(),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def environment_report(*, scale: str, seed: int, device: str = "cpu") -> str:
    """Return the lines a notebook prints under its title: what runs, with which code, on what."""
    facts = environment(device)
    packages = ", ".join(f"{name} {number or 'missing'}" for name, number in facts["versions"].items())
    return "\n".join([
        f"scale    {scale}, seed {seed}",
        f"device   {facts['device']}, {facts['threads']} threads of torch",
        f"code     {facts['commit']}",
        f"versions {packages}",
    ])
