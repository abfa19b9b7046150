"""The house: imports go down only, what is fast stays at the edge, and the pages refer to nothing that is not here."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from dbyte.paths import ROOT

GROUND = ("presets", "scale_file", "paths", "version", "atomic", "device", "memory")
TASKS = "dbyte_tasks"  # a package of its own: MiniBench and its world need nothing of dbyte
PAPER = "dbyte_paper"  # a package of its own: the pages of the paper are made from results of dbyte
# From the bottom to the top. A module imports lower floors and its own folder; folders of one floor do not see each
# other. The face is what `import dbyte` and `python -m dbyte` load.
FLOORS = (GROUND, ("kernels", TASKS), ("text",), ("model",), ("byte_probabilities",), ("decode",), ("distill",),
          ("transfer",), ("native",), ("evaluate",), ("plan",), (PAPER,), ("commands",), ("__init__", "__main__"))
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
SLOW = ("model", "distill", "text")  # folders that hold the readable reference only
LINES = 80  # of a function at most
TEXTS = (".py", ".cpp", ".hpp", ".md", ".toml", ".yaml", "")

SOURCES = {path.relative_to(folder).with_suffix("").as_posix().replace("/", "."): path
           for folder, within in ((ROOT / "dbyte", "."), (ROOT, TASKS), (ROOT, PAPER))
           for path in sorted((folder / within).rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


def module_of(name: str) -> str | None:
    """The module of ours that a dotted name is in: 'dbyte.text.spans.BOS' -> 'text.spans'; None for other packages."""
    package = name.split(".")[0]
    if package not in ("dbyte", TASKS, PAPER):
        return None
    inner = name if package != "dbyte" else name.removeprefix("dbyte").removeprefix(".")
    for candidate in (inner, f"{inner}.__init__" if inner else "__init__"):
        if candidate in SOURCES:
            return candidate
    return module_of(name.rpartition(".")[0])


@cache
def imports(module: str, *, types: bool = True) -> frozenset[str]:
    """What a module imports of ours, at the top, in a function and, with `types`, under TYPE_CHECKING."""
    names = set()
    only_types = {id(inner) for node in ast.walk(tree(module)) if isinstance(node, ast.If)
                  and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" for inner in ast.walk(node)}
    for node in ast.walk(tree(module)):
        if not types and id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found for name in names if (found := module_of(name)) and found != module)


def room(module: str) -> str:
    """The folder of a module, or its name where it lies directly in dbyte/."""
    return module.split(".")[0]


def functions(module: str):
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_room_has_a_floor():
    assert {room(module) for module in SOURCES} <= set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR, key=FLOOR.get))
def test_a_room_imports_lower_floors_only(name):
    upward = [f"{module} -> {other}" for module in SOURCES if room(module) == name for other in imports(module)
              if room(other) != name and FLOOR[room(other)] >= FLOOR[name] and name not in GROUND]
    assert not upward


def test_the_tasks_import_nothing_of_dbyte():
    assert not [f"{module} -> {other}" for module in SOURCES if room(module) == TASKS
                for other in imports(module) if room(other) != TASKS]


def test_the_ground_imports_nothing_but_the_ground():
    assert not [f"{module} -> {other}" for module in SOURCES if module in GROUND
                for other in imports(module) if other not in GROUND]


def test_no_module_imports_itself_through_others():
    try:
        TopologicalSorter({module: imports(module, types=False) for module in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_readable_folder_takes_a_flag_for_compiled_code():
    assert not [f"{module}.{function.name}" for module in SOURCES if room(module) in SLOW
                for function in functions(module)
                for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
                if argument.arg == "compiled"]


def test_no_object_is_given_another_class():
    assert not [module for module in SOURCES for node in ast.walk(tree(module))
                if isinstance(node, ast.Attribute) and node.attr == "__class__" and isinstance(node.ctx, ast.Store)]


def test_no_function_is_longer_than_a_page():
    assert not [f"{module}.{function.name}" for module in SOURCES for function in functions(module)
                if function.end_lineno - function.lineno >= LINES]


def test_no_docstring_leans_on_its_neighbour():
    leaning = re.compile(r"The same\b|As [`a-z_]+`|Like `|Ditto")
    assert not [f"{module}.{node.name}" for module in SOURCES for node in ast.walk(tree(module))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and leaning.match(ast.get_docstring(node) or "")]


def test_no_text_refers_to_a_design_page_that_is_not_here():
    word = "DESIGN" + " "
    folders = [ROOT / name for name in (
        "dbyte", PAPER, TASKS, "docs", "notebooks", "tests", "benchmarks", "launch", ".ci")]
    texts = [path for folder in folders for path in folder.rglob("*") if path.suffix in TEXTS and path.is_file()]
    texts += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml",
                                   "environment.yml")]
    assert not [path for path in texts if word in path.read_text(encoding="utf-8", errors="ignore")]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md",
                                  *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_a_page_names_files_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    ours = r"`((?:dbyte|dbyte_paper|dbyte_tasks|tests|benchmarks|launch|docs)/[\w./]+)`"
    named = re.findall(ours, text) if page != "docs/log.md" else []
    missing = [name for name in links if not (ROOT / page).parent.joinpath(name).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("given, found", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_import_dbyte_makes_threads_wait_asleep_and_leaves_the_environment_else(given, found):
    code = ("import os, sys; before = dict(os.environ); import dbyte; assert 'torch' not in sys.modules; "
            f"assert dict(os.environ) == before | {{'OMP_WAIT_POLICY': '{found}'}}, os.environ; import torch; "
            "print(torch.__config__.parallel_info())")
    bare = {"PYTHONPATH": str(ROOT)}  # what the process of the tests has set already would not be seen to change
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare | given | {"OMP_DISPLAY_ENV": "true"},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{found}'" in done.stderr, "what OpenMP itself has read"
