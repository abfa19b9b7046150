"""The shards of a hub dataset, each read on from a place in it. A place is plain JSON, None at a shard's beginning.

    .jsonl, .ndjson      the byte where the next line begins: the file is opened there, nothing before it is read
    parquet              what `datasets` keeps: the file is opened at one of its row groups, nothing before that is read
    others               the same, but these formats have no such places (a compressed file, .jsonl.gz or .jsonl.zst,
                         can only be unpacked from its beginning): what was seen is read again and dropped
"""

import json
from io import BufferedReader
from typing import TYPE_CHECKING, Protocol

from dbyte.text.hub import COLUMN, reading, without_text

if TYPE_CHECKING:
    from datasets import IterableDataset

READ = 16  # records at once
BUFFER = 1 << 16  # bytes of a .jsonl fetched at once, at least: remote files fetch far more by themselves


class Shard(Protocol):
    """An open shard: where it stands, and how many of its records were read."""

    place: object
    records: int

    def read(self) -> list[str] | None:
        """The texts of the next READ records or fewer, at least one; None where the shard ended."""


class Shards(Protocol):
    """The shards of a dataset, by their number."""

    def __len__(self) -> int: ...

    def opened(self, index: int, *, place: object, records: int) -> Shard:
        """A shard, to be read on from a place that `records` of its records lie before."""


class LineShards:
    """Uncompressed files of JSON lines. name: what errors call the dataset."""

    def __init__(self, paths: list[str], name: str):
        self.paths, self.name = paths, name

    def __len__(self) -> int:
        return len(self.paths)

    def opened(self, index: int, *, place: int | None, records: int) -> "LineShard":
        return LineShard(self.paths[index], self.name, place=place or 0, records=records)


class LineShard:
    """A file of JSON lines; blank ones count for nothing."""

    def __init__(self, path: str, name: str, *, place: int, records: int):
        from datasets.utils.file_utils import xopen

        self.path, self.name, self.place, self.records = path, name, place, records
        with reading(name):
            # Buffered here: line by line a remote file would copy megabytes for each.
            self._file = BufferedReader(xopen(path, "rb"), BUFFER)
            self._file.seek(place)

    def read(self) -> list[str] | None:
        """The next texts; ValueError names the file and byte of a line that holds none."""
        texts, place = [], self.place
        while len(texts) < READ and (line := self._line()):
            if line.strip():
                texts.append(self._text(line, place))
            place += len(line)
        self.place, self.records = place, self.records + len(texts)
        return texts or None

    def _line(self) -> bytes:
        with reading(self.name):
            return self._file.readline()

    def _text(self, line: bytes, place: int) -> str:
        where = f"the line at byte {place} of {self.path}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON ({error}): mend or drop the line") from error
        columns = list(record) if isinstance(record, dict) else []
        text = record[COLUMN] if COLUMN in columns else None
        if not isinstance(text, str):
            raise ValueError(without_text(where, self.name, columns))
        return text


class TableShards:
    """What `datasets` reads, whatever the format."""

    def __init__(self, dataset: "IterableDataset", name: str):
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return self.dataset.num_shards

    def opened(self, index: int, *, place: dict | None, records: int) -> "TableShard":
        shard = self.dataset.shard(num_shards=len(self), index=index)
        return TableShard(shard, self.name, index=index, place=place, records=records)


class TableShard:
    """A shard as `datasets` gives it, in tables: other columns than the text never become Python objects."""

    def __init__(self, shard: "IterableDataset", name: str, *, index: int, place: dict | None, records: int):
        self.name, self.index, self.records = name, index, records
        self._dataset = shard.reshard().with_format("arrow")  # by row group where there are any
        if place is not None:
            self._dataset.load_state_dict(place)
        self._tables = self._dataset.iter(batch_size=READ)

    @property
    def place(self) -> dict:
        """The state of `datasets`."""
        return self._dataset.state_dict()

    def read(self) -> list[str] | None:
        """The next texts; ValueError where a record holds none."""
        with reading(self.name):
            table = next(self._tables, None)
        if table is None:
            return None
        columns = table.column_names
        texts = table[COLUMN].to_pylist() if COLUMN in columns else [None]
        for number, text in enumerate(texts, start=self.records):
            if not isinstance(text, str):
                raise ValueError(without_text(f"record {number} of shard {self.index}", self.name, columns))
        self.records += len(texts)
        return texts
