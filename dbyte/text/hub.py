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
    from datasets import IterableDataset

COLUMN = "text"
READ = 16  # records read at once
DECODED = 256  # records of a parquet file decoded at once
COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_place(place: str) -> tuple[str, str | None, str | None]:
    """Split into (name, config, revision); an existing folder is a name as a whole. FileNotFoundError if missing."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return str(folder), None, None
    if place.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"no folder {str(folder)!r}: check the path after hub:, or give a name of the hub, "
                                "e.g. hub:HuggingFaceFW/fineweb")
    rest, _, revision = place.partition("@")
    name, _, config = rest.partition(":")
    return name, config or None, revision or None


def streamed(place: str, *, revision: str | None = None) -> "IterableDataset":
    """A dataset's train split in Arrow tables; `revision` replaces the one in `place` (a folder has none).

    Parquet is not read yet, other formats as far as is needed to know the columns. Raises ConnectionError if it cannot
    be read, and FileNotFoundError for a missing folder.
    """
    name, config, own_revision = parse_place(place)
    with reading(name):
        from datasets import load_dataset_builder

        builder = load_dataset_builder(name, config, revision=None if Path(name).is_dir() else revision or own_revision)
        # By default parquet is decoded in whole row groups: too much for many open shards, an error for an empty one.
        if hasattr(builder.config, "batch_size"):
            builder.config.batch_size = DECODED
        # Tables: other columns never become Python objects.
        return builder.as_streaming_dataset(split="train").with_format("arrow")


def texts_of(dataset: "IterableDataset", place: str) -> Iterator[list[str]]:
    """The texts of a dataset, READ or fewer at a time, from where its state says.

    Raises ValueError for a record that holds no text, and ConnectionError where the dataset cannot be read.
    """
    tables = dataset.iter(batch_size=READ)
    while True:
        with reading(place):
            table = next(tables, None)
            if table is None:
                return
            texts = table[COLUMN].to_pylist() if COLUMN in table.column_names else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"a record of dataset {place!r} has no text under {COLUMN!r}, its columns are "
                             f"{sorted(table.column_names)}; use another dataset, or export it to a .jsonl and use "
                             "file:PATH")
        yield texts


def commit(place: str) -> str:
    """The commit that a hub dataset's name stands for now; for a folder, the hash of its files' names and sizes.

    A complete commit id is returned as it is, without asking the hub. Raises ConnectionError where the hub is needed
    and cannot be asked.
    """
    name, _, revision = parse_place(place)
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
    # The clients of the hub raise errors of many libraries; here each of them means the same to the user.
    except Exception as error:
        raise ConnectionError(
            f"dataset {name!r} cannot be read from the hub ({type(error).__name__}: {error}). Check its name, the "
            "network, HF_TOKEN for a gated one and HF_HOME for one that was downloaded; without a network use the "
            "corpus pydocs, file:PATH or hub:FOLDER"
        ) from error
