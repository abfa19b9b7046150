"""Which rows an update sees: from rows in memory (`Feed`), or from corpora that never fit there (`StreamFeed`).

The rows of an update are the same however many processes share it, so a run may resume with another number of them. A
`Feed` is a pure function of the update's number. A `StreamFeed` splits its corpora into lanes and takes the same number
of rows from each lane; part p of n reads the lanes p, p + n, ... Its state is that of the rows handed out.

Shape letters: R rows.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np

from dbyte.distill.data import PACKING
from dbyte.distill.runs import content_hash
from dbyte.text import stream as text_stream
from dbyte.text.hub import READ
from dbyte.text.packing import Batch, Rows, joined
from dbyte.text.spans import TokenBytes
from dbyte.text.stream import Lane, Source, source_of

WINDOW = 16
DEPTH = 4  # batches read ahead
Item = TypeVar("Item")


@dataclass
class Feed:
    """`batch_rows` rows per update out of rows in memory, starting `first_row` rows into the seeded order.

    Rows hold equal bytes but unequal tokens, and a batch is padded to its longest. So, if `grouped`, inside a window of
    WINDOW batches rows of similar token counts go together, which saves core work on mixed text.
    """

    rows: Rows
    batch_rows: int
    seed: int
    first_row: int = 0
    grouped: bool = True
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    told: ClassVar[dict] = {}  # what a log shows of the last batch

    @property
    def row_bytes(self) -> int:
        """Bytes in a row, padding included."""
        return self.rows.row_bytes

    def batch(self, update: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The part-th of `parts` equal shares of the batch of an update (0, 1, ...), whatever came before it."""
        return self.rows.batch(self.row_numbers(update, part=part, parts=parts))

    def row_numbers(self, update: int, *, part: int = 0, parts: int = 1) -> np.ndarray:
        """The numbers of the rows in that share, int64 [batch_rows / parts]; ValueError if parts does not divide."""
        if self.batch_rows % parts:
            raise ValueError(f"an update has {self.batch_rows} rows, which {parts} processes cannot share equally: "
                             "choose a number of processes that divides it")
        wanted = self.first_row + update * self.batch_rows + np.arange(self.batch_rows)
        passes, places = np.divmod(np.split(wanted, parts)[part], len(self.rows))
        return np.array([self._order(int(p))[i] for p, i in zip(passes, places, strict=True)])

    def _order(self, number: int) -> np.ndarray:
        """The order of all rows in a pass, int64 [R]."""
        if number not in self._orders:
            rng = np.random.default_rng([self.seed, number])
            order = rng.permutation(len(self.rows))
            if self.grouped:
                tokens_R = (self.rows.token_ids >= 0).sum(1)
                size = WINDOW * self.batch_rows
                for window in np.split(order, range(size, len(order), size)):  # views: the order itself changes
                    window[:] = window[np.argsort(tokens_R[window], kind="stable")]
                    full = len(window) // self.batch_rows  # a last batch that is not full stays last
                    batches = window[: full * self.batch_rows].reshape(full, self.batch_rows)
                    batches[:] = batches[rng.permutation(full)]
            self._orders[number] = order
        return self._orders[number]

    def describe(self) -> str:
        """The hash of the rows."""
        return self.rows.hash

    def follow(self, facts: dict) -> None:
        """Begin where the run with these facts stopped; {}: at the beginning."""
        self.first_row = facts.get("next_row", 0)

    def state(self) -> dict:
        """What a checkpoint must keep next to the update's number: nothing."""
        return {}

    def restore(self, state: dict, update: int) -> None:
        """Resume from a checkpoint; a Feed has no state, so nothing is done."""

    def close(self) -> None:
        """Release nothing: a Feed reads nothing ahead."""


