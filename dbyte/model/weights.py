"""Weights of folders that nobody vouches for: safetensors alone, of the sizes that the config beside them says.

A pickle can run code, so other formats are not read. A config can name sizes that no memory holds: they are compared
with the weights before anything is made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel


@contextmanager
def reading_weights(name: Path | str) -> Iterator[None]:
    """Raise ValueError where weights are damaged, or have other sizes than the config beside them says."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"the weights in {name} are damaged ({error}): save or download them again") from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise _other_sizes(name, str(error).splitlines()[0]) from error


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each weight in a folder, by name, from the headers of its files.

    Raises FileNotFoundError if there is no safetensors file; ValueError, within `reading_weights`, for a damaged one.
    """
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    if not found:
        raise FileNotFoundError(f"{folder} has no weights (looked for *.safetensors; a pickle can run code and is not "
                                "read): save the model there again with save_pretrained")
    return found


def check_sizes(folder: Path, model: type[PreTrainedModel], *, layers: int) -> None:
    """Raise ValueError unless a folder's weights have the sizes that its config says, FileNotFoundError as `shapes`.

    layers: how many the config names. Each has a weight at least, so a config with more layers than weights is not even
    built; any other is, without memory for its weights.
    """
    found = shapes(folder)
    if layers > len(found):
        raise _other_sizes(folder, f"it names {layers} layers, and there are {len(found)} weights")
    with torch.device("meta"):
        wanted = model(model.config_class.from_pretrained(folder)).state_dict()
    for name, shape in found.items():
        if name in wanted and tuple(wanted[name].shape) != shape:
            raise _other_sizes(folder, f"{name} should be {tuple(wanted[name].shape)}, and is {shape}")


def _other_sizes(name: Path | str, what: str) -> ValueError:
    return ValueError(f"the weights in {name} have other sizes than its config.json says ({what}): save or download "
                      "both again")
