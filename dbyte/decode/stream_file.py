"""Streams on disk: one safetensors file that holds every tensor of a `ByteStream`, but not the student.

A stream that was loaded continues to the bit as if it had never stopped.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from dbyte.atomic import atomic_write
from dbyte.decode.engine import Engine
from dbyte.decode.stream import ByteStream
from dbyte.model.student import ByteStudent


def save_stream(stream: ByteStream, path: str | Path, *, texts: dict | None = None) -> None:
    """Write a stream to one file, completely or not at all.

    texts: JSON data to store with it; `read_metadata` returns it.
    """
    cache = stream.core_cache
    used = max(cache.length)
    tensors = {name: tensor[:, :, :used] if name.startswith("core.") else tensor
               for name, tensor in stream.tensors().items()}
    facts = {"student": weights_hash(stream.student), "stage": stream.stage, "rows": len(stream),
             "slots": cache.slots, "byte_slots": stream.byte_slots, "length": cache.length}
    # clones: safetensors refuses tensors that share memory, and parts of a stream may hold one in common
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    atomic_write(Path(path), save(tensors, {"facts": json.dumps(facts), "texts": json.dumps(texts)}))


@torch.inference_mode()
def load_stream(student: ByteStudent, path: str | Path, *, engine: Engine | None = None) -> ByteStream:
    """Read a stream that `save_stream` wrote with this student.

    engine: computes the student's parts; None: plain torch.
    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no stream, or another student's.
    """
    facts = json.loads(read_metadata(path)["facts"])
    if facts["student"] != weights_hash(student):
        raise ValueError(f"the stream in {path} was written by another student: load it with the student that "
                         "wrote it, or read the prompt again")
    stream = ByteStream.empty(Engine(student) if engine is None else engine, facts["rows"], stage=facts["stage"],
                              slots=facts["slots"], byte_slots=facts["byte_slots"])
    loaded = load_file(path, device=str(student.device))
    for name, holder, attribute, _ in list(stream.parts()):
        if name.startswith("core."):
            getattr(holder, attribute)[:, :, : loaded[name].shape[2]] = loaded[name]
        else:
            setattr(holder, attribute, loaded[name])
    stream.core_cache.length = facts["length"]
    return stream


def read_metadata(path: str | Path) -> dict[str, str]:
    """The JSON strings "facts" and "texts" that `save_stream` stored with the tensors.

    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no stream, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no stream {path}: name a file that Writer.save wrote")
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no stream, or damaged ({error}): save it or read the prompt again") from error
    if not {"facts", "texts"} <= found.keys():
        raise ValueError(f"{path} is no stream: name a file that Writer.save wrote")
    return found


def weights_hash(student: ByteStudent) -> str:
    """A hash of the byte embedding and the byte head, which tells students apart."""
    digest = hashlib.sha256()
    for weight in (student.byte_embedding.weight, student.byte_head.weight):
        digest.update(str((tuple(weight.shape), weight.dtype)).encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
