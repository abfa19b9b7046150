"""A notebook as two files: the percent script that people edit, and the .ipynb beside it that they read.

The script is the source. The .ipynb is written from it, takes its outputs from a run, and carries nothing that changes
by itself: cell ids are hashes of the sources, counts run from 1, no times, no versions. Whether two files agree is a
question of content (cell type, source, tags), never of dates.
"""

import ast
import hashlib
import re
from collections import Counter
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dbyte.atomic import atomic_write

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
NAME = re.compile(r"\d\d_\w+")
INJECTED = "injected-parameters"  # the tag papermill gives to the cell it adds


def tags(cell: NotebookNode) -> tuple[str, ...]:
    """Return the cell's tags, sorted."""
    return tuple(sorted(cell.metadata.get("tags", [])))


def find_scripts(folder: Path, *, only: str | None = None) -> tuple[Path, ...]:
    """Return the notebooks' scripts, `NN_name.py`, in order; `only` picks some by number or name.

    only: such as `01` or `01,02_stage2_byte_sft`. Raises FileNotFoundError where the folder holds none, ValueError
    where `only` names what is not there.
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


def _with_stable_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Set each cell's id to a hash of its type and source, so that an edit changes one id and a run none."""
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
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    cells = [make[cell.cell_type](cell.source, metadata={"tags": list(tags(cell))} if tags(cell) else {})
             for cell in source.cells]
    return nbformat.v4.new_notebook(
        cells=_with_stable_ids(cells), metadata={"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})


def with_outputs(source: NotebookNode, *, executed: NotebookNode) -> NotebookNode:
    """Return `source` with the outputs that `executed` has for the same cells; a cell that changed keeps none."""
    # Ids anew: JupyterLab or a hand may have given others. On a copy: the caller's notebook stays as it is.
    ran = _with_stable_ids([cell for cell in nbformat.from_dict(executed).cells if INJECTED not in tags(cell)])
    outputs = {cell.id: cell for cell in ran if cell.cell_type == "code"}
    result = nbformat.from_dict(source)
    for count, cell in enumerate((cell for cell in result.cells if cell.cell_type == "code"), start=1):
        if (same := outputs.get(cell.id)) is not None and same.execution_count is not None:
            # Standard error names this machine's temporary files; the executed notebook keeps it.
            cell.outputs = [nbformat.from_dict(output) for output in same.outputs if output.get("name") != "stderr"]
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    return result


def differences(script: NotebookNode, paired: NotebookNode) -> list[str]:
    """Return how the two differ in cell types, sources and tags, one line a cell; empty where they agree."""
    found = []
    if len(script.cells) != len(paired.cells):
        found.append(f"the script has {len(script.cells)} cells, the .ipynb {len(paired.cells)}")
    for index, (one, other) in enumerate(zip(script.cells, paired.cells, strict=False)):
        for what, left, right in (("type", one.cell_type, other.cell_type), ("tags", tags(one), tags(other)),
                                  ("source", one.source.strip(), other.source.strip())):
            if left != right:
                found.append(f"cell {index}: its {what} differs ({str(left)[:60]!r} and {str(right)[:60]!r})")
    return found


def read_notebook(path: Path) -> NotebookNode:
    """Return an .ipynb; raises ValueError naming the file where it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {error}; write it again with: python -m dbyte notebooks --write"
                         ) from error


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write the notebook, whole or not at all; raises nbformat.ValidationError where it is none."""
    nbformat.validate(notebook)
    atomic_write(path, nbformat.writes(notebook) + "\n")


def sync(script: Path) -> bool:
    """Write the .ipynb beside the script if it differs, keeping the outputs of unchanged cells; True where it wrote."""
    source, paired = read_script(script), script.with_suffix(".ipynb")
    if paired.exists():
        if not differences(source, read_notebook(paired)):
            return False
        source = with_outputs(source, executed=read_notebook(paired))
    write_notebook(paired, source)
    return True


def parameters(notebook: NotebookNode, *, name: str) -> dict[str, object]:
    """Return the notebook's parameters with their defaults, from the one cell tagged `parameters`.

    papermill only warns about what would make a parameter have no effect; here each is a ValueError that calls the
    notebook `name`: no such cell or two, anything but `word = literal` in it, and a parameter that no later cell reads.
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
    if unread := sorted(set(found) - {node.id for node in names if isinstance(node.ctx, ast.Load)}):
        raise ValueError(f"{name}: nothing reads the parameter {', '.join(unread)}: use it or remove it")
    return found
