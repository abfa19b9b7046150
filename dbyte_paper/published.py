"""What the paper prints, read from published/*.csv so that no number is typed twice, and the lists of checks."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import pandas as pd

SOURCE = "arXiv 2602.01007"
FOLDER = files("dbyte_paper") / "published"
KEYS = {"table01_main": ["method", "model", "role"], "table10_teacher_scale": ["student", "method"]}
SIDEWAYS = ("metric", "task")  # the first column of tables with one column per model


def tables() -> tuple[str, ...]:
    """Return the names that `published` knows, in the paper's order."""
    return tuple(sorted(file.name.removesuffix(".csv") for file in FOLDER.iterdir() if file.name.startswith("table")))


def published(name: str, *, as_text: bool = False) -> pd.DataFrame:
    """Return one published table as printed; `.attrs["source"]` cites it, such as `arXiv 2602.01007, Table 1`.

    name: one of `tables()`, such as `table01_main`. as_text: cells as strings, "" where empty (72.90 stays 72.90).
    Raises ValueError for any other name.
    """
    if name not in tables():
        raise ValueError(f"unknown published table {name!r}: expected one of {', '.join(tables())}")
    frame = _read(name, as_text=as_text).copy()
    frame.attrs["source"] = f"{SOURCE}, Table {number(name)}"
    return frame


@cache
def lines(name: str) -> Mapping[str, Mapping[str, str]]:
    """Return a published table as model -> column -> printed, whether models are its rows or its columns."""
    frame = published(name, as_text=True)
    if frame.columns[0] in SIDEWAYS:
        return frame.set_index(frame.columns[0]).to_dict()
    keys = KEYS.get(name, [frame.columns[0]])
    return {", ".join(row[key] for key in keys): row for row in frame.to_dict("records")}


def number(name: str) -> int:
    """Return the number that the paper gives the table `name`."""
    return int(name.removeprefix("table")[:2])


def quoted() -> pd.DataFrame:
    """Return the numbers that the paper's sentences quote, as text: id, where, what, relation (=, < or >), printed.

    table, line and column say where the same number stands in a table; they are empty where it stands in none.
    """
    return _read("quoted", as_text=True).copy()


def entries(file: str, name: str) -> list[dict] | dict:
    """Return the entries [[name]], or the table [name], of published/<file>.toml."""
    return _toml(file)[name]


@cache
def _toml(file: str) -> dict:
    return tomllib.loads((FOLDER / f"{file}.toml").read_text(encoding="utf-8"))


@cache  # a report reads a table dozens of times
def _read(name: str, *, as_text: bool) -> pd.DataFrame:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str, keep_default_na=False) if as_text else pd.read_csv(file)
