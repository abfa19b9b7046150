"""MiniBench: the paper's benchmark columns, drawn from the built-in world (DESIGN section 8).

A column is one small file with one Column; to add one, write the file and name it in COLUMNS. Every item is held out:
its question, event or sum occurs in no training text of `dbyte.text.world` (tests/test_minibench.py proves it).
"""

from collections.abc import Sequence

from dbyte.evaluate.column import Column, HarnessTask, content_hash
from dbyte.evaluate.minibench import arc_e, gsm8k, lmb, piqa

__all__ = ["CHANCE", "COLUMNS", "Column", "content_hash", "items", "tasks"]

COLUMNS = {column.name: column for column in (lmb.COLUMN, piqa.COLUMN, arc_e.COLUMN, gsm8k.COLUMN)}  # Table 1's order
CHANCE = {name: column.chance for name, column in COLUMNS.items()}


def items(column: str, n: int | None = None, *, seed: int = 0) -> list[dict]:
    """The first n rows of the named column; ValueError for an unknown column or an n it does not have."""
    return _column(column).items(n, seed=seed)


def tasks(columns: Sequence[str], limit: int | None = None, *, seed: int = 0) -> list[HarnessTask]:
    """The named columns as the harness runs them, each of `limit` items or its default number.

    A limit beyond what a column has takes all it has. ValueError for an unknown column or a limit below 1.
    """
    return [_column(name).as_task(limit, seed=seed) for name in columns]


def _column(name: str) -> Column:
    if name not in COLUMNS:
        raise ValueError(f"unknown MiniBench column {name!r}: choose from {', '.join(COLUMNS)}")
    return COLUMNS[name]
