"""Download the wheels that dbyte's notebooks need on a machine without network, but for those it has.

    python launch/wheels.py launch/gpu_machine.txt FOLDER

Versions are those installed here.
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYTHON = "3.12"  # of that machine, which is x86-64 Linux
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]
SOURCES = ("rouge-score", "sqlitedict", "word2number")  # PyPI has no wheels of these: they are made here
NOT_RUN_THERE = ("jupyterlab", "nbconvert")  # of the extra `notebooks`
TARGET = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux",
          "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
          "implementation_name": "cpython", "platform_python_implementation": "CPython"}


def plain(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(requirements: list[str], has: set[str]) -> dict[str, str]:
    """The version, by name, of every package that these require, directly or not, and that is not in `has`."""
    found: dict[str, str] = {}
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        one, extra = waiting.pop()
        name = plain(one.name)
        if name in has or name in found or (one.marker and not one.marker.evaluate(TARGET | {"extra": extra})):
            continue
        installed = importlib.metadata.distribution(one.name)
        found[name] = installed.version
        waiting += [(Requirement(each), extra) for each in installed.requires or ()
                    for extra in ("", *one.extras)]
    return found


def main() -> None:
    """Fill the folder, and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("has", type=Path, help="a file of package names")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    lines = arguments.has.read_text(encoding="utf-8").splitlines()
    has = {plain(name) for line in lines if not line.startswith("#") for name in line.split()}
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [each for extra in ("notebooks", "teachers", "lora")
                                        for each in project["optional-dependencies"][extra]]
    wanted = [each for each in wanted if plain(Requirement(each).name) not in NOT_RUN_THERE]
    chosen = needed(wanted, has)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    there = ["--python-version", PYTHON, "--implementation", "cp", *(f"--platform={each}" for each in PLATFORMS)]
    there = ["download", "--only-binary=:all:", *there, "--dest"]
    for sources, how in ((False, there), (True, ["wheel", "--wheel-dir"])):
        pinned = [f"{name}=={version}" for name, version in sorted(chosen.items()) if (name in SOURCES) == sources]
        if pinned:
            subprocess.run([sys.executable, "-m", "pip", how[0], "--quiet", "--no-deps", *how[1:],
                            str(arguments.folder), *pinned], check=True)
    size = sum(path.stat().st_size for path in arguments.folder.glob("*.whl"))
    print(f"{len(chosen)} packages, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
