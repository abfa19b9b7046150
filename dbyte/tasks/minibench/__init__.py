"""MiniBench: the paper's benchmark columns, drawn from the built-in world (DESIGN section 8).

A column is one small file with one Column; to add one, write the file and name it in EVERY. Every item is held out: its
question, event or sum occurs in no training text of the world (tests/test_minibench.py, tests/test_more_world.py).
COLUMNS are those that the corpus `world` teaches; models trained on `world_full` are asked EVERY (`taught_by`).
"""

from collections.abc import Iterable, Sequence

from dbyte.tasks.column import Column, HarnessTask, content_hash
from dbyte.tasks.minibench import arc_c, arc_e, gsm8k, hellas, lmb, mmlu, obqa, piqa, spell, wino
from dbyte.tasks.world import full as full_world

__all__ = ["CHANCE", "COLUMNS", "EVERY", "Column", "content_hash", "items", "taught_by", "tasks"]

EVERY = {module.COLUMN.name: module.COLUMN for module in (  # Table 4's order
    lmb, hellas, piqa, arc_e, arc_c, wino, obqa, mmlu, gsm8k, spell)}
COLUMNS = {name: EVERY[name] for name in ("LMB", "PIQA", "ARC-E", "GSM8K")}
CHANCE = {name: column.chance for name, column in EVERY.items()}


def taught_by(corpora: Iterable[str]) -> dict[str, Column]:
    """The columns that training on these corpora prepares for."""
    return EVERY if full_world.NAME in corpora else COLUMNS


def items(column: str, n: int | None = None, *, seed: int = 0) -> list[dict]:
    """The first n rows of the named column; ValueError for an unknown column or an n it does not have."""
    return _column(column).items(n, seed=seed)


def tasks(columns: Sequence[str], limit: int | None = None, *, seed: int = 0) -> list[HarnessTask]:
    """The named columns as the harness runs them, each of `limit` items or its default number.

    A limit beyond what a column has takes all it has. ValueError for an unknown column or a limit below 1.
    """
    return [_column(name).as_task(limit, seed=seed) for name in columns]


def _column(name: str) -> Column:
    if name not in EVERY:
        raise ValueError(f"unknown MiniBench column {name!r}: choose from {', '.join(EVERY)}")
    return EVERY[name]
