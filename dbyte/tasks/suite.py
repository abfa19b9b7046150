"""Tasks by name, as the command line takes them: `mini`, `paper`, `cute`, a column of theirs, or GROUP/COLUMN.

`mini` stands for the columns of MiniBench that the corpus `world` teaches, `mini_full` for all of them and `mini_cute`
for seven of CUTE's kinds asked of made-up words; both take a model that was trained on `world_full`.

A column's bare name means MiniBench's if it has one of that name, else the benchmark's, else CUTE's;
mini_cute's are mini_cute/COLUMN: results always name the group, so nobody takes one for another.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dbyte.tasks import cute, minibench
from dbyte.tasks import paper as benchmarks
from dbyte.tasks.column import HarnessTask
from dbyte.tasks.minibench.spell import MINI_CUTE

COLUMNS: dict[str, Sequence[str]] = {
    "mini": tuple(minibench.EVERY), "paper": tuple(benchmarks.BENCHMARKS), "cute": cute.COLUMNS,
    "mini_cute": tuple(MINI_CUTE)}
GROUPS = {"mini": ("mini", tuple(minibench.COLUMNS)), "mini_full": ("mini", COLUMNS["mini"]),
          **{group: (group, COLUMNS[group]) for group in ("paper", "cute", "mini_cute")}}


def named(names: Sequence[str]) -> list[tuple[str, str]]:
    """(group, column) for each name, a group's name standing for all its columns; each once, in the order asked for.

    ValueError for a name that is neither a group nor a column, or no names.
    """
    found: dict[tuple[str, str], None] = {}
    for name in names:
        group, _, column = name.rpartition("/")
        if name in GROUPS:
            home, columns = GROUPS[name]
            found.update(dict.fromkeys((home, each) for each in columns))
            continue
        home = next((g for g in ([group] if group else COLUMNS) if column in COLUMNS.get(g, ())), None)
        if home is None:
            raise ValueError(f"unknown task {name!r}: choose a group ({', '.join(GROUPS)}), a column of one ("
                             + "; ".join(f"{g}: {', '.join(columns)}" for g, columns in COLUMNS.items())
                             + "), or GROUP/COLUMN")
        found[home, column] = None
    if not found:
        raise ValueError(f"name at least one task: {', '.join(GROUPS)}, or columns of theirs")
    return list(found)


def tasks(
    names: Sequence[str], *, limit: int | None = None, seed: int = 0, data: Path | None = None
) -> list[HarnessTask]:
    """The named tasks, called GROUP/COLUMN, with at most `limit` items each; errors as of the three groups.

    seed: draws the items of mini and mini_cute. data: a folder with local items for paper and cute; None: paper's are
    on the hub.
    """
    wanted = named(names)
    columns = {group: [column for its, column in wanted if its == group] for group in COLUMNS}
    made = {"mini": minibench.tasks(columns["mini"], limit, seed=seed),
            "mini_cute": [MINI_CUTE[name].as_task(limit, seed=seed) for name in columns["mini_cute"]],
            "paper": benchmarks.tasks(columns["paper"], limit, data=data),
            "cute": cute.tasks(columns["cute"], limit, data=data) if columns["cute"] else []}
    home = {(group, task.name): task for group, tasks_ in made.items() for task in tasks_}
    return [replace(home[key], name="/".join(key), config=home[key].config | {"task": "/".join(key)}) for key in wanted]
