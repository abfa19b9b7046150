"""Folders that cannot be written, clocks that jump, and what each notebook says before it runs."""

import ast
import os
import shutil
import subprocess
import sys

import pytest
from test_house import SOURCES, tree

from dbyte.paths import NOTEBOOKS, ROOT
from dbyte_paper.pairing import find_scripts, parameters, read_script

READ_ONLY = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"']


@pytest.mark.parametrize(("folder", "command"), [
    (".", ["report", "--scale", "smoke", "--write"]), ("runs", ["reproduce", "--scale", "smoke", "--only", "00"]),
    ("results", ["reproduce", "--scale", "smoke", "--only", "00"]),
    ("figures", ["reproduce", "--scale", "smoke", "--only", "00"])])
def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path, folder, command):
    """And before anything is trained."""
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    if not shutil.which(READ_ONLY[0]) or subprocess.run([*READ_ONLY, place, "true"], capture_output=True).returncode:
        pytest.skip("what is said of a read-only place goes unchecked: none can be mounted here (needs Linux's unshare "
                    "and user namespaces)")
    if folder != ".":
        (tmp_path / "notebooks").symlink_to(NOTEBOOKS)
    environment = os.environ | {"DBYTE_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*READ_ONLY, place, sys.executable, "-m", "dbyte", *command], env=environment, cwd=ROOT,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "Read-only file system" in done.stderr and str(place) in done.stderr
    assert "set $DBYTE_ROOT to a folder whose runs/, results/ and figures/ can be written" in done.stderr


def test_no_module_reads_a_clock_that_can_jump():
    """Times are differences of the monotonic clock, so a clock that is set changes no run, checkpoint or result."""
    jumping = {"time.time", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
    found = [f"{module}: {ast.unparse(node)}" for module in SOURCES for node in ast.walk(tree(module))
             if isinstance(node, ast.Attribute) and ast.unparse(node) in jumping]
    assert not found


@pytest.mark.parametrize("script", find_scripts(NOTEBOOKS), ids=lambda path: path.stem)
def test_a_notebook_says_what_it_costs_and_takes_a_scale_and_a_seed(script):
    notebook = read_script(script)
    opening = notebook.cells[0].source
    assert "**Cost:**" in opening, "what a reader wants to know before running it"
    assert {"scale", "seed"} <= parameters(notebook, name=script.stem).keys()
