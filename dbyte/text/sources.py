"""Corpora without an end, shared by lanes: each lane reads its own documents and can go on from a small position.

    hub:     the shards of the dataset in a seeded order, shards k, k + lanes, .. for lane k; another order every pass
    world    a few documents at a time, drawn by seed, lane and number: any of them can be made without those before
    others   held in memory in a seeded order, documents k, k + lanes, .. for lane k; another order every pass

In a pass over a finite corpus every document comes to exactly one lane. Lanes do not wait for each other: one with less
text begins its next pass earlier. A position is plain JSON.

Going on reads nothing before a position but in formats that have no places to open them at: see `shards`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from dbyte.tasks.world.full import WORLDS
from dbyte.tasks.world.world import MIN_BYTES
from dbyte.text.corpus import CHOICES, load_corpus
from dbyte.text.hub import builder_of, commit, line_files, parse_place, reading, streamed
from dbyte.text.shards import READ, LineShards, Shards, TableShards


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
    if name in WORLDS:
        return WorldSource(seed, name)
    if name == "pydocs" or (scheme == "file" and place):
        return HeldSource(name, seed)
    if scheme == "hub" and place:
        return HubSource(name, seed)
    raise ValueError(f"unknown corpus {name!r}: expected one of {CHOICES}")


@dataclass
class WorldSource:
    """One of the built-in worlds; its one pass has no end."""

    seed: int
    name: str = "world"

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
    _shards: dict[int, Shards] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The name without its scheme."""
        return self.name.partition(":")[2]

    @cached_property
    def revision(self) -> str:
        """The commit that is read, whatever happens to a branch later; of a folder a hash of its listing."""
        name, _, revision = parse_place(self.place)
        return commit(name, revision)

    def shards(self, lanes: int) -> Shards:
        """The shards; row groups where the files are fewer than the lanes; says so if even these are."""
        if lanes not in self._shards:
            shards = self._shards[lanes] = self._found(lanes)
            if len(shards) < lanes:
                print(f"{self.name} has fewer shards ({len(shards)}) than lanes ({lanes}): lanes that share a "
                      "shard read all of it and skip each other's documents, which is right but slower", flush=True)
        return self._shards[lanes]

    def reader(self, lane: int, lanes: int) -> "HubReader":
        """A reader of every lanes-th shard, or of some documents of one shard where there are too few."""
        return HubReader(self.shards(lanes), self.seed, lane, lanes)

    def _found(self, lanes: int) -> Shards:
        name, config, _ = parse_place(self.place)
        with reading(name):
            builder = builder_of(name, config, None if Path(name).is_dir() else self.revision)
            if paths := line_files(builder):
                return LineShards(paths, self.place)
            dataset = streamed(builder)
            return TableShards(dataset.reshard() if dataset.num_shards < lanes else dataset, self.place)


class HubReader:
    """Documents of some shards of a dataset."""

    def __init__(self, shards: Shards, seed: int, lane: int, lanes: int):
        self.shards, self.seed, self.lane, self.lanes = shards, seed, lane, lanes
        # Of the lanes that share a shard this one reads document `turn`, turn + sharing, ..
        count = len(shards)
        self.sharing, self.turn = (1, 0) if count >= lanes else (len(range(lane % count, lanes, count)), lane // count)
        self.seek({"pass": 0, "shard": 0, "records": 0, "place": None})

    @property
    def position(self) -> dict:
        """Pass, shard (in the order of this lane), records read of it, and the place in it."""
        return self._position | ({"records": self._open.records, "place": self._open.place} if self._open else {})

    def read(self) -> list[str] | None:
        """The next few documents, maybe none where a shard is shared or ends; None where a pass ended."""
        if self._open is None:
            with reading(self.shards.name):
                self._open = self.shards.opened(int(self._order[self._position["shard"]]),
                                                place=self._position["place"], records=self._position["records"])
        before, texts = self._open.records, self._open.read()
        return self._turn_to_next_shard() if texts is None else texts[(self.turn - before) % self.sharing ::
                                                                      self.sharing]

    def seek(self, position: dict) -> None:
        """Go on from a position."""
        self._position, self._open = position, None
        order = in_pass(len(self.shards), self.seed, position["pass"])
        self._order = order[self.lane % len(order) :: self.lanes]

    def _turn_to_next_shard(self) -> list[str] | None:
        number, shard = self._position["pass"], self._position["shard"] + 1
        ended = shard == len(self._order)
        self.seek({"pass": number + ended, "shard": 0 if ended else shard, "records": 0, "place": None})
        return None if ended else []


def in_pass(count: int, seed: int, number: int) -> Sequence[int]:
    """A seeded order of `count` things, another one for every pass: int64 [count]."""
    return np.random.default_rng([seed, number]).permutation(count)
