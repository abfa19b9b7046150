"""The papers' own numbers, read from published/*.csv, so that none of them is typed twice."""

from importlib.resources import files

import pandas as pd

SOURCE = "arXiv 2602.01007"


def tables() -> tuple[str, ...]:
    """Return the names that `published` knows, in the paper's order."""
    folder = files("dbyte.report") / "published"
    return tuple(sorted(file.name.removesuffix(".csv") for file in folder.iterdir()
                        if file.name.startswith("table") and file.name.endswith(".csv")))


def published(name: str, *, as_text: bool = False) -> pd.DataFrame:
    """Return one published table as printed; `.attrs["source"]` cites it, such as `arXiv 2602.01007, Table 1`.

    name: one of `tables()`, such as `table01_main`. as_text: cells as strings, "" where empty (72.90 stays 72.90).
    Raises ValueError for any other name.
    """
    if name not in tables():
        raise ValueError(f"unknown published table {name!r}: expected one of {', '.join(tables())}")
    frame = _read(name, as_text=as_text)
    frame.attrs["source"] = f"{SOURCE}, Table {number(name)}"
    return frame


def number(name: str) -> int:
    """Return the number that the paper gives the table `name`."""
    return int(name.removeprefix("table")[:2])


def quoted() -> pd.DataFrame:
    """Return the numbers that the paper's sentences quote, as text: id, where, what, relation (=, < or >), printed.

    table, line and column say where the same number stands in a table; they are empty where it stands in none.
    """
    return _read("quoted", as_text=True)


def _read(name: str, *, as_text: bool) -> pd.DataFrame:
    with (files("dbyte.report") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False) if as_text else pd.read_csv(file)