class StreamFeed:
    """Rows read, aligned and packed from corpora as they are needed, without an end.

    Args:
        corpora: (name, bytes), as in a Scale; the bytes are only the proportions in which the corpora are mixed.
        lanes: how many parts the corpora are split into; it divides batch_rows, which is the default.
        positions: the most tokens of a document that the core has room for; None: no limit.
    Raises:
        ValueError: for numbers that do not divide, an unknown corpus, and in `batch` what is wrong with the text.
        ConnectionError: in `batch` and `describe`, where the hub cannot be read.
    """

    told: ClassVar[dict] = {}

    def __init__(self, corpora: Sequence[tuple[str, int]], token_bytes: TokenBytes, *, row_bytes: int, batch_rows: int,
                 seed: int, lanes: int | None = None, positions: int | None = None):
        self.corpora = tuple(corpora)
        self.token_bytes = token_bytes
        self.seed = seed
        self.row_bytes = row_bytes
        self.batch_rows = batch_rows
        self.lanes = batch_rows if lanes is None else lanes
        self.positions = row_bytes if positions is None else min(positions, row_bytes)
        if not self.corpora or any(amount <= 0 for _, amount in self.corpora):
            raise ValueError(f"corpora need a name and a positive number of bytes each, found {self.corpora}")
        if batch_rows < 1 or self.lanes < 1 or batch_rows % self.lanes:
            raise ValueError(f"an update of {batch_rows} rows cannot take equally many from {self.lanes} lanes: "
                             "lanes must divide batch_rows")
        self._states: dict[int, dict] = {}  # by lane, after the last batch handed out; none yet: at the beginning
        self._update = 0
        self._part = None
        self._ahead = None

    def batch(self, update: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The rows of an update (0, 1, .. in this order), or one of `parts` equal shares of them; parts divides lanes.

        Raises ValueError for an update out of order, or another share than before.
        """
        if update != self._update:
            raise ValueError(f"a stream gives updates in their order: the next is {self._update}, asked for was "
                             f"{update}; restore() a state taken before it")
        if self._ahead is None:
            self._begin(part, parts)
        if (part, parts) != self._part:
            raise ValueError(f"this feed reads part {self._part[0]} of {self._part[1]}, asked for was part {part} of "
                             f"{parts}; restore() its state in a feed of its own")
        try:
            batch, self._states = next(self._ahead)
        except BaseException:
            self.close()  # so that the same update can be asked for again
            raise
        self._update = update + 1
        return batch

    def follow(self, facts: dict) -> None:
        """Begin where the run with these facts stopped; {}: at the beginning."""
        self.restore(facts.get("feed", {}), 0)

    def state(self) -> dict:
        """Where the lanes of this part stand after the last batch handed out, plain JSON: {"lane": state}."""
        return {str(lane): state | {"config": self._config} for lane, state in self._states.items()}

    def restore(self, state: dict, update: int) -> None:
        """Resume with `update` from states merged from all parts; a lane that is not in them starts at its beginning.

        Raises ValueError for a state of another configuration (corpora, their content, tokenizer, sizes or seed).
        """
        foreign = sorted(lane for lane, each in state.items() if each.get("config") != self._config)
        if foreign:
            raise ValueError(f"the state of lane {foreign[0]} was taken with other corpora, content of corpora, "
                             f"tokenizer, row sizes, lanes or seed than {self.describe()}; start the run again")
        self.close()
        self._states = {int(lane): {key: value for key, value in each.items() if key != "config"}
                        for lane, each in state.items()}
        self._update = update

    def describe(self) -> dict:
        """What decides the rows: equal descriptions give equal rows. Opens the corpora to find their content.

        A hub dataset without a revision is described by the commit that its main branch has now, and read from there.
        """
        tokenizer = self.token_bytes.backend.to_str() if self.token_bytes.backend else None
        return {"stream": 2, "packing": PACKING, "read": READ,
                "group_rows": [text_stream.GROUP_ROWS, text_stream.FIRST_GROUP_ROWS],
                "corpora": [[name, amount, source.revision]
                            for (name, amount), source in zip(self.corpora, self._sources, strict=True)],
                "tokens": self.token_bytes.content_hash, "tokenizer": content_hash(tokenizer), "seed": self.seed,
                "lanes": self.lanes, "batch_rows": self.batch_rows, "row_bytes": self.row_bytes,
                "positions": self.positions}

    def close(self) -> None:
        """Stop reading ahead; the next batch resumes where the last one handed out ended."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None
        self._part = None

    @cached_property
    def _sources(self) -> list[Source]:
        return [source_of(name, seed=self.seed) for name, _ in self.corpora]

    @cached_property
    def _config(self) -> str:
        return content_hash(self.describe())[:16]

    def _begin(self, part: int, parts: int) -> None:
        if parts < 1 or self.lanes % parts or not 0 <= part < parts:
            raise ValueError(f"{self.lanes} lanes have no part {part} of {parts}: parts must divide the lanes")
        announced: set[int] = set()
        mine = [Lane(self._sources, [amount for _, amount in self.corpora], lane=lane, lanes=self.lanes,
                     token_bytes=self.token_bytes, row_bytes=self.row_bytes, seed=self.seed, announced=announced,
                     positions=self.positions) for lane in range(part, self.lanes, parts)]
        for lane in mine:
            if lane.lane in self._states:
                lane.restore(self._states[lane.lane])
        self._part = (part, parts)
        self._ahead = made_ahead(_batches(mine, self.batch_rows // self.lanes), depth=DEPTH)


def made_ahead(items: Iterator[Item], *, depth: int) -> Iterator[Item]:
    """The items of an endless iterator, up to `depth` of them made by a thread before they are asked for.

    What the thread raises is raised where the item is asked for. The thread ends when this is closed or garbage.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    made: deque[Future[Item]] = deque()
    try:
        while True:
            while len(made) <= depth:
                made.append(pool.submit(next, items))
            yield made.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(lanes: list[Lane], rows_each: int) -> Iterator[tuple[Batch, dict[int, dict]]]:
    """Batch after batch of `rows_each` rows of every lane, each with the states of the lanes after it."""
    while True:
        rows = joined([lane.next_row() for lane in lanes for _ in range(rows_each)])
        yield rows.batch(range(len(rows))), {lane.lane: lane.state() for lane in lanes}
