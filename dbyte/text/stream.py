"""Endless rows of training text from corpora of any size: read, aligned and packed as they are needed.

    source -> documents of a lane -> those of the training split -> aligned -> packed -> rows in a seeded order

A stream is divided into a fixed number of lanes, each an endless sequence of rows. The number of lanes belongs to the
data, not to the machine: whoever reads a lane gets the same rows, so a batch does not depend on how many processes
share it. How the documents of a source are divided among lanes:

    hub      shards k, k + lanes, .. of the dataset belong to lane k, in a seeded order that changes with every pass
    world    documents are drawn a few at a time from (seed, lane, number), so any of them can be made directly
    others   documents k, k + lanes, .. belong to lane k, in a seeded order that changes with every pass

In a pass over a finite corpus every document comes to exactly one lane. Lanes do not wait for each other: one with less
text begins its next pass earlier.

Resuming is exact and quick. A lane packs groups, the documents of about GROUP_ROWS rows at a time. Its state, plain
JSON, is where its sources stood when the group began and how many rows of the group were handed out. A resumed lane
reads this group again and nothing before it. Where a shard is opened:

    .jsonl, .ndjson   at the byte where the next line begins: our own reader, since `datasets` parses from the beginning
    parquet           at a row group, by the state of `datasets`
    other formats     at the beginning (a .jsonl.gz can only be unpacked from there): what was read before is dropped

No held-out document enters: the split is that of corpus.py. Copies of a document are dropped inside a group; finding
copies further apart would need memory that grows with the stream, in every checkpoint.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dbyte.tasks.world.full import WORLDS
from dbyte.tasks.world.world import MIN_BYTES
from dbyte.text.corpus import CHOICES, Corpus, load_corpus, of_split
from dbyte.text.hub import COLUMN, builder_of, commit, line_files, parse_place, reading, streamed, without_text
from dbyte.text.packing import Rows, document, pack
from dbyte.text.spans import TokenBytes

if TYPE_CHECKING:
    from datasets import IterableDataset

READ = 16  # records read at once
BUFFER = 1 << 16  # bytes of a .jsonl fetched at once, at least: remote files fetch far more by themselves
GROUP_ROWS = 64
FIRST_GROUP_ROWS = 8


class Lane:
    """The rows of one lane: from several sources in proportion to their `shares`, any positive numbers.

    Raises ValueError where a whole pass over a source has no training document for this lane, and the errors of reading
    the sources.
    """

    def __init__(self, sources: "Sequence[Source]", shares: Sequence[float], *, lane: int, lanes: int,
                 token_bytes: TokenBytes, row_bytes: int, seed: int, announced: set[tuple[str, int]],
                 positions: int | None = None):
        """announced: the passes whose beginning was printed, shared by all lanes. positions: as in `packing.pack`."""
        self.sources = sources
        self.shares = shares
        self.lane = lane
        self.lanes = lanes
        self.token_bytes = token_bytes
        self.row_bytes = row_bytes
        self.seed = seed
        self.announced = announced
        self.positions = positions
        self._readers = [source.reader(lane, lanes) for source in sources]
        self._found = [False] * len(sources)  # whether the pass over a source gave a training document
        # Each lane starts its rotation over the sources at its own place, or all would read the same source at once.
        ahead = np.random.default_rng([seed, lane]).random(len(shares)) * FIRST_GROUP_ROWS * row_bytes
        self._taken = (ahead * np.array(shares) / sum(shares)).tolist()
        self._number = 0
        self._begin_group()

    def state(self) -> dict:
        """Everything that `restore` needs, plain JSON."""
        return self._begun | {"row": self._row}

    def restore(self, state: dict) -> None:
        """Continue after the row that was handed out last when `state` was taken."""
        for reader, position in zip(self._readers, state["positions"], strict=True):
            reader.position = position
        self._found = list(state["found"])
        self._taken = list(state["taken"])
        self._number = state["group"]
        self._begin_group()
        self._row = state["row"]

    def next_row(self) -> tuple[Rows, int]:
        """The next row: the rows of its group, and its index among them."""
        if self._rows is None:
            self._rows = self._pack_group()
            self._order = np.random.default_rng([self.seed, self.lane, self._number]).permutation(len(self._rows))
        rows = self._rows
        index = int(self._order[self._row])
        self._row += 1
        if self._row == len(rows):
            self._number += 1
            self._begin_group()
        return rows, index

    def _begin_group(self) -> None:
        self._begun = self._progress()
        self._rows = None
        self._row = 0

    def _progress(self) -> dict:
        return {"positions": [reader.position for reader in self._readers], "found": list(self._found),
                "taken": list(self._taken), "group": self._number}

    def _pack_group(self) -> Rows:
        # First groups differ in size, so that the lanes of a process do not all tokenise in the same update later on.
        rows = GROUP_ROWS if self._number else max(GROUP_ROWS * (self.lane + 1) // self.lanes, FIRST_GROUP_ROWS)
        texts: list[str] = []
        while not texts:
            # What was read without a training text (the end of a pass, held-out documents) need not be read again.
            self._begun = self._progress()
            for text in of_split(self._documents(rows * self.row_bytes), "train"):
                self._found[self._source] = True
                texts.append(text)
        aligned = self.token_bytes.align_batch(texts)
        return pack((document(each, self.token_bytes) for each in aligned), row_bytes=self.row_bytes,
                    positions=self.positions)

    def _documents(self, size: int) -> Iterator[str]:
        """Documents of `size` UTF-8 bytes or a little more, fewer where a pass ends: no group sees two passes."""
        while size > 0:
            # The source that lacks most of its share. `_pack_group` reads it, too: the texts yielded are from there.
            self._source = min(range(len(self.shares)), key=lambda i: self._taken[i] / self.shares[i])
            texts = self._readers[self._source].read()
            if texts is None:
                self._begin_pass(self._source)
                return
            yield from texts
            read = sum(len(text.encode()) for text in texts)
            self._taken[self._source] += read
            size -= read

    def _begin_pass(self, index: int) -> None:
        name = self.sources[index].name
        number = self._readers[index].position["pass"]
        if not self._found[index]:
            raise ValueError(f"a pass over corpus {name!r} gave lane {self.lane} of {self.lanes} no training document: "
                             "use a larger corpus, or fewer lanes")
        self._found[index] = False
        if (name, number) not in self.announced:
            self.announced.add((name, number))
            print(f"corpus {name!r} has come to its end in lane {self.lane} of {self.lanes}: pass {number + 1} begins, "
                  "in another order", flush=True)


# A source is a corpus, whose `revision` says which content its name stands for; its `reader(lane, lanes)` reads the
# documents of one lane. A reader's `position` is plain JSON with the number of the pass under "pass"; setting it moves
# the reader there. `read()` returns the next few documents, maybe none, or None where a pass ended.


def source_of(name: str, *, seed: int) -> "Source":
    """The source of a corpus name; raises as `load_corpus`."""
    scheme, _, place = name.partition(":")
    if name in WORLDS:
        return WorldSource(name, seed)
    if name == "pydocs" or (scheme == "file" and place):
        return MemorySource(name, seed)
    if scheme == "hub" and place:
        return HubSource(name, seed)
    raise ValueError(f"unknown corpus {name!r}: expected one of {CHOICES}")


@lru_cache(maxsize=8)
def order_in_pass(count: int, seed: int, number: int) -> np.ndarray:
    """A seeded order of `count` things, another one for every pass: int64 [count], to be read only."""
    return np.random.default_rng([seed, number]).permutation(count)


@dataclass
class WorldSource:
    """One of the built-in worlds; its one pass has no end."""

    name: str
    seed: int

    @cached_property
    def revision(self) -> str:
        """Hash of the first documents."""
        return hashlib.sha256("".join(self.documents(0, 0)).encode()).hexdigest()

    def documents(self, lane: int, number: int) -> list[str]:
        """The number-th few documents of a lane."""
        digest = hashlib.sha256(f"{self.seed} {lane} {number}".encode()).digest()
        return list(WORLDS[self.name](seed=int.from_bytes(digest[:8], "big"), max_bytes=4 * MIN_BYTES))

    def reader(self, lane: int, lanes: int) -> "WorldReader":
        """A reader of the documents drawn for a lane."""
        return WorldReader(self, lane)


class WorldReader:
    """Reads documents of a world by their number."""

    def __init__(self, source: WorldSource, lane: int):
        self.source = source
        self.lane = lane
        self.position = {"pass": 0, "number": 0}

    def read(self) -> list[str]:
        """The next few documents."""
        texts = self.source.documents(self.lane, self.position["number"])
        self.position = self.position | {"number": self.position["number"] + 1}
        return texts


@dataclass
class MemorySource:
    """A corpus that fits into memory."""

    name: str
    seed: int

    @cached_property
    def corpus(self) -> Corpus:
        """All its training documents."""
        return load_corpus(self.name, split="train", seed=self.seed)

    @property
    def revision(self) -> str:
        """Hash of the documents."""
        return self.corpus.content_hash

    def reader(self, lane: int, lanes: int) -> "MemoryReader":
        """A reader of every lanes-th document."""
        return MemoryReader(self, lane, lanes)


class MemoryReader:
    """Reads documents of a list, in another order in every pass."""

    def __init__(self, source: MemorySource, lane: int, lanes: int):
        self.source = source
        self.lane = lane
        self.lanes = lanes
        self.position = {"pass": 0, "at": 0}

    def read(self) -> list[str] | None:
        """The next few documents; None where a pass ended."""
        number = self.position["pass"]
        at = self.position["at"]
        documents = self.source.corpus.documents
        chosen = order_in_pass(len(documents), self.source.seed, number)[self.lane :: self.lanes][at : at + READ]
        if len(chosen) == 0:
            self.position = {"pass": number + 1, "at": 0}
            return None
        self.position = {"pass": number, "at": at + len(chosen)}
        return [documents[i] for i in chosen]


@dataclass
class HubSource:
    """A dataset of the hub or a folder in its layout, read shard by shard."""

    name: str
    seed: int
    _shards: dict[int, "Sequence[OpenShard]"] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The name without its scheme."""
        return self.name.partition(":")[2]

    @cached_property
    def revision(self) -> str:
        """The commit that is read, whatever happens to a branch later; of a folder the hash of its listing."""
        name, _, revision = parse_place(self.place)
        return commit(name, revision)

    def shards(self, lanes: int) -> "Sequence[OpenShard]":
        """What opens each shard: open(place=, records=) continues at a place that `records` of its records precede.

        Row groups serve as shards where there are fewer files than lanes. Prints a note if even these are too few.
        """
        if lanes not in self._shards:
            self._shards[lanes] = shards = self._found(lanes)
            if len(shards) < lanes:
                print(f"{self.name} has fewer shards ({len(shards)}) than lanes ({lanes}): lanes that share a "
                      "shard read all of it and skip each other's documents, which is right but slower", flush=True)
        return self._shards[lanes]

    def reader(self, lane: int, lanes: int) -> "HubReader":
        """A reader of every lanes-th shard, or of some documents of one shard where there are too few."""
        return HubReader(self, lane, lanes)

    def _found(self, lanes: int) -> "Sequence[OpenShard]":
        name, config, _ = parse_place(self.place)
        with reading(name):
            builder = builder_of(name, config, None if Path(name).is_dir() else self.revision)
            if paths := line_files(builder):
                return [partial(LineShard, path, self.place) for path in paths]
            dataset = streamed(builder)
            if dataset.num_shards < lanes:
                dataset = dataset.reshard()
            return [partial(TableShard, dataset, index, self.place) for index in range(dataset.num_shards)]


