"""Text beyond a scale's corpora: Python source, other scripts, tables and mail; and corpora made of it.

A corpus made here is a .jsonl in runs/data, named by its content, which a scale names as `file:PATH`.
"""

import ast
import hashlib
import json
import os
import sysconfig
import tokenize
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path

from dbyte import paths
from dbyte.atomic import atomic_write
from dbyte.presets import Scale
from dbyte.text.corpus import load_corpus
from dbyte.text.files import file_documents, readable_files
from dbyte.text.pydocs import SKIPPED_FOLDERS

OWN = tomllib.loads((files("dbyte_paper") / "own_texts.toml").read_text(encoding="utf-8"))  # "tables" and "mail"
SCRIPTS = "DBYTE_SCRIPTS"  # the variable that names a folder with a text file for each script or language
OF_CODE = "DBYTE_CODE"  # the variable that names a folder of source in .txt files, in place of the standard library
PIECE = 1000  # characters of a document, as lines
TRAINED = 2 / 3  # of each file of a script: its first pieces; a student is read on the others
TENTH = 0.1  # of the training text: other scripts
ASCII = 0.01  # share of bytes beyond ASCII up to which a text is none of another script
MARGIN = 1.1  # of the text that is asked for, since some of it is held out
Corpora = tuple[tuple[str, int], ...]  # as in `Scale`


def pieces(text: str, *, characters: int = PIECE) -> list[str]:
    """The text as documents: as many whole lines as fit into `characters`; a longer line is one by itself."""
    found = [""]
    for line in text.splitlines(keepends=True):
        if found[-1] and len(found[-1]) + len(line) > characters:
            found.append("")
        found[-1] += line
    return [piece.strip("\n") for piece in found if piece.strip()]


def first(texts: Sequence[str], *, max_bytes: int) -> list[str]:
    """The first texts that together fit into `max_bytes`, at least one."""
    found = []
    for text in texts:
        max_bytes -= len(text.encode())
        if found and max_bytes < 0:
            break
        found.append(text)
    return found


def in_turn(groups: Sequence[Sequence[str]]) -> list[str]:
    """The first text of each group, then the second of each, and so on."""
    return [text for text in chain.from_iterable(zip_longest(*groups)) if text is not None]


def as_corpus(kind: str, texts: Sequence[str]) -> str:
    """Write texts as a corpus in runs/data, once, and return its name for a scale."""
    body = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path = paths.RUNS / "data" / f"{kind}-{hashlib.sha256(body.encode()).hexdigest()[:16]}.jsonl"
    if not path.exists():
        atomic_write(path, body)
    return f"file:{path}"


# -- Python source ----------------------------------------------------------------------------------------------------


def without_docstrings(source: str) -> str:
    """Python source without the lines of its documentation strings, which are prose; "" where it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return ""
    lines: list[str | None] = source.split("\n")
    for node in ast.walk(tree):
        if (isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and ast.get_docstring(node, clean=False) is not None):
            told = node.body[0]
            lines[told.lineno - 1 : told.end_lineno] = [None] * (told.end_lineno - told.lineno + 1)
    return "\n".join(line for line in lines if line is not None)


def standard_library() -> Iterator[str]:
    """The sources of the standard library without their documentation strings, in an order that no folder decides."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - SKIPPED_FOLDERS
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    for path in sorted(found, key=lambda each: hashlib.sha256(each.relative_to(root).as_posix().encode()).digest()):
        try:
            with tokenize.open(path) as file:
                yield without_docstrings(file.read())
        except (SyntaxError, ValueError):
            continue


@lru_cache(maxsize=2)
def code_corpus(max_bytes: int) -> str:
    """The name of a corpus of the standard library's source, with `max_bytes` of training text or all that there is.

    Documentation strings are left out: they are the corpus pydocs, and prose that is read must not stand in code that
    was trained on.
    """
    texts: list[str] = []
    total = 0
    for source in standard_library():
        texts += (found := pieces(source))
        total += sum(len(text.encode()) for text in found)
        if total > MARGIN * max_bytes:
            break
    return as_corpus("code", texts)


# -- other scripts ----------------------------------------------------------------------------------------------------


def scripts() -> dict[str, tuple[list[str], list[str]]]:
    """For each file of the folder $DBYTE_SCRIPTS (training pieces, pieces to read); {} where that is not set.

    A file with too little text for both is left out. Raises as `readable_files`.
    """
    found = {}
    for path in readable_files(os.environ[SCRIPTS]) if os.environ.get(SCRIPTS) else ():
        cut = pieces("\n".join(file_documents(path)), characters=PIECE // 2)
        end = round(TRAINED * len(cut))
        if 0 < end < len(cut):
            found[path.stem] = cut[:end], cut[end:]
    return found


def beyond_ascii(texts: Sequence[str]) -> float:
    """The share of UTF-8 bytes that are no ASCII, 0 to 1."""
    text = "".join(texts).encode()
    return sum(byte >= 0x80 for byte in text) / len(text)


def others(found: dict[str, tuple[list[str], list[str]]]) -> list[str]:
    """The names of those of `scripts` that are more than ASCII."""
    return [name for name, both in found.items() if beyond_ascii(both[1]) > ASCII]


def mixed_corpora(corpora: Corpora, found: dict[str, tuple[list[str], list[str]]]) -> tuple[Corpora, Corpora]:
    """(plain, mixed): corpora of equal bytes, the second with a tenth of the training pieces of other scripts.

    Of both there is as much as the scripts are a tenth of, but no more than of `corpora`.
    """
    name = as_corpus("scripts", in_turn([found[script][0] for script in others(found)]))
    given = sum(amount for _, amount in corpora)
    total = min(given, round(load_corpus(name).text_bytes / TENTH))

    def share(part: float) -> Corpora:
        return tuple((each, round(part * total * amount / given)) for each, amount in corpora)

    return share(1.0), (*share(1 - TENTH), (name, round(TENTH * total)))


# -- kinds of text ----------------------------------------------------------------------------------------------------


def heldout(corpora: Corpora, *, seed: int, max_bytes: int) -> list[str]:
    """Held-out documents of several corpora in turn, up to `max_bytes` of each."""
    return in_turn([load_corpus(name, split="heldout", seed=seed, max_bytes=max_bytes).documents
                    for name, _ in corpora])


def kinds(scale: Scale, *, seed: int) -> dict[str, list[str]]:
    """What a student may meet after training, by kind: held-out prose, code, tables, mail, and other languages if any.

    Code is that in the folder $DBYTE_CODE, or the standard library's. Of each kind a quarter of `heldout_bytes`.
    """
    if place := os.environ.get(OF_CODE):
        code = pieces("\n".join(file_documents(place)))
    else:
        code = load_corpus(code_corpus(10 * scale.heldout_bytes), split="heldout", seed=seed).documents
    texts = {"prose": heldout(scale.corpora, seed=seed, max_bytes=scale.heldout_bytes), "code": code, **OWN}
    read = scripts()
    if elsewhere := others(read):
        texts["other languages"] = in_turn([read[name][1] for name in elsewhere])
    return {kind: first(each, max_bytes=scale.heldout_bytes // 4) for kind, each in texts.items()}
