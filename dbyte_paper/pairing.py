"""A notebook as two files: the percent script that people edit, and the .ipynb next to it that they read.

The script is the source. The .ipynb is written from it and takes its outputs from a run, with the cell by which
papermill set that run's parameters: so it shows what its outputs were made with. Nothing in it changes by itself: cell
ids are hashes of the sources, counts run from 1, and it holds no times. Two files agree if their cells, except that
one, have the same types, sources and tags; dates do not matter.
"""

import ast
import hashlib
import re
from collections import Counter
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dbyte.atomic import atomic_write
from dbyte.paths import COMMITTED_SCALE

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
NAME = re.compile(r"\d\d_\w+")
INJECTED = "injected-parameters"  # the tag papermill gives to the cell it adds


def tags(cell: NotebookNode) -> tuple[str, ...]:
    """Return the cell's tags, sorted."""
    return tuple(sorted(cell.metadata.get("tags", [])))


def find_scripts(folder: Path, *, only: str | None = None) -> tuple[Path, ...]:
    """Return the notebooks' scripts, `NN_name.py`, in order; `only` picks some, such as `01,02_stage2_byte_sft`.

    Raises FileNotFoundError where the folder holds none, ValueError where `only` names what is not there.
    """
    scripts = tuple(path for path in sorted(folder.glob("*.py")) if NAME.fullmatch(path.stem))
    if not scripts:
        raise FileNotFoundError(f"no notebooks NN_name.py in {folder}: run in a checkout of dbyte or set $DBYTE_ROOT")
    if only is None:
        return scripts
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    known = {path.stem for path in scripts} | {path.stem[:2] for path in scripts}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        choices = ", ".join(path.stem for path in scripts)
        raise ValueError(f"no notebook {', '.join(unknown) or repr(only)}: expected some of {choices}")
    return tuple(path for path in scripts if path.stem in wanted or path.stem[:2] in wanted)


def needs(script: Path) -> frozenset[str]:
    """Return the numbers of the notebooks that this one builds on, from `needs` under `dbyte` in the script's header.

    There stands a list of numbers, or `all` for every earlier notebook. Needs only set an order: run by itself, a
    notebook trains what it finds untrained. Raises ValueError for anything but earlier notebooks.
    """
    declared = _header(script).get("needs", [])
    earlier = {path.stem[:2] for path in find_scripts(script.parent) if path.stem[:2] < script.stem[:2]}
    if declared == "all":
        return frozenset(earlier)
    if not isinstance(declared, list) or not all(isinstance(number, str) and number in earlier for number in declared):
        raise ValueError(f"{script.stem}: `needs` must be `all` or a list of earlier notebooks in quotes, some of "
                         f"{sorted(earlier)}, found {declared!r}")
    return frozenset(declared)


def home_scale(script: Path) -> str:
    """Return the scale whose outputs the committed .ipynb shows: `scale` under `dbyte` in the header, or the usual."""
    return _header(script).get("scale", COMMITTED_SCALE)


def _header(script: Path) -> dict:
    """What stands under `dbyte` in a script's header."""
    import jupytext

    return jupytext.read(script, fmt="py:percent").metadata.get("dbyte") or {}


def _with_stable_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Set each cell's id to a hash of its type and source: an edit changes one id, a run none."""
    seen = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return cells


def read_script(script: Path) -> NotebookNode:
    """Return the percent script as a notebook without outputs, ids stable, kernel `python3`."""
    import jupytext

    source = jupytext.read(script, fmt="py:percent")
    for cell in source.cells:
        cell.metadata = {"tags": list(tags(cell))} if tags(cell) else {}
    metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=_with_stable_ids(source.cells), metadata=metadata)


