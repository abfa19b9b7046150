"""Corpora without an end, shared by lanes: each lane reads its own documents and can go on from a small position.

    hub:     the shards of the dataset in a seeded order, shards k, k + lanes, .. for lane k; another order every pass
    world    a few documents at a time, drawn by seed, lane and number: any of them can be made without those before
    others   held in memory in a seeded order, documents k, k + lanes, .. for lane k; another order every pass

In a pass over a finite corpus every document comes to exactly one lane. Lanes do not wait for each other: one with less
text begins its next pass earlier. A position is plain JSON.

A parquet shard is opened at one of its row groups, so that going on reads nothing before it. Other formats have no such
places: `datasets` reads a shard of theirs again from its beginning and drops what was seen.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dbyte.text.corpus import CHOICES, load_corpus
from dbyte.text.full_world import full_world_documents
from dbyte.text.hub import COLUMN, commit, parse_place, reading, streamed, without_text
from dbyte.text.world import MIN_BYTES, world_documents

if TYPE_CHECKING:
    from datasets import IterableDataset

READ = 16  # documents at once; a source's turn among others is never shorter


class Reader(Protocol):
    """A lane's place in a source: `position` is plain JSON and holds the number of the pass under "pass"."""

    position: dict

    def read(self) -> list[str] | None:
        """The next few documents, maybe none; None where a pass ended and the next begins."""

    def seek(self, position: dict) -> None:
        """Go on from what `position` was."""


class Source(Protocol):
    """A corpus: `revision` says which content its name stands for."""

    name: str
    revision: str

    def reader(self, lane: int, lanes: int) -> Reader:
        """A reader of the documents of a lane, at the beginning of its first pass."""


def source_of(name: str, *, seed: int) -> Source:
    """The source of a corpus name; errors as of `load_corpus`."""
    scheme, _, place = name.partition(":")
    if name in ("world", "world_full"):
        return WorldSource(seed, name)
    if name == "pydocs" or (scheme == "file" and place):
        return HeldSource(name, seed)
    if scheme == "hub" and place:
        return HubSource(name, seed)
    raise ValueError(f"unknown corpus {name!r}: expected one of {CHOICES}")


@dataclass
class WorldSource:
    """The built-in world or all of it (`world_full`); its one pass has no end."""

    seed: int
    name: str = "world"

    @cached_property
    def revision(self) -> str:
        """Hash of the first documents."""
        return hashlib.sha256("".join(self.documents(0, 0)).encode()).hexdigest()

    def documents(self, lane: int, number: int) -> list[str]:
        """The number-th few documents of a lane."""
        digest = hashlib.sha256(f"{self.seed} {lane} {number}".encode()).digest()
        write = full_world_documents if self.name == "world_full" else world_documents
        return list(write(seed=int.from_bytes(digest[:8], "big"), max_bytes=4 * MIN_BYTES))

    def reader(self, lane: int, lanes: int) -> "WorldReader":
        """A reader of the documents drawn for a lane."""
        return WorldReader(self, lane)


class WorldReader:
    """Documents of the world by their number."""

    def __init__(self, source: WorldSource, lane: int):
        self.source, self.lane, self.position = source, lane, {"pass": 0, "number": 0}

    def read(self) -> list[str]:
        """The next few documents."""
        texts = self.source.documents(self.lane, self.position["number"])
        self.position = self.position | {"number": self.position["number"] + 1}
        return texts

    def seek(self, position: dict) -> None:
        """Go on from a position."""
        self.position = position


@dataclass
class HeldSource:
    """A corpus that fits into memory."""

    name: str
    seed: int

    @cached_property
    def corpus(self):
        """All its training documents."""
        return load_corpus(self.name, split="train", seed=self.seed)

    @property
    def revision(self) -> str:
        """Hash of the documents."""
        return self.corpus.content_hash

    def reader(self, lane: int, lanes: int) -> "HeldReader":
        """A reader of every lanes-th document."""
        return HeldReader(self, lane, lanes)


class HeldReader:
    """Documents of a list that is ordered anew for every pass."""

    def __init__(self, source: HeldSource, lane: int, lanes: int):
        self.source, self.lane, self.lanes = source, lane, lanes
        self.seek({"pass": 0, "at": 0})

    def read(self) -> list[str] | None:
        """The next few documents; None where a pass ended."""
        number, at = self.position["pass"], self.position["at"]
        chosen = self._order[at : at + READ]
        if len(chosen) == 0:
            self.seek({"pass": number + 1, "at": 0})
            return None
        self.position = {"pass": number, "at": at + len(chosen)}
        return [self.source.corpus.documents[i] for i in chosen]

    def seek(self, position: dict) -> None:
        """Go on from a position."""
        documents = self.source.corpus.documents
        self._order = in_pass(len(documents), self.source.seed, position["pass"])[self.lane :: self.lanes]
        self.position = position


