"""Documents from a dataset of the Hugging Face hub, streamed: NAME, NAME:CONFIG, NAME@REVISION, NAME:CONFIG@REVISION.

An existing local folder in the hub's layout (parquet or jsonl shards) is read in the same way and needs no network. The
split that is read is the dataset's "train", the column is "text". Code that comes with a dataset is never run.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset

COLUMN = "text"
LINES = (".jsonl", ".ndjson")
DECODED = 256  # records of a shard decoded at once
COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_documents(place: str) -> Iterator[str]:
    """The texts of a dataset, in order; ConnectionError if it cannot be read, ValueError for a record without text."""
    name, config, revision = parse_place(place)
    for number, record in enumerate(records(name, config, revision)):
        text = record.get(COLUMN)
        if not isinstance(text, str):
            raise ValueError(without_text(f"record {number}", place, list(record)))
        yield text


def records(name: str, config: str | None, revision: str | None) -> Iterator[dict]:
    """The records of a dataset's train split, in order; ConnectionError if it cannot be read."""
    with reading(name):
        yield from streamed(builder_of(name, config, revision))


def without_text(where: str, place: str, columns: list[str]) -> str:
    """The error message for a record that holds no text."""
    return (f"{where} of dataset {place!r} has no text under {COLUMN!r}, its columns are {sorted(columns)}; use "
            "another dataset, or export it to a .jsonl and use file:PATH")


def parse_place(place: str) -> tuple[str, str | None, str | None]:
    """(name, config, revision); an existing folder is a name, whatever characters its path holds."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return str(folder), None, None
    if place.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"no folder {str(folder)!r}: check the path after hub:, or give a name of the hub, "
                                "e.g. hub:HuggingFaceFW/fineweb")
    rest, _, revision = place.partition("@")
    name, _, config = rest.partition(":")
    return name, config or None, revision or None


def builder_of(name: str, config: str | None, revision: str | None) -> "DatasetBuilder":
    """The object that knows a dataset's files and format; none of the files is read."""
    from datasets import load_dataset_builder

    return load_dataset_builder(name, config, revision=revision)


def line_files(builder: "DatasetBuilder") -> list[str]:
    """The files of a train split, in order, if all are uncompressed JSON lines; else none."""
    files = [str(path) for path in (builder.config.data_files or {}).get("train", [])]
    return files if all(path.endswith(LINES) for path in files) else []


def streamed(builder: "DatasetBuilder") -> "IterableDataset":
    """A dataset's train split. Of parquet nothing is read yet; of other formats as much as tells the columns."""
    # By default parquet is decoded in whole row groups: too much for many open shards, and an error for an empty one.
    if hasattr(builder.config, "batch_size"):
        builder.config.batch_size = DECODED
    return builder.as_streaming_dataset(split="train")


def commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub dataset stands for now; of a folder the hash of its files' names and sizes.

    A complete commit id is returned as it is, without asking the hub. Raises ConnectionError where the hub is needed
    and cannot be asked.
    """
    if Path(name).is_dir():
        files = sorted(each for each in Path(name).rglob("*") if each.is_file())
        listing = "".join(f"{each.relative_to(name).as_posix()}\0{each.stat().st_size}\n" for each in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with reading(name):
        return HfApi().dataset_info(name, revision=revision).sha


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn an error inside into a ConnectionError that says what to do."""
    try:
        yield
    # The hub's clients raise errors of many libraries; here each of them means the same to the user.
    except Exception as error:
        raise ConnectionError(
            f"dataset {name!r} cannot be read from the hub ({type(error).__name__}: {error}). Check its name, the "
            "network, HF_TOKEN for a gated one and HF_HOME for one that was downloaded; without a network use the "
            "corpus pydocs, file:PATH or hub:FOLDER"
        ) from error
