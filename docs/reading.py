"""Check that docs/reading.md, the library in an evening, agrees with docs/reading.toml and today's lines; or write it.

    python docs/reading.py [--write]

docs/reading.toml has the path as a list `sitting` (title, about, and a list `file` of path, adds, source) and a table
`skip`: what files of the path import and a reader may skip, a file or a folder with its slash -> why.
"""

import argparse
import sys
import tomllib
from pathlib import Path

from dbyte.atomic import up_to_date
from dbyte.paths import ROOT

LIBRARY = ROOT / "dbyte"
DATA = ROOT / "docs" / "reading.toml"
PAGE = ROOT / "docs" / "reading.md"
SOURCES = (".py", ".cpp", ".hpp")


def load(path: Path = DATA) -> dict:
    """Return docs/reading.toml as plain data."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def count_lines(names: list[str]) -> int:
    """Return the lines of these files below dbyte/; FileNotFoundError where one is missing."""
    return sum(len((LIBRARY / name).read_text(encoding="utf-8").splitlines()) for name in names)


def library() -> list[str]:
    """Return the Python and C++ files below dbyte/, sorted."""
    return sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*") if path.suffix in SOURCES)


def files(sittings: list[dict]) -> list[str]:
    """Return the files of the sittings in order."""
    return [file["path"] for sitting in sittings for file in sitting["file"]]


def page(data: dict) -> str:
    """Return docs/reading.md as it should be now."""
    path = files(data["sitting"])
    parts = [
        "# The library in an evening",
        "<!-- written from docs/reading.toml by `python docs/reading.py --write` -->",
        f"{len(path)} files, {count_lines(path):,} lines of the library's {count_lines(library()):,}, in an order in "
        "which they explain one another. Sections, equations, tables and figures are those of the "
        "[paper](https://arxiv.org/abs/2602.01007). The letters at the end of a tensor's name are its shape: "
        "`chunk_BME` has B rows, M chunks, width E. Most files begin with theirs."]
    for number, sitting in enumerate(data["sitting"], 1):
        parts += [f"## {number}. {sitting['title']} ({count_lines(files([sitting])):,} lines)", sitting["about"]]
        rows = ["| file | what it adds | in the paper | lines |", "|---|---|---|---:|"]
        for file in sitting["file"]:
            name = file["path"]
            source = file.get("source", "")
            rows.append(f"| [{name}](../dbyte/{name}) | {file['adds']} | {source} | {count_lines([name])} |")
        parts.append("\n".join(rows))
    parts += ["## What may be skipped", "The files above import these:",
              "\n".join(f"- `{name}`: {why}" for name, why in data["skip"].items())]
    return "\n\n".join(parts) + "\n"


def reading(*, write: bool, path: Path = PAGE) -> bool:
    """Return whether docs/reading.md agrees with the code; with `write` it is made to."""
    return up_to_date(path, page(load()), write=write)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="write the page where it differs")
    agrees = reading(write=parser.parse_args().write)
    print(f"docs/reading.md {'is up to date' if agrees else 'differs: run `python docs/reading.py --write`'}")
    sys.exit(0 if agrees else 1)