@dataclass
class HubSource:
    """A dataset of the hub or a folder in its layout, read shard by shard."""

    name: str
    seed: int
    _datasets: dict[int, "IterableDataset"] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The name without its scheme."""
        return self.name.partition(":")[2]

    @cached_property
    def revision(self) -> str:
        """The commit that is read, whatever happens to a branch later; of a folder a hash of its listing."""
        name, _, revision = parse_place(self.place)
        return commit(name, revision)

    def dataset(self, lanes: int) -> "IterableDataset":
        """The dataset, cut into row groups where its files are fewer than the lanes; says so if even these are."""
        if lanes not in self._datasets:
            name, config, _ = parse_place(self.place)
            with reading(name):
                dataset = streamed(name, config, None if Path(name).is_dir() else self.revision)
                if dataset.num_shards < lanes:
                    dataset = dataset.reshard()
            if dataset.num_shards < lanes:
                print(f"{self.name} has fewer shards ({dataset.num_shards}) than lanes ({lanes}): lanes that share a "
                      "shard read all of it and skip each other's documents, which is right but slower", flush=True)
            self._datasets[lanes] = dataset
        return self._datasets[lanes]

    def reader(self, lane: int, lanes: int) -> "HubReader":
        """A reader of every lanes-th shard, or of some documents of one shard where there are too few."""
        return HubReader(self, self.dataset(lanes), lane, lanes)


class HubReader:
    """Documents of some shards of a dataset."""

    def __init__(self, source: HubSource, dataset: "IterableDataset", lane: int, lanes: int):
        self.source, self.dataset, self.lane, self.lanes = source, dataset, lane, lanes
        # Of the lanes that share a shard this one reads document `turn`, turn + sharing, ..
        shards = dataset.num_shards
        self.sharing, self.turn = (1, 0) if shards >= lanes else (len(range(lane % shards, lanes, shards)),
                                                                  lane // shards)
        self.seek({"pass": 0, "shard": 0, "read": 0, "dataset": None})

    @property
    def position(self) -> dict:
        """Pass, shard (in the order of this lane), documents read of it, and the state of `datasets`."""
        return {"pass": self._pass, "shard": self._shard, "read": self._read,
                "dataset": self._open.state_dict() if self._batches else self._state}

    def read(self) -> list[str] | None:
        """The next few documents, maybe none where a shard is shared or ends; None where a pass ended."""
        with reading(self.source.place):
            self._batches = self._batches or self._opened()
            table = next(self._batches, None)
        if table is None:
            return self._turn_to_next_shard()
        columns = table.column_names
        texts = table[COLUMN].to_pylist() if COLUMN in columns else [None]
        for number, text in enumerate(texts, start=self._read):
            if not isinstance(text, str):
                raise ValueError(without_text(f"record {number} of shard {self._order[self._shard]}",
                                              self.source.place, columns))
        mine = texts[(self.turn - self._read) % self.sharing :: self.sharing]
        self._read += len(texts)
        return mine

    def seek(self, position: dict) -> None:
        """Go on from a position."""
        self._pass, self._shard, self._read = position["pass"], position["shard"], position["read"]
        self._state, self._batches = position["dataset"], None
        order = in_pass(self.dataset.num_shards, self.source.seed, self._pass)
        self._order = order[self.lane % len(order) :: self.lanes]

    def _opened(self) -> Iterator:
        shard = self.dataset.shard(num_shards=self.dataset.num_shards, index=int(self._order[self._shard]))
        # By row group where there are any, and as tables: the other columns never become Python objects.
        self._open = shard.reshard().with_format("arrow")
        if self._state is not None:
            self._open.load_state_dict(self._state)
        return self._open.iter(batch_size=READ)

    def _turn_to_next_shard(self) -> list[str] | None:
        ended = self._shard + 1 == len(self._order)
        self.seek({"pass": self._pass + ended, "shard": 0 if ended else self._shard + 1, "read": 0, "dataset": None})
        return None if ended else []


def in_pass(count: int, seed: int, number: int) -> Sequence[int]:
    """A seeded order of `count` things, another one for every pass: int64 [count]."""
    return np.random.default_rng([seed, number]).permutation(count)
