"""Real English prose without a download: the documentation strings of the standard library and of installed packages.

Sources are parsed, never imported. A documentation string is taken if it has MIN_BYTES and reads as prose: most of its
characters are letters or spaces, and few of its lines are interpreter sessions. Of strings that differ only in white
space one is taken. The packages are a fixed list of dependencies with much documentation, so other installed packages
do not change the corpus: it depends only on the versions of Python and of these packages.

The result is cached in `runs/data`, in a file named by these versions.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from dbyte import paths
from dbyte.atomic import atomic_write

PACKAGES = {  # import name -> distribution
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
MIN_BYTES = 200
MIN_LETTERS = 0.75  # share of letters and spaces among the characters: tables and formulas have less
MAX_SESSION = 0.25  # share of lines that are interpreter prompts
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # fields that hold statements, as a node orders them
FORMAT = {"format": "dbyte.pydocs", "schema": 1}


def load_pydocs(*, folder: Path | None = None) -> list[str]:
    """The documentation strings of this installation, sorted; cached in `folder` (None: runs/data)."""
    versions = installed_versions()
    key = hashlib.sha256(json.dumps([FORMAT, MIN_BYTES, MIN_LETTERS, MAX_SESSION, versions]).encode()).hexdigest()
    path = (folder or paths.RUNS / "data") / f"pydocs-{key[:16]}.jsonl"
    if path.exists():
        header, _, body = path.read_bytes().partition(b"\n")
        if f'"sha256": "{hashlib.sha256(body).hexdigest()}"'.encode() in header:
            return [json.loads(line)["text"] for line in body.splitlines()]
        warnings.warn(f"{path} is damaged: its content does not match its checksum; extracting the documentation "
                      "strings again", stacklevel=2)
    texts = unique(text for root in roots(versions) for text in docstrings(root))
    body = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    header = {**FORMAT, "versions": versions, "sha256": hashlib.sha256(body).hexdigest()}
    atomic_write(path, json.dumps(header).encode() + b"\n" + body)
    return texts


def installed_versions() -> dict[str, str]:
    """The version of Python and of each package of the list that is installed, by import name."""
    versions = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return versions


def roots(versions: dict[str, str]) -> Iterator[Path]:
    """The source folders of the standard library and of the installed packages, found without importing any."""
    yield Path(sysconfig.get_path("stdlib"))
    for name in sorted(versions.keys() & PACKAGES.keys()):
        specification = importlib.util.find_spec(name)
        yield from map(Path, specification.submodule_search_locations or [])


def docstrings(root: Path) -> Iterator[str]:
    """The prose among the documentation strings of all sources under a folder."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                yield from filter(is_prose, docstrings_of(Path(folder, name).read_bytes()))


def docstrings_of(source: bytes) -> Iterator[str]:
    """The documentation strings of a source's module, classes and functions; none if it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    for node in _with_blocks(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _with_blocks(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, in its order, but for expressions, in which most nodes are and no definition is."""
    left = deque([node])
    while left:
        node = left.popleft()
        yield node
        for field in BLOCKS:
            found = getattr(node, field, ())
            left.extend(found if isinstance(found, list) else ())  # the body of a lambda is no list


def is_prose(text: str) -> bool:
    """True for a text of at least MIN_BYTES that is mostly words, with few lines of interpreter sessions."""
    if len(text.encode(errors="replace")) < MIN_BYTES:  # as most are
        return False
    letters = sum(character.isalpha() or character == " " for character in text)
    lines = [line.lstrip() for line in text.split("\n") if line.strip()]
    prompts = sum(line.startswith((">>>", "...")) for line in lines)
    return letters >= MIN_LETTERS * len(text) and prompts <= MAX_SESSION * len(lines)


def unique(texts: Iterator[str]) -> list[str]:
    """The texts, sorted, without those that UTF-8 cannot encode; one of those that differ only in white space."""
    first: dict[str, str] = {}
    for text in texts:
        collapsed = " ".join(text.split())
        # The smallest, so that the order in which files are read does not matter.
        first[collapsed] = min(text, first.get(collapsed, text))
    return sorted(text for text in first.values() if text == text.encode(errors="ignore").decode())
