"""Where a number was made: the commit, the versions, the device and the threads, as written with every result."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dbyte.device import check_device
from dbyte.paths import ROOT

CODE = ("dbyte", "dbyte_paper", "dbyte_tasks", "pyproject.toml")  # what computes
# Those that can change a number; the rest is in constraints.txt.
PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "lm-eval", "numpy", "pandas")
OPTIONAL_PACKAGES = ("triton", "mamba-ssm", "causal-conv1d")


def _git(*arguments: str) -> str:
    """Return git's answer about the checkout; OSError or SubprocessError where there is no git or no repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
                          ).stdout.strip()


def commit() -> str:
    """Return the commit of the code: 40 hex digits, then `+changes` where CODE differs from it, or `unknown`.

    Code that does not lie in the project's root, such as a wheel's, is not what a repository around the root has.
    """
    if Path(__file__).resolve().parents[1] != ROOT:
        return "unknown"
    try:
        # Only what computes counts: writing results must not make the next result look home-made.
        changed = _git("status", "--porcelain", "--", *CODE)
        return _git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str | None]:
    """Return package -> version for what can change a number (None: not installed; optional ones only if present)."""
    found = {"python": platform.python_version()}
    for package in ("dbyte", *PACKAGES, *OPTIONAL_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package not in OPTIONAL_PACKAGES:
                found[package] = None
    return found


def environment(device: str = "cpu") -> dict[str, object]:
    """Return commit, versions, device, torch's thread count and the platform, ready for JSON.

    device: written with its name, as `cuda (NVIDIA H100)`, or a CPU's architecture; ValueError if it is not here.
    """
    import torch

    check_device(device)
    named = (torch.cuda.get_device_name(device) if device.startswith("cuda")
             else f"{platform.machine()}, {os.cpu_count()} cores")
    return {
        "commit": commit(),
        "versions": versions(),
        "device": f"{device} ({named})",
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
