"""The package: exact pins that agree everywhere, a light import, declared dependencies, data inside the wheel."""

import ast
import os
import re
import shutil
import subprocess
import sys
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
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


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


def test_the_wheel_holds_all_of_the_package_and_the_entry_point(tmp_path):
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    (source / "README.md").write_text("# dbyte\n")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    program = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    answer = run(sys.executable, "-c", program, cwd=source)
    assert answer.returncode == 0, answer.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        entry = archive.read(next(name for name in packed if name.endswith("entry_points.txt"))).decode()
    files = {str(path.relative_to(source)) for name in PACKAGES for path in (source / name).rglob("*")
             if path.is_file()}
    assert files <= packed, f"missing in the wheel: {sorted(files - packed)}"
    assert not [name for name in packed if name.startswith("tests")]
    assert "dbyte = dbyte.__main__:main" in entry
