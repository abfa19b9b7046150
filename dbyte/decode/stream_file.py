"""Streams on disk: one file with every tensor of a `ByteStream`, and what a writer knows, but not the student.

A stream that was loaded continues to the bit as if it had never stopped.
"""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from dbyte.atomic import atomic_write
from dbyte.decode.engine import Engine
from dbyte.decode.stream import ByteStream
from dbyte.model.student import ByteStudent

OPTIONS = ("encoder_window", "head_width", "smoothing")  # change a state, but no shape or name of a weight
HASHED_VALUES = 2**16  # of each weight at most, evenly spaced

def save_stream(stream: ByteStream, path: str | Path, *, notes: dict) -> None:
    """Write a stream to one file, completely or not at all.

    notes: what `load_stream` gives back with it: numbers, strings, bytes, and lists and dicts of them.
    """
    cache = stream.core_cache
    *tensors, keys, values = (getattr(holder, name) for holder, name, _ in stream.parts())
    used = max(cache.length)
    tensors += [keys[:, :, :used], values[:, :, :used]]
    facts = {"weights": weights_hash(stream.student), "stage": stream.stage, "slots": cache.slots,
             "byte_slots": stream.byte_slots, "length": cache.length, "tensors": len(tensors), "notes": notes}
    named = {str(place): tensor.cpu().contiguous().clone() for place, tensor in enumerate(tensors)}
    atomic_write(Path(path), safetensors.torch.save(named, {"facts": json.dumps(facts, default=_hex)}))


@torch.inference_mode()
def load_stream(student: ByteStudent, path: str | Path, *, engine: Engine | None = None) -> tuple[ByteStream, dict]:
    """Read the stream and the notes that `save_stream` wrote with this student.

    engine: computes the student's parts; None: plain torch.
    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no stream, or another student's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no stream {path}: name a file that Writer.save wrote")
    try:
        with safe_open(path, "pt", device=str(student.device)) as file:
            held = json.loads(file.metadata()["facts"], object_hook=_bytes)
            *tensors, keys, values = (file.get_tensor(str(place)) for place in range(held["tensors"]))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no stream, or damaged ({error}): name a file that Writer.save wrote") from error
    if "weights" not in held:
        raise ValueError(f"the stream in {path} is of an earlier version, which did not note all of its student's "
                         "weights: read the prompt again")
    if held["weights"] != weights_hash(student):
        raise ValueError(f"the stream in {path} was written by another student: load it with the student that "
                         "wrote it, or read the prompt again")
    stream = ByteStream.empty(Engine(student) if engine is None else engine, len(held["length"]), stage=held["stage"],
                              slots=held["slots"], byte_slots=held["byte_slots"])
    for (holder, name, _), tensor in zip(stream.parts()[:-2], tensors, strict=True):
        setattr(holder, name, tensor)
    used = keys.shape[2]
    stream.core_cache.keys[:, :, :used] = keys
    stream.core_cache.values[:, :, :used] = values
    stream.core_cache.length = held["length"]
    return stream, held["notes"]


def _hex(value: bytes | bytearray) -> dict[str, str]:
    """Bytes as JSON can hold them."""
    return {"hex": bytes(value).hex()}


def _bytes(value: dict) -> dict | bytes:
    """What `_hex` made, as bytes again."""
    return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else value


def weights_hash(student: ByteStudent) -> str:
    """A hash of the options and of values of all weights: a step of the curriculum trains some and not others."""
    digest = hashlib.sha256(str([getattr(student.config, name) for name in OPTIONS]).encode())
    for name, weight in student.state_dict().items():
        digest.update(str((name, tuple(weight.shape), weight.dtype)).encode())
        values = weight.flatten()[:: 1 + weight.numel() // HASHED_VALUES].cpu().contiguous()
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
