"""Endless rows of training text from corpora of any size: read, aligned and packed as they are needed.

    source -> documents of a lane -> those of the training split -> aligned -> packed -> rows in a seeded order

A stream is divided into a fixed number of lanes, each an endless sequence of rows. The number of lanes belongs to the
data, not to the machine: whoever reads a lane gets the same rows, so a batch does not depend on how many processes
share it. In a pass over a finite corpus every document comes to exactly one lane: each lane has every lanes-th shard
(of a hub dataset) or document, in a seeded order that changes with every pass. Lanes do not wait for each other: one
with less text begins its next pass earlier.

Resuming is exact. A lane packs groups, the documents of about GROUP_ROWS rows at a time. Its state, plain JSON, is
where its sources stood when the group began and how many rows of the group were handed out. A resumed lane packs this
group again and nothing before it. Shards are opened by the state of `datasets`: parquet at a row group, other formats
at their beginning, and what was read before is dropped.

No held-out document enters: the split is that of corpus.py. Copies of a document are dropped inside a group; finding
copies further apart would need memory that grows with the stream, in every checkpoint.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dbyte.text.corpus import CHOICES, Corpus, load_corpus, of_split
from dbyte.text.hub import READ, commit, reading, streamed, texts_of
from dbyte.text.packing import Rows, document, pack
from dbyte.text.spans import TokenBytes
from dbyte_tasks.world.full import WORLDS
from dbyte_tasks.world.world import MIN_BYTES

if TYPE_CHECKING:
    from datasets import IterableDataset

GROUP_ROWS = 64
FIRST_GROUP_ROWS = 8
Read = tuple[list[str] | None, dict]  # some documents, maybe none, or None where a pass ended; the position after them


@dataclass(eq=False)
class Lane:
    """The rows of one lane: from several sources in proportion to their `shares`, any positive numbers.

    announced: the passes whose beginning was printed, shared by all lanes. positions: as in `packing.pack`.

    Raises ValueError where a whole pass over a source has no training document for this lane, and the errors of reading
    the sources.
    """

    sources: "Sequence[Source]"
    shares: Sequence[float]
    _: KW_ONLY
    lane: int
    lanes: int
    token_bytes: TokenBytes
    row_bytes: int
    seed: int
    announced: set[tuple[str, int]]
    positions: int | None = None

    def __post_init__(self) -> None:
        # Each lane starts its rotation over the sources at its own place, or all would read the same source at once.
        ahead = np.random.default_rng([self.seed, self.lane]).random(len(self.shares)) * FIRST_GROUP_ROWS
        taken = ahead * self.row_bytes * np.array(self.shares) / sum(self.shares)
        self.restore({"positions": [source.START for source in self.sources], "found": [False] * len(self.sources),
                      "taken": taken.tolist(), "group": 0, "row": 0})

    def state(self) -> dict:
        """Everything that `restore` needs, as plain JSON."""
        return self._begun | {"row": self._row}

    def restore(self, state: dict) -> None:
        """Continue after the row that was handed out last when `state` was taken."""
        self._positions = list(state["positions"])
        self._reads = [source.read(self.lane, self.lanes, position)
                       for source, position in zip(self.sources, self._positions, strict=True)]
        self._found = list(state["found"])  # whether the pass over a source gave a training document
        self._taken = list(state["taken"])
        self._number = state["group"]
        self._begin_group()
        self._row = state["row"]

    def next_row(self) -> tuple[Rows, int]:
        """The next row, as (the rows of its group, its index among them)."""
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
        return {"positions": list(self._positions), "found": list(self._found),
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
        aligned = self.token_bytes.align_batch(self.token_bytes.spelled(texts))
        return pack((document(each, self.token_bytes) for each in aligned), row_bytes=self.row_bytes,
                    positions=self.positions)

    def _documents(self, size: int) -> Iterator[str]:
        """Documents of `size` UTF-8 bytes or a little more, fewer where a pass ends: no group sees two passes."""
        while size > 0:
            # The source that lacks most of its share. `_pack_group` reads it, too: the texts yielded are from there.
            self._source = min(range(len(self.shares)), key=lambda i: self._taken[i] / self.shares[i])
            texts, self._positions[self._source] = next(self._reads[self._source])
            if texts is None:
                self._begin_pass(self._source)
                return
            yield from texts
            read = sum(len(text.encode()) for text in texts)
            self._taken[self._source] += read
            size -= read

    def _begin_pass(self, index: int) -> None:
        name = self.sources[index].name
        if not self._found[index]:
            raise ValueError(f"a pass over corpus {name!r} gave lane {self.lane} of {self.lanes} no training document: "
                             "use a larger corpus, or fewer lanes")
        self._found[index] = False
        number = self._positions[index]["pass"]
        if (name, number) not in self.announced:
            self.announced.add((name, number))
            print(f"corpus {name!r} has come to its end in lane {self.lane} of {self.lanes}: pass {number + 1} begins, "
                  "in another order", flush=True)


# A source is a corpus. Its `revision` says which content its name stands for. `read(lane, lanes, position)` reads the
# documents of one lane from a position on, without an end. A position is plain JSON with the number of the pass under
# "pass"; START is the first.


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
    START = {"pass": 0, "number": 0}

    @cached_property
    def revision(self) -> str:
        """Hash of the first documents."""
        return hashlib.sha256("".join(self.documents(0, 0)).encode()).hexdigest()

    def documents(self, lane: int, number: int) -> list[str]:
        """The documents of a lane that are drawn together, by their number (0, 1, ...)."""
        digest = hashlib.sha256(f"{self.seed} {lane} {number}".encode()).digest()
        return list(WORLDS[self.name](seed=int.from_bytes(digest[:8], "big"), max_bytes=4 * MIN_BYTES))

    def read(self, lane: int, lanes: int, position: dict) -> Iterator[Read]:
        """The documents drawn for a lane, by their number."""
        for number in itertools.count(position["number"]):
            yield self.documents(lane, number), {"pass": 0, "number": number + 1}


@dataclass
class MemorySource:
    """A corpus that fits into memory."""

    name: str
    seed: int
    START = {"pass": 0, "at": 0}

    @cached_property
    def corpus(self) -> Corpus:
        """All its training documents."""
        return load_corpus(self.name, split="train", seed=self.seed)

    @property
    def revision(self) -> str:
        """Hash of the documents."""
        return self.corpus.content_hash

    def read(self, lane: int, lanes: int, position: dict) -> Iterator[Read]:
        """Every lanes-th document, in another order in every pass."""
        documents = self.corpus.documents
        start = position["at"]
        for number in itertools.count(position["pass"]):
            mine = order_in_pass(len(documents), self.seed, number)[lane::lanes]
            for at in range(start, len(mine), READ):
                chosen = mine[at : at + READ]
                yield [documents[i] for i in chosen], {"pass": number, "at": at + len(chosen)}
            start = 0
            yield None, {"pass": number + 1, "at": 0}


@dataclass
class HubSource:
    """A dataset of the hub or a folder in its layout, read shard by shard.

    A position holds the pass, the shard (in the order of its lane), how many of its records were read, and as "place"
    the state of `datasets` in it.
    """

    name: str
    seed: int
    _datasets: "dict[int, IterableDataset]" = field(default_factory=dict, repr=False)
    START = {"pass": 0, "shard": 0, "records": 0, "place": None}

    @property
    def place(self) -> str:
        """The name without its scheme."""
        return self.name.partition(":")[2]

    @cached_property
    def revision(self) -> str:
        """The commit that is read, whatever happens to a branch later; for a folder, the hash of its listing."""
        return commit(self.place)

    def dataset(self, lanes: int) -> "IterableDataset":
        """The dataset, whose shards are row groups where there are fewer files than lanes.

        Prints a note if even these are too few. Raises as `hub.streamed`.
        """
        if lanes not in self._datasets:
            dataset = streamed(self.place, revision=self.revision)
            if dataset.num_shards < lanes:
                with reading(self.place):
                    dataset = dataset.reshard()
            if dataset.num_shards < lanes:
                print(f"{self.name} has fewer shards ({dataset.num_shards}) than lanes ({lanes}): lanes that share a "
                      "shard read all of it and skip each other's documents, which is right but slower", flush=True)
            self._datasets[lanes] = dataset
        return self._datasets[lanes]

    def read(self, lane: int, lanes: int, position: dict) -> Iterator[Read]:
        """The documents of every lanes-th shard, or of some documents of one shard where there are too few."""
        dataset = self.dataset(lanes)
        shards = dataset.num_shards
        # Of the `sharing` lanes that read one shard this one takes document `turn`, turn + sharing, ..
        sharing = len(range(lane % shards, lanes, shards)) if shards < lanes else 1
        turn = lane // shards if shards < lanes else 0
        while True:
            order = order_in_pass(shards, self.seed, position["pass"])[lane % shards :: lanes]
            with reading(self.place):
                shard = dataset.shard(num_shards=shards, index=int(order[position["shard"]]))
                shard = shard.reshard()  # so that it opens at a row group, where there are any
            if position["place"] is not None:
                shard.load_state_dict(position["place"])
            for texts in texts_of(shard, self.place):
                mine = texts[(turn - position["records"]) % sharing :: sharing]
                records = position["records"] + len(texts)
                position = position | {"records": records, "place": shard.state_dict()}
                yield mine, position
            ended = position["shard"] + 1 == len(order)
            position = {"pass": position["pass"] + ended, "shard": 0 if ended else position["shard"] + 1, "records": 0,
                        "place": None}
            yield None if ended else [], position


Source = WorldSource | MemorySource | HubSource
