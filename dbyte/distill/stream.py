"""Training rows from a stream: what `feed.Feed` does from rows in memory, from corpora that never fit there.

An update's rows are those of all lanes, the same number of each. Processes share an update by lanes: part p of n takes
the lanes p, p + n, .. So the rows of an update are the same for any number of processes, and a run may go on with
another number. A thread reads, aligns and packs ahead of the training; the state is that of the rows handed out.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

from dbyte.distill.ahead import Ahead
from dbyte.distill.data import PACKING
from dbyte.distill.runs import content_hash
from dbyte.text import stream as text_stream
from dbyte.text.packing import Batch, joined
from dbyte.text.spans import TokenBytes
from dbyte.text.stream import READ, Lane, Source, source_of

DEPTH = 4  # batches made ahead


class StreamFeed:
    """Which rows an update sees, read from corpora as they are needed, without an end.

    Args:
        corpora: (name, bytes), as in a Scale; the bytes are only the proportions in which the corpora are mixed.
        lanes: how many parts the corpora are split into; it divides batch_rows, which is the default.
        positions: the most tokens of a document that the core has room for; None: any.
    Raises:
        ValueError: for numbers that do not divide, an unknown corpus, and in `batch` what is wrong with the text.
        ConnectionError: in `batch` and `describe`, where the hub cannot be read.
    """

    def __init__(self, corpora: Sequence[tuple[str, int]], token_bytes: TokenBytes, *, row_bytes: int, batch_rows: int,
                 seed: int, lanes: int | None = None, positions: int | None = None):
        self.corpora, self.token_bytes, self.seed = tuple(corpora), token_bytes, seed
        self.row_bytes, self.batch_rows, self.lanes = row_bytes, batch_rows, batch_rows if lanes is None else lanes
        self.positions = row_bytes if positions is None else min(positions, row_bytes)
        if not self.corpora or any(amount <= 0 for _, amount in self.corpora):
            raise ValueError(f"corpora need a name and a positive number of bytes each, found {self.corpora}")
        if batch_rows < 1 or self.lanes < 1 or batch_rows % self.lanes:
            raise ValueError(f"an update of {batch_rows} rows cannot take as many of each of {self.lanes} lanes: "
                             "lanes must divide batch_rows")
        self._states: dict[int, dict] = {}  # by lane, after the last batch handed out; none yet: at the beginning
        self._update, self._part, self._ahead = 0, None, None

    def batch(self, update: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The rows of an update (0, 1, .. in this order), or one of `parts` equal shares of them; parts divides lanes.

        Raises ValueError if updates are asked for out of order or another share than before is asked for.
        """
        if update != self._update:
            raise ValueError(f"a stream gives updates in their order: the next is {self._update}, asked for was "
                             f"{update}; restore() a state taken before it")
        if self._ahead is None:
            self._begin(part, parts)
        if (part, parts) != self._part:
            raise ValueError(f"this feed reads part {self._part[0]} of {self._part[1]}, asked for was part {part} of "
                             f"{parts}; restore() its state in a feed of its own")
        batch, states = next(self._ahead)
        self._states, self._update = states, update + 1
        return batch

    def state(self) -> dict:
        """Where the lanes of this part stand after the last batch handed out, plain JSON: {"lane": state}."""
        return {str(lane): state | {"config": self._config} for lane, state in self._states.items()}

    def restore(self, state: dict, update: int) -> None:
        """Go on with `update` from states merged from all parts; a lane that is not in them starts at its beginning.

        Raises ValueError for a state of another configuration (corpora, their content, tokenizer, sizes or seed).
        """
        foreign = sorted(lane for lane, each in state.items() if each.get("config") != self._config)
        if foreign:
            raise ValueError(f"the state of lane {foreign[0]} was taken with other corpora, content of corpora, "
                             f"tokenizer, row sizes, lanes or seed than {self.describe()}; start the run anew")
        self.close()
        self._states = {int(lane): {key: value for key, value in each.items() if key != "config"}
                        for lane, each in state.items()}
        self._update = update

    def updates(self, train_bytes: int) -> int:
        """Updates that consume a byte budget, padding included; at least one."""
        return max(round(train_bytes / (self.batch_rows * self.row_bytes)), 1)

    def describe(self) -> dict:
        """What decides the rows: two feeds of one description give the same. Opens the corpora to find their content.

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
        """End the reading ahead; the next batch begins it again where the last one handed out ended."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = self._part = None

    @cached_property
    def _sources(self) -> list[Source]:
        return [source_of(name, seed=self.seed) for name, _ in self.corpora]

    @cached_property
    def _config(self) -> str:
        return content_hash(self.describe())[:16]

    def _begin(self, part: int, parts: int) -> None:
        if parts < 1 or self.lanes % parts or not 0 <= part < parts:
            raise ValueError(f"{self.lanes} lanes have no part {part} of {parts}: parts must divide the lanes")
        mine, announced = [], set()
        for lane in range(part, self.lanes, parts):
            mine.append(Lane(self._sources, [amount for _, amount in self.corpora], lane=lane, lanes=self.lanes,
                             token_bytes=self.token_bytes, row_bytes=self.row_bytes, seed=self.seed,
                             announced=announced, positions=self.positions))
            if lane in self._states:
                mine[-1].restore(self._states[lane])
        self._part, self._ahead = (part, parts), Ahead(batches(mine, self.batch_rows // self.lanes), depth=DEPTH)


def batches(lanes: list[Lane], rows_each: int) -> Iterator[tuple[Batch, dict[int, dict]]]:
    """Batch after batch of `rows_each` rows of every lane, each with the states of the lanes after it."""
    while True:
        rows = joined([lane.next_row() for lane in lanes for _ in range(rows_each)])
        yield rows.batch(range(len(rows))), {lane.lane: lane.state() for lane in lanes}
