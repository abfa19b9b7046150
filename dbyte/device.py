"""The device that a scale runs on: asked for by name, refused where it is not."""


def check_device(device: str) -> None:
    """Raise ValueError with the remedy for anything but cpu, and cuda or cuda:N where torch finds such a GPU."""
    import torch

    name, _, number = device.partition(":")
    if device != "cpu" and not (name == "cuda" and torch.cuda.is_available()
                                and int(number or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {device!r} was asked for, which is not here: use cpu (--device cpu, or "
                         "$DBYTE_DEVICE=cpu for notebooks), or cuda where torch finds a GPU (torch "
                         f"{torch.__version__} finds {torch.cuda.device_count()})")