class HubReader:
    """Reads documents of some shards of a dataset, or, if lanes share a shard, some documents of one."""

    def __init__(self, source: HubSource, lane: int, lanes: int):
        self.source = source
        self.lane = lane
        self.lanes = lanes
        self.shards = source.shards(lanes)
        count = len(self.shards)
        # Of the `sharing` lanes that read one shard this one takes document `turn`, turn + sharing, ..
        self.sharing = len(range(lane % count, lanes, count)) if count < lanes else 1
        self.turn = lane // count if count < lanes else 0
        self.position = {"pass": 0, "shard": 0, "records": 0, "place": None}

    @property
    def position(self) -> dict:
        """Pass, shard (in the order of this lane), records read of it, and the place in it."""
        return self._position | ({"records": self._open.records, "place": self._open.place} if self._open else {})

    @position.setter
    def position(self, position: dict) -> None:
        self._position = position
        self._open = None

    def read(self) -> list[str] | None:
        """The next few documents, maybe none where a shard is shared or ends; None where a pass ended."""
        number = self._position["pass"]
        shard = self._position["shard"]
        order = order_in_pass(len(self.shards), self.source.seed, number)[self.lane % len(self.shards) :: self.lanes]
        if self._open is None:
            with reading(self.source.place):
                open_shard = self.shards[int(order[shard])]
                self._open = open_shard(place=self._position["place"], records=self._position["records"])
        before = self._open.records
        texts = self._open.read()
        if texts is not None:
            return texts[(self.turn - before) % self.sharing :: self.sharing]
        ended = shard + 1 == len(order)
        self.position = {"pass": number + ended, "shard": 0 if ended else shard + 1, "records": 0, "place": None}
        return None if ended else []