def with_outputs(source: NotebookNode, *, executed: NotebookNode) -> NotebookNode:
    """Return `source` with the outputs that `executed` has for the same cells; a cell that changed keeps none.

    papermill's cell of parameters comes along as a raw cell, which is shown and not run: who opens the notebook runs
    its own defaults. jupytext's own combination would keep a changed cell's outputs, too.
    """
    # JupyterLab may have given other ids. deepcopy, so the caller's notebooks stay as they are.
    ran = _with_stable_ids(deepcopy(executed.cells))
    outputs = {cell.id: cell.outputs for cell in ran if cell.get("execution_count") is not None}
    result = deepcopy(source)
    given = [nbformat.v4.new_raw_cell(one.source, metadata=dict(tags=[INJECTED]))
             for one in ran if INJECTED in tags(one)]
    result.cells = _with_stable_ids([each for cell in result.cells
                                     for each in ([cell, *given] if "parameters" in tags(cell) else [cell])])
    for count, cell in enumerate((cell for cell in result.cells if cell.cell_type == "code"), start=1):
        if cell.id in outputs:
            # Standard error names this machine's temporary files; only the executed notebook keeps it.
            cell.outputs = [output for output in outputs[cell.id] if output.get("name") != "stderr"]
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    return result


def mismatches(script: NotebookNode, paired: NotebookNode) -> list[str]:
    """Return how the two differ in cell types, tags and sources, one line per cell; empty where they agree.

    The .ipynb may have one cell more: papermill's, right below that of the parameters.
    """
    found = []
    cells = [cell for above, cell in pairwise([*paired.cells[:1], *paired.cells])
             if not ("parameters" in tags(above) and tags(cell) == (INJECTED,))]
    if len(script.cells) != len(cells):
        found.append(f"the script has {len(script.cells)} cells, the .ipynb {len(cells)}")
    for index, (one, other) in enumerate(zip(script.cells, cells, strict=False)):
        left = (one.cell_type, tags(one), one.source.strip())
        right = (other.cell_type, tags(other), other.source.strip())
        if left != right:
            found.append(f"cell {index} differs: {str(left)[:70]} in the script, {str(right)[:70]} in the .ipynb")
    return found


def read_notebook(path: Path) -> NotebookNode:
    """Return an .ipynb; raises ValueError naming the file where it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {error}; write it again: python -m dbyte notebooks --write"
                         ) from error


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write the notebook, whole or not at all; raises nbformat.ValidationError where it is none."""
    nbformat.validate(notebook)
    atomic_write(path, nbformat.writes(notebook) + "\n")


def sync(script: Path) -> bool:
    """Write the .ipynb if it differs from the script, keeping the outputs of unchanged cells; True where it wrote."""
    source = read_script(script)
    paired = script.with_suffix(".ipynb")
    if paired.exists():
        if not mismatches(source, read_notebook(paired)):
            return False
        source = with_outputs(source, executed=read_notebook(paired))
    write_notebook(paired, source)
    return True


def parameters(notebook: NotebookNode, *, name: str) -> dict[str, object]:
    """Return the notebook's parameters with their defaults, from the one cell tagged `parameters`.

    papermill only warns where a parameter would have no effect. Here it is a ValueError that calls the notebook `name`:
    no such cell or two, anything but `word = literal` in it, and a parameter that no later cell reads.
    """
    tagged = [index for index, cell in enumerate(notebook.cells) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        raise ValueError(f"{name}: expected one cell tagged `parameters`, found {len(tagged)}")
    found = {}
    for line in ast.parse(notebook.cells[tagged[0]].source).body:
        try:
            (target,) = line.targets
            found[target.id] = ast.literal_eval(line.value)
        except (AttributeError, ValueError) as error:
            raise ValueError(f"{name}: the parameters cell may only hold lines `word = literal`, "
                             f"found {ast.unparse(line)!r}") from error
    code = "\n".join(cell.source for cell in notebook.cells[tagged[0] + 1:] if cell.cell_type == "code")
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    unread = sorted(set(found) - {node.id for node in names if isinstance(node.ctx, ast.Load)})
    if unread:
        raise ValueError(f"{name}: nothing reads the parameter {', '.join(unread)}: use it or remove it")
    return found
