"""The papers' own numbers, read from published/*.csv, so that none of them is typed twice."""

from importlib.resources import files

import pandas as pd

SOURCE = "arXiv 2602.01007"


def tables() -> tuple[str, ...]:
    """Return the names that `published` knows, in the paper's order."""
    folder = files("dbyte.report") / "published"
    return tuple(sorted(file.name.removesuffix(".csv") for file in folder.iterdir() if file.name.endswith(".csv")))


def published(name: str) -> pd.DataFrame:
    """Return one published table as printed; `.attrs["source"]` cites it, such as `arXiv 2602.01007, Table 1`.

    name: one of `tables()`, such as `table01_main`. Raises ValueError for any other.
    """
    if name not in tables():
        raise ValueError(f"unknown published table {name!r}: expected one of {', '.join(tables())}")
    with (files("dbyte.report") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        frame = pd.read_csv(file)
    frame.attrs["source"] = f"{SOURCE}, Table {int(name[len('table'):][:2])}"
    return frame
