"""The package: exact pins that agree everywhere, a light import, declared dependencies, data inside the wheel."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("dbyte", "dbyte_paper", "dbyte_tasks")
HEAVY = ("gguf", "peft", "triton", "mamba_ssm", "causal_conv1d", "lm_eval", "datasets", "matplotlib")
# environment.yml follows conda-forge's kernel builds here, not pyproject.toml: mamba-ssm is built there for pytorch
# 2.10, causal-conv1d and triton come along with that pytorch.
CONDA_DIFFERS = {"torch": "2.10.*", "mamba-ssm": "2.3.1"}
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
CONDA_ONLY = {"python", "cuda-version", "pip", "einops"}  # einops: conda's mamba-ssm asks for it
MODULE_OF = {"lm-eval": "lm_eval", "huggingface-hub": "huggingface_hub", "mamba-ssm": "mamba_ssm",
             "causal-conv1d": "causal_conv1d"}
OPTIONAL = {"gguf_file.py": "teachers", "adapters.py": "lora"}  # module -> the extra that it imports
# What only the extra `notebooks` can run.
NOTEBOOK_MODULES = {"execution.py", "miniature.py", "pairing.py", "reproduce.py"}


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def pins(requirements):
    """Return name -> version, asserting that each requirement is exactly `name==version` (and perhaps a marker)."""
    found = {}
    for requirement in requirements:
        if requirement.startswith("dbyte["):
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)(;.*)?", requirement)
        assert match, f"{requirement!r} is not an exact pin"
        found[name_of(requirement)] = match[2]
    return found


CORE = pins(PROJECT["dependencies"])
EXTRAS = {extra: pins(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}
EVERY = CORE | {name: version for extra in EXTRAS.values() for name, version in extra.items()}


def run(*command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)


def test_pins_are_exact_and_the_extras_exist():
    assert {"cuda", "dev", "notebooks"} <= EXTRAS.keys()
    assert sum(map(len, [CORE, *EXTRAS.values()])) == len(EVERY), "a package is pinned twice"
    assert "dbyte[notebooks]" in PROJECT["optional-dependencies"]["dev"]


def test_constraints_pin_the_rest_exactly_and_repeat_nothing():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    constraints = pins(lines)
    assert len(constraints) == len(lines) > 50
    assert not constraints.keys() & EVERY.keys(), "pinned in pyproject.toml, and only there"


def test_environment_yml_agrees_with_pyproject():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    conda = {}
    for entry in (entry for entry in dependencies if isinstance(entry, str)):
        name, _, version = entry.partition("=")
        conda[CONDA_NAMES.get(name, name)] = version.split("=")[0]
    assert conda.pop("causal-conv1d") == "", "left to the solver"
    shared = {name: version for name, version in (conda | pins(pip)).items() if name not in CONDA_ONLY}
    assert {name: shared[name] for name in CONDA_DIFFERS} == CONDA_DIFFERS
    assert shared | CONDA_DIFFERS == {name: EVERY[name] for name in shared} | CONDA_DIFFERS
    assert CORE.keys() | EXTRAS["notebooks"].keys() | EXTRAS["dev"].keys() <= shared.keys()


def test_makefile_installs_torch_first_and_at_the_pin():
    outside = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}  # `make test` runs this test
    shown = run("make", "-n", "-B", "test", "TORCH_INDEX=https://index", cwd=ROOT, env=outside).stdout
    first = shown.index(f"--index-url https://index -c constraints.txt torch=={CORE['torch']}\n")
    assert first < shown.index("-c constraints.txt -e '.[dev]'") < shown.index("-m pytest")


@pytest.mark.parametrize(("scale", "jobs"), [("my_run.toml", 1), ("small", 1), ("smoke", 2)])
def test_make_hands_any_scale_to_reproduce(scale, jobs):
    outside = {name: value for name, value in os.environ.items() if name != "MAKEFLAGS"}
    shown = run("make", "-n", "reproduce", f"SCALE={scale}", "ONLY=01", "SEED=3", cwd=ROOT, env=outside).stdout
    assert f"-m dbyte reproduce --scale {scale} --seed 3 --jobs {jobs} --only 01\n" in shown


@pytest.mark.parametrize(("program", "says"), [
    ("import dbyte", ""),
    ("from dbyte.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass", "reproduce")])
def test_import_and_help_are_light_and_need_no_network(program, says):
    begin = ("import socket, sys\n"
             "def refuse(*_): raise OSError('no network here')\n"
             "socket.socket.connect = socket.getaddrinfo = refuse\n")
    end = f"\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    answer = run(sys.executable, "-c", begin + program + end, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    assert says in answer.stdout and answer.stdout.strip().endswith("[]"), f"it loads {answer.stdout}"


def imported(path):
    """Return the top-level names of everything a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


