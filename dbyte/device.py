"""The device that a scale runs on: chosen by name, an error if this machine lacks it."""

import re


def check_device(device: str) -> None:
    """Raise ValueError with the remedy for anything but cpu, and cuda or cuda:N where torch finds such a GPU."""
    import torch

    named = re.fullmatch(r"cuda(?::(\d+))?", device)
    if device != "cpu" and not (named and torch.cuda.is_available() and int(named[1] or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {device!r} was asked for, which is not here: use cpu (--device cpu, or "
                         "$DBYTE_DEVICE=cpu for notebooks), or cuda where torch finds a GPU (torch "
                         f"{torch.__version__} finds {torch.cuda.device_count()})")
