"""A lane: one of a fixed number of endless rows of training text, each read, aligned and packed on its own.

    sources -> documents of the training split -> group -> aligned -> packed -> rows in a seeded order

The number of lanes belongs to the data, not to the machine: whoever reads a lane gets the same rows, so a batch does
not depend on how many processes share it. A lane works in groups, the documents of about GROUP_ROWS rows. Its state is
where its sources stood when the group began and how many rows of the group were handed out: going on reads the group
again and nothing before it.

The split is that of `corpus`: no held-out document enters. Copies of a document are dropped inside a group; what would
be needed to see copies further apart grows with the stream and would have to be in every checkpoint.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dbyte.text.corpus import of_split
from dbyte.text.packing import Rows, document, pack
from dbyte.text.sources import Source
from dbyte.text.spans import TokenBytes

GROUP_ROWS = 64
FIRST_GROUP_ROWS = 8


class Lane:
    """The rows of one lane: of several sources in proportion to their `shares`, any positive numbers.

    Raises ValueError where a whole pass over a source has no training document for this lane, and what reading the
    sources raises.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], *, lane: int, lanes: int,
                 token_bytes: TokenBytes, row_bytes: int, seed: int, announced: set[tuple[str, int]],
                 positions: int | None = None):
        """announced: passes that some lane already said to have begun; all lanes share it. positions: of `pack`."""
        self.sources, self.shares, self.lane, self.lanes = sources, shares, lane, lanes
        self.token_bytes, self.row_bytes, self.seed, self.announced = token_bytes, row_bytes, seed, announced
        self.positions = positions
        self._readers = [source.reader(lane, lanes) for source in sources]
        self._found = [False] * len(sources)  # whether the pass over a source gave a training document
        # Lanes begin their turns at places of their own: else all of them would read the same source at once.
        ahead = np.random.default_rng([seed, lane]).random(len(shares)) * FIRST_GROUP_ROWS * row_bytes
        self._taken = (ahead * np.array(shares) / sum(shares)).tolist()
        self._number = 0
        self._begin_group()

    def state(self) -> dict:
        """All that `restore` needs, plain JSON."""
        return self._begun | {"row": self._row}

    def restore(self, state: dict) -> None:
        """Go on after the row that was handed out last when `state` was taken."""
        for reader, position in zip(self._readers, state["positions"], strict=True):
            reader.seek(position)
        self._found, self._taken, self._number = list(state["found"]), list(state["taken"]), state["group"]
        self._begin_group()
        self._row = state["row"]

    def next_row(self) -> tuple[Rows, int]:
        """The next row: the rows of its group and its index there."""
        if self._rows is None:
            self._rows = self._pack_group()
            self._order = np.random.default_rng([self.seed, self.lane, self._number]).permutation(len(self._rows))
        rows, index = self._rows, int(self._order[self._row])
        self._row += 1
        if self._row == len(rows):
            self._number += 1
            self._begin_group()
        return rows, index

    def _begin_group(self) -> None:
        self._begun, self._rows, self._row = self._boundary(), None, 0

    def _boundary(self) -> dict:
        return {"positions": [reader.position for reader in self._readers], "found": list(self._found),
                "taken": list(self._taken), "group": self._number}

    def _pack_group(self) -> Rows:
        # The first groups differ in size, so that the lanes of a process do not all tokenise in the same update later.
        rows = GROUP_ROWS if self._number else max(GROUP_ROWS * (self.lane + 1) // self.lanes, FIRST_GROUP_ROWS)
        texts: list[str] = []
        while not texts:  # nothing but the end of a pass, or held-out documents: going on need not read that again
            self._begun = self._boundary()
            for text in of_split(self._documents(rows * self.row_bytes), "train"):
                self._found[self._source] = True
                texts.append(text)
        aligned = self.token_bytes.align_batch(texts)
        return pack((document(each, self.token_bytes) for each in aligned), row_bytes=self.row_bytes,
                    positions=self.positions)

    def _documents(self, size: int) -> Iterator[str]:
        """Documents of `size` UTF-8 bytes or a little more, fewer where a pass ends: no group sees two passes."""
        while size > 0:
            # The source that is furthest behind its share; it is also the one that the texts given out are of.
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
        source, number = self.sources[index], self._readers[index].position["pass"]
        if not self._found[index]:
            raise ValueError(f"a pass over corpus {source.name!r} gave lane {self.lane} of {self.lanes} no training "
                             "document: use a larger corpus, or fewer lanes")
        self._found[index] = False
        if (source.name, number) not in self.announced:
            self.announced.add((source.name, number))
            print(f"corpus {source.name!r} has come to its end in lane {self.lane} of {self.lanes}: pass {number + 1} "
                  "begins, in another order", flush=True)
