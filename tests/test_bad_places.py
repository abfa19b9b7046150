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


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    if not shutil.which(READ_ONLY[0]) or subprocess.run([*READ_ONLY, tmp_path, "true"], capture_output=True).returncode:
        pytest.skip("what is said of a read-only place goes unchecked: none can be mounted here (needs Linux's unshare "
                    "and user namespaces)")
    command = [sys.executable, "-m", "dbyte", "report", "--scale", "smoke", "--write"]
    environment = os.environ | {"DBYTE_ROOT": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*READ_ONLY, tmp_path, *command], env=environment, cwd=ROOT, capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "Read-only file system" in done.stderr and str(tmp_path) in done.stderr
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
