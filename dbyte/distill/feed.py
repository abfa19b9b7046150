"""Which rows an update sees: a pure function of the update's number, the same however many processes share it."""

from dataclasses import dataclass, field

import numpy as np

from dbyte.text.packing import Batch, Rows

WINDOW = 16


@dataclass(frozen=True)
class Feed:
    """`batch_rows` rows an update out of rows in memory, starting `first_row` rows into the seeded order.

    Rows hold equal bytes but unequal tokens, and a batch is padded to its longest. So, if `grouped`, inside a window of
    WINDOW batches rows of similar token counts go together, which saves core work on mixed text.
    """

    rows: Rows
    batch_rows: int
    seed: int
    first_row: int = 0
    grouped: bool = True
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def row_bytes(self) -> int:
        """Bytes in a row, padding included."""
        return self.rows.row_bytes

    def batch(self, update: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The part-th of `parts` equal shares of the batch of an update (0, 1, ...), whatever came before it."""
        return self.rows.batch(self.row_numbers(update, part=part, parts=parts))

    def row_numbers(self, update: int, *, part: int = 0, parts: int = 1) -> np.ndarray:
        """Which rows that is, int64.

        Raises:
            ValueError: if the rows of an update cannot be shared equally.
        """
        if self.batch_rows % parts:
            raise ValueError(f"an update has {self.batch_rows} rows, which {parts} processes cannot share equally: "
                             "choose a number of processes that divides it")
        wanted = self.first_row + update * self.batch_rows + np.arange(self.batch_rows)
        passes, places = np.divmod(np.split(wanted, parts)[part], len(self.rows))
        return np.array([self._order(int(p))[i] for p, i in zip(passes, places, strict=True)])

    def _order(self, number: int) -> np.ndarray:
        """The order of all rows in a pass, int64 [R]."""
        if number not in self._orders:
            rng, tokens_R = np.random.default_rng([self.seed, number]), (self.rows.token_ids >= 0).sum(1)
            shuffled, size = rng.permutation(len(self.rows)), WINDOW * self.batch_rows
            windows = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
            self._orders[number] = shuffled if not self.grouped else np.concatenate(
                [self._by_tokens(w[np.argsort(tokens_R[w], kind="stable")], rng) for w in windows])
        return self._orders[number]

    def _by_tokens(self, sorted_rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Batches of neighbours in a seeded order; a last batch that is not full stays last."""
        whole = len(sorted_rows) // self.batch_rows
        batches = sorted_rows[: whole * self.batch_rows].reshape(whole, self.batch_rows)
        return np.concatenate([batches[rng.permutation(whole)].ravel(), sorted_rows[whole * self.batch_rows :]])

    def updates(self, train_bytes: int) -> int:
        """Updates that consume a byte budget, padding included; at least one."""
        return max(round(train_bytes / (self.batch_rows * self.row_bytes)), 1)

    def state(self) -> dict:
        """What a checkpoint must keep beside the update's number: nothing."""
        return {}

    def restore(self, state: dict, update: int) -> None:
        """Go on from a checkpoint: nothing to do."""

    def close(self) -> None:
        """Nothing to do."""
