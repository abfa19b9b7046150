"""Check that docs/notebooks.md, what each notebook costs, reads and writes, agrees with the notebooks; or write it.

    python docs/notebooks.py [--write]

What a notebook reads and writes stands in its own code. Minutes and memory are those that the runner measured, at the
scale whose outputs the committed notebook shows.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from math import nan
from pathlib import Path

from dbyte.atomic import up_to_date
from dbyte.paths import NOTEBOOKS, RESULTS, ROOT
from dbyte_paper.pairing import find_scripts, home_scale, needs, read_script
from dbyte_paper.reproduce import TIMES
from dbyte_paper.results import read_if_any

PAGE = ROOT / "docs" / "notebooks.md"
ANY = "*"  # in a name: what only a run knows
UNTRACKED = ("smoke",)  # scales whose minutes are those of whoever looks


@cache
def code(script: Path) -> ast.Module:
    """Return a notebook's code cells as one program."""
    return ast.parse("\n".join(cell.source for cell in read_script(script).cells if cell.cell_type == "code"))


def calls(program: ast.Module, function: str) -> Iterator[ast.Call]:
    """Yield the calls of a function by the name that the notebook uses, such as `record.read`."""
    yield from (node for node in ast.walk(program)
                if isinstance(node, ast.Call) and ast.unparse(node.func) == function)


def texts(node: ast.expr, program: ast.Module) -> set[str]:
    """Return the texts that an expression may be: constants, f-strings with `*`, and what names stand for."""
    if isinstance(node, ast.Constant):
        return {str(node.value)}
    if isinstance(node, ast.JoinedStr):
        return {"".join(part.value if isinstance(part, ast.Constant) else ANY for part in node.values)}
    if isinstance(node, ast.BinOp):  # the last part of a path
        return texts(node.right, program)
    found = set()
    for each in ast.walk(program) if isinstance(node, ast.Name) else ():
        if isinstance(each, ast.Assign) and node.id in {ast.unparse(target) for target in each.targets}:
            found |= texts(each.value, program)
        if isinstance(each, ast.FunctionDef) and node.id in (names := [one.arg for one in each.args.args]):
            for call in calls(program, each.name):
                found |= texts(call.args[names.index(node.id)], program)
    return found or {ANY}


def named(script: Path, function: str, place: int) -> set[str]:
    """Return the texts that a notebook gives to a function at a place of its arguments."""
    program = code(script)
    return set().union(*(texts(call.args[place], program) for call in calls(program, function)))


def results(script: Path) -> set[str]:
    """Return the names of the results that a notebook writes, results/<scale>/NAME.csv."""
    return named(script, "record", 0)


def pictures(script: Path) -> set[str]:
    """Return the names of the figures that a notebook draws, figures/<scale>/NAME.png."""
    drawn = named(script, "figures.save", 1) | named(script, "figures.write_png", 1)
    return {name.removesuffix(".png") for name in drawn}


def reads(script: Path) -> set[str]:
    """Return what a notebook reads that it has not made: results of others, printed tables, variables."""
    found = {"all results" if name == ANY else f"`{name}`"
             for name in named(script, "record.read", 0) - results(script)}
    for call in (*calls(code(script), "published"), *calls(code(script), "tables.published")):
        found |= {f"`published/{name}`" for name in texts(call.args[0], code(script))}
    if list(calls(code(script), "byte_interface.published")):
        found.add("`published/interface`")
    text = script.read_text(encoding="utf-8")
    found |= {f"`{name}`" for name in re.findall(r"`dbyte_paper/(published/\w+)\.toml`", text)}
    return found | {f"`{name}`" for name in re.findall(r"\$DBYTE_\w+", text)}


def listed(names: set[str], mark: str = "") -> str:
    """Return names as a cell of the table, in order, each between two marks."""
    return ", ".join(f"{mark}{name}{mark}" for name in sorted(names))


def what(script: Path) -> str:
    """Return the cells of a notebook's row that follow from its own code: what it builds on, reads and writes."""
    return (f"| {listed(needs(script))} | {listed(reads(script))} | {listed(results(script), '`')} | "
            f"{listed(pictures(script), '`')} |")


def cost(script: Path, *, folder: Path) -> str:
    """Return the cells of its scale, minutes and memory; empty where they were not measured."""
    scale = home_scale(script)
    times = None if scale in UNTRACKED else read_if_any(TIMES, scale=scale, folder=folder)
    row = {} if times is None else times.set_index("notebook").to_dict("index").get(script.stem, {})
    cells = [row.get("value", nan) / 60, row.get("peak_GB", nan)]
    return " | ".join(["", scale, *("" if number != number else f"{number:.1f}" for number in cells), ""]).lstrip()


def page(scripts: tuple[Path, ...], *, folder: Path = RESULTS) -> str:
    """Return docs/notebooks.md as it should be now; folder: where results/ is."""
    rows = ["| notebook | scale | minutes | GB | builds on | reads | writes results | draws |",
            "|---|---|---:|---:|---|---|---|---|"]
    rows += [f"| [{script.stem}](../notebooks/{script.stem}.ipynb) {cost(script, folder=folder)}{what(script)[2:]}"
             for script in scripts]
    return "\n\n".join((
        "# What each notebook costs, reads and writes",
        "<!-- written from the notebooks and results/ by `python docs/notebooks.py --write` -->",
        "Every notebook reads the corpora of its scale (`python -m dbyte scales show SCALE`) and the models in "
        "`runs/`; it trains those that are not there. `builds on` are the notebooks whose models it loads. Results "
        "go to `results/<scale>/NAME.csv` with their sources in `NAME.json`, figures to `figures/<scale>/NAME.png`; "
        "`*` is filled in by the run. `published/` is what the papers print, in `dbyte_paper/`.",
        "Minutes are those of its longest run by `python -m dbyte reproduce`, which may have loaded models, and GB the "
        "most memory that its kernel held at once; the memory of a GPU is not in it. An empty cell was not measured at "
        "the scale whose outputs the committed notebook shows. The device is in `results/<scale>/notebook_times.json`.",
        "\n".join(rows))) + "\n"


def notebooks(*, write: bool, path: Path = PAGE) -> bool:
    """Return whether docs/notebooks.md agrees with notebooks and results; with `write` it is made to."""
    return up_to_date(path, page(find_scripts(NOTEBOOKS)), write=write)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="write the page where it differs")
    agrees = notebooks(write=parser.parse_args().write)
    print(f"docs/notebooks.md {'is up to date' if agrees else 'differs: run `python docs/notebooks.py --write`'}")
    sys.exit(0 if agrees else 1)
