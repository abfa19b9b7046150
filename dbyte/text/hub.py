"""Documents from a dataset of the Hugging Face hub, streamed: NAME, NAME:CONFIG, NAME@REVISION, NAME:CONFIG@REVISION.

An existing local folder in the hub's layout (parquet or jsonl shards) is read the same way and needs no network. The
split read is the dataset's "train", the column is "text". Code that comes with a dataset is never run.
"""

from collections.abc import Iterator
from pathlib import Path

COLUMN = "text"


def hub_documents(place: str) -> Iterator[str]:
    """The texts of a dataset in its order; ConnectionError where it cannot be read, ValueError without a text."""
    name, config, revision = parse_place(place)
    for number, record in enumerate(records(name, config, revision)):
        text = record.get(COLUMN)
        if not isinstance(text, str):
            raise ValueError(f"record {number} of dataset {place!r} has no text under {COLUMN!r}, its columns are "
                             f"{sorted(record)}; use another dataset, or export it to a .jsonl and use file:PATH")
        yield text


def parse_place(place: str) -> tuple[str, str | None, str | None]:
    """Name, config and revision; an existing folder is a name as a whole, whatever its path holds."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return str(folder), None, None
    if place.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"no folder {str(folder)!r}: check the path after hub:, or give a name of the hub, "
                                "e.g. hub:HuggingFaceFW/fineweb")
    rest, _, revision = place.partition("@")
    name, _, config = rest.partition(":")
    return name, config or None, revision or None


def records(name: str, config: str | None, revision: str | None) -> Iterator[dict]:
    """The records of a dataset's train split, one after the other."""
    from datasets import load_dataset

    try:
        yield from load_dataset(name, config, split="train", streaming=True, revision=revision)
    # The hub's clients raise errors of many libraries; here each of them means the same to the user.
    except Exception as error:
        raise ConnectionError(
            f"dataset {name!r} cannot be read from the hub ({type(error).__name__}: {error}). Check its name, the "
            "network, HF_TOKEN for a gated one and HF_HOME for one that was downloaded; without a network use the "
            "corpus pydocs, file:PATH or hub:FOLDER"
        ) from error