class LineShard:
    """An uncompressed file of JSON lines, read from byte `place`; blank lines do not count as records.

    name: what errors call the dataset. place, records: where the next line begins, and how many records precede it.
    """

    def __init__(self, path: str, name: str, *, place: int | None, records: int):
        from datasets.utils.file_utils import xopen

        self.path = path
        self.name = name
        self.place = place or 0
        self.records = records
        with reading(name):
            # Buffered here: read line by line, a remote file would copy megabytes for each line.
            self._file = BufferedReader(xopen(path, "rb"), BUFFER)
            self._file.seek(self.place)

    def read(self) -> list[str] | None:
        """The next READ texts or fewer, None at the end; ValueError names the file and byte of a line without text."""
        texts = []
        place = self.place
        while len(texts) < READ and (line := self._line()):
            if line.strip():
                texts.append(self._text(line, place))
            place += len(line)
        self.place = place
        self.records += len(texts)
        return texts or None

    def _line(self) -> bytes:
        with reading(self.name):
            return self._file.readline()

    def _text(self, line: bytes, place: int) -> str:
        where = f"the line at byte {place} of {self.path}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON ({error}): repair or drop the line") from error
        columns = list(record) if isinstance(record, dict) else []
        text = record[COLUMN] if COLUMN in columns else None
        if not isinstance(text, str):
            raise ValueError(without_text(where, self.name, columns))
        return text


class TableShard:
    """A shard of any format as `datasets` reads it, in tables: other columns never become Python objects.

    name: what errors call the dataset. place: a state of `datasets`. records: how many records precede it.
    """

    def __init__(self, dataset: "IterableDataset", index: int, name: str, *, place: dict | None, records: int):
        self.index = index
        self.name = name
        self.records = records
        shard = dataset.shard(num_shards=dataset.num_shards, index=index)
        self._dataset = shard.reshard().with_format("arrow")  # by row group where there are any
        if place is not None:
            self._dataset.load_state_dict(place)
        self._tables = self._dataset.iter(batch_size=READ)

    @property
    def place(self) -> dict:
        """The state of `datasets`."""
        return self._dataset.state_dict()

    def read(self) -> list[str] | None:
        """The next READ texts or fewer, None at the end; ValueError where a record holds no text."""
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


Source = WorldSource | MemorySource | HubSource
OpenShard = Callable[..., LineShard | TableShard]
