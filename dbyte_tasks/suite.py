"""Tasks by name, as the command line takes them: `mini`, `paper`, `cute`, a column of theirs, or GROUP/COLUMN.

`mini` stands for the columns of MiniBench that the corpus `world` teaches, `mini_full` for all of them, and `mini_cute`
for seven of CUTE's kinds asked of made-up words; the last two need a model that was trained on `world_full`.

A column's bare name means MiniBench's if it has one of that name, else the benchmark's, else CUTE's; a column of
mini_cute is always written mini_cute/COLUMN. Results always name the group, so that columns are not confused.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dbyte_tasks import minibench
from dbyte_tasks.column import HarnessTask
from dbyte_tasks.cute import CUTE
from dbyte_tasks.paper import BENCHMARKS

COLUMNS = {"mini": minibench.EVERY, "paper": BENCHMARKS, "cute": CUTE, "mini_cute": minibench.MINI_CUTE}
GROUPS = {group: [(group, column) for column in columns] for group, columns in COLUMNS.items()}
GROUPS |= {"mini": [("mini", column) for column in minibench.COLUMNS], "mini_full": GROUPS["mini"]}
# What each name stands for. Groups are in reverse, so that a bare name is the column of the first group that has it.
NAMED = {column: [(group, column)] for group, columns in reversed(COLUMNS.items()) for column in columns}
NAMED |= {f"{group}/{column}": [(group, column)] for group, columns in COLUMNS.items() for column in columns} | GROUPS


def named(names: Sequence[str]) -> list[tuple[str, str]]:
    """(group, column) for each name, a group's name standing for all its columns; each once, in the order given.

    Raises ValueError for a name that is neither a group nor a column, or for no names.
    """
    if not names:
        raise ValueError(f"name at least one task: {', '.join(GROUPS)}, or columns of theirs")
    if unknown := [name for name in names if name not in NAMED]:
        listed = "; ".join(f"{group}: {', '.join(columns)}" for group, columns in COLUMNS.items())
        raise ValueError(f"unknown task {unknown[0]!r}: choose a group ({', '.join(GROUPS)}), a column of one "
                         f"({listed}), or GROUP/COLUMN")
    return list(dict.fromkeys(column for name in names for column in NAMED[name]))


def tasks(
    names: Sequence[str], *, limit: int | None = None, seed: int = 0, data: Path | None = None
) -> list[HarnessTask]:
    """The named tasks, called GROUP/COLUMN, with at most `limit` items each.

    seed: draws the items of mini and mini_cute. data: a folder with local items for paper and cute; None: the items of
    paper come from the hub. Raises ValueError for an unknown name, a limit below 1 or a damaged file, and
    FileNotFoundError for missing items.
    """
    found = []
    missing = []
    for group, column in named(names):
        name = f"{group}/{column}"
        try:
            task = _task(group, column, limit, seed=seed, data=data)
            found.append(replace(task, name=name, config=task.config | {"task": name}))
        except FileNotFoundError as error:
            missing.append(str(error))
    if missing:
        raise FileNotFoundError(f"items are missing; {'; '.join(missing)}. Leave such a column out, or put its file "
                                "there (for cute: clone github.com/Leukas/CUTE to DIR/cute and give --data DIR); "
                                "without --data those of paper are read from the hub")
    return found


def _task(group: str, column: str, limit: int | None, *, seed: int, data: Path | None) -> HarnessTask:
    if group in ("paper", "cute"):
        return COLUMNS[group][column].as_task(limit, data=data)
    return COLUMNS[group][column].as_task(limit, seed=seed)