@pytest.mark.parametrize("path", sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")),
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_code_imports_is_declared(path):
    declared = CORE | EXTRAS["cuda"] | (EXTRAS["notebooks"] if path.name in NOTEBOOK_MODULES else {})
    declared |= EXTRAS[OPTIONAL[path.name]] if path.name in OPTIONAL else {}
    undeclared = imported(path) - {MODULE_OF.get(name, name) for name in declared}
    undeclared -= {"IPython"} if "ipykernel" in declared else set()  # it comes with ipykernel
    assert not undeclared, f"{path.name} imports {undeclared}, which pyproject.toml does not declare for it"


def test_no_tracked_file_is_large():
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("no git checkout, so no list of tracked files: their sizes are not checked; run from a clone")
    files = [ROOT / name for name in listed.stdout.splitlines()]
    large = {path.name: path.stat().st_size for path in files if path.is_file() and path.stat().st_size > 4 * 2**20}
    assert not large


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    (source / "README.md").write_text("# dbyte\n")
    for name in ("pyproject.toml", "setup.py", "LICENSE", "dbyte_lm_eval.py"):
        shutil.copy(ROOT / name, source)
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    answer = run(sys.executable, "-c", program, cwd=source)
    assert answer.returncode == 0, answer.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_all_of_the_packages_the_notebooks_and_the_entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        entry = archive.read(next(name for name in packed if name.endswith("entry_points.txt"))).decode()
    files = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    files |= {f"dbyte_paper/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.py")}
    assert files <= packed, f"missing in the wheel: {sorted(files - packed)}"
    assert not [name for name in packed if name.startswith("tests") or name.endswith(".pth")]
    assert "dbyte = dbyte.__main__:main" in entry and "dbyte-lm-eval = dbyte_lm_eval:main" in entry


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment that holds this wheel, and whatever this interpreter has but dbyte."""
    folder = tmp_path_factory.mktemp("environment")
    assert run(sys.executable, "-m", "venv", "--without-pip", str(folder)).returncode == 0
    programs = folder / "bin"
    where = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    # A line of a .pth adds the folder; the .pth files in it, such as the one of an editable dbyte, are not read.
    (Path(where) / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    answer = run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index",
                 "--no-compile", "--quiet", "--ignore-installed", wheel)  # of others, whose dbyte pip would take for it
    assert answer.returncode == 0, answer.stderr
    return programs


def outside(programs, folder, *command, timeout=600):
    """Run a program of the environment in a folder outside any checkout."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DBYTE_ROOT")}
    return subprocess.run([programs / command[0], *command[1:]], cwd=folder, env=clean, capture_output=True, text=True,
                          timeout=timeout)


def test_an_installed_wheel_has_its_notebooks_and_data_outside_a_checkout(installed, tmp_path):
    code = ("from dbyte import paths; from dbyte_paper import pairing, published; "
            "print(paths.ROOT, len(pairing.find_scripts(paths.NOTEBOOKS)), len(published.tables()), paths.__file__)")
    answer = outside(installed, tmp_path, "python", "-c", code)
    assert answer.returncode == 0, answer.stderr
    root, scripts, tables, file = answer.stdout.split()
    assert Path(root) == tmp_path and int(tables) == 13 and not Path(file).is_relative_to(ROOT)
    assert int(scripts) == len(list((ROOT / "notebooks").glob("[0-9][0-9]_*.py")))
    listed = outside(installed, tmp_path, "dbyte", "scales")
    assert listed.returncode == 0 and "smoke" in listed.stdout


@pytest.mark.exhaustive
def test_an_installed_wheel_reproduces_a_notebook_outside_a_checkout(installed, tmp_path):
    small = ["--set", "teacher.train_bytes=20e3", "--set", "items=4"]
    answer = outside(installed, tmp_path, "dbyte", "reproduce", "--scale", "smoke", "--only", "00", *small, timeout=900)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (facts,) = tmp_path.glob("results/smoke-*/teacher.json")
    assert json.loads(facts.read_text())["commit"] == "unknown", "a wheel does not know its commit"
    assert list(tmp_path.glob("runs/notebooks/*/00_teacher.ipynb"))
    assert not list(Path(installed.parent).rglob("*.ipynb")), "nothing is written into the environment"
