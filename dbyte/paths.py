"""The one place that knows where things are: every module and every notebook takes its folders from here.

The root is `$DBYTE_ROOT` if set, else the checkout that holds the working directory (so a notebook finds it from the
root, from `notebooks/` and in JupyterLab), else the checkout this package is installed from (an editable install),
else the working directory itself, with a warning.
"""

import os
import tomllib
import warnings
from pathlib import Path


def is_checkout(folder: Path) -> bool:
    """True where `folder` holds the pyproject.toml of this project; a damaged pyproject.toml counts as another's."""
    pyproject = folder / "pyproject.toml"
    try:
        return tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {}).get("name") == "dbyte"
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


def find_root(start: Path, *, package: Path) -> Path:
    """Return the project's root folder (absolute) as seen from the working directory `start`.

    package: the folder of the installed package. Raises FileNotFoundError where $DBYTE_ROOT is not a folder.
    """
    if chosen := os.environ.get("DBYTE_ROOT"):
        root = Path(chosen).expanduser().resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"$DBYTE_ROOT must name an existing folder, found {chosen!r}: make or unset it")
        return root
    start = start.resolve()
    for folder in (start, *start.parents, package.parent):
        if is_checkout(folder):
            return folder
    warnings.warn(f"no dbyte checkout around {start}: runs/, results/ and figures/ go there; set $DBYTE_ROOT to choose",
                  stacklevel=2)
    return start


PACKAGE = Path(__file__).resolve().parent
ROOT = find_root(Path.cwd(), package=PACKAGE)
SHIPPED = PACKAGE.parent / "dbyte_paper" / "notebooks"  # the scripts alone, in a wheel
NOTEBOOKS = ROOT / "notebooks"  # the percent scripts and their paired .ipynb
if SHIPPED.is_dir() and not NOTEBOOKS.is_dir():
    NOTEBOOKS = SHIPPED
COMMITTED_SCALE = "small"       # the scale whose results, figures and executed notebooks are tracked
RUNS = ROOT / "runs"            # checkpoints, packed rows, executed notebooks: never tracked
RESULTS = ROOT / "results"      # results/<scale>/: every number
FIGURES = ROOT / "figures"      # figures/<scale>/: drawn from results alone
