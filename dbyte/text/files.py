"""Documents from files: a .txt, a .jsonl, or a folder of them, read as strict UTF-8 with every byte kept.

A .txt is split into documents at blank lines. Each has as many paragraphs as fit into DOCUMENT_CHARACTERS; a longer
paragraph is a document of its own. Only line ends around a document are dropped. A .jsonl has one object per line with
the document under "text". A folder gives its .txt and .jsonl files at any depth, sorted by path. A relative path starts
at the working directory, or at the project's root if the working directory has nothing of that name.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dbyte.paths import ROOT

DOCUMENT_CHARACTERS = 4096
BLANK_LINES = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")


def readable_files(place: str | Path) -> list[Path]:
    """The .txt and .jsonl files at a path; ValueError if there are none, FileNotFoundError for a missing path."""
    path = Path(os.path.expandvars(place)).expanduser()
    if not path.exists():
        path = ROOT / path
    if not path.exists():
        meant = "" if (full := os.path.expandvars(place)) == str(place) else f" = {full}"
        raise FileNotFoundError(f"no file or folder {str(place)!r}{meant} (working directory {Path.cwd()}, root "
                                f"{ROOT}): put .txt or .jsonl files there, check the path after file:, or train on "
                                "another corpus (train --corpus NAME=BYTES)")
    paths = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    readable = [each for each in paths if each.suffix in (".txt", ".jsonl")]
    if not readable:
        raise ValueError(f"{path} holds no .txt or .jsonl file: convert the documents to one of these")
    return readable


def file_documents(place: str | Path) -> Iterator[str]:
    """The documents of a file or folder; FileNotFoundError for a missing path, ValueError for no or damaged text."""
    readers = {".txt": text_documents, ".jsonl": jsonl_documents}
    empty = True
    for path in readable_files(place):
        for text in readers[path.suffix](path):
            empty = False
            yield text
    if empty:
        raise ValueError(f"{place} holds no text: every .txt or .jsonl file in it is empty")


def read_utf8(path: Path) -> str:
    """The text of a file, line ends as they are; ValueError names the file and the first byte that is not UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte 0x{content[error.start]:02X} at offset {error.start} "
                         f"({error.reason}); convert the file, e.g. with iconv") from error


def text_documents(path: Path) -> list[str]:
    """The documents of a .txt: as many paragraphs as fit into DOCUMENT_CHARACTERS, split at blank lines."""
    text = read_utf8(path)
    start = 0
    last = None  # (start, end) of the last blank lines that the document so far could end at
    documents = []
    for blank in [*(match.span() for match in BLANK_LINES.finditer(text)), (len(text), len(text))]:
        if last is not None and blank[0] - start > DOCUMENT_CHARACTERS:
            documents.append(text[start : last[0]])
            start = last[1]
        last = blank
    documents.append(text[start:])
    return [each.strip("\r\n") for each in documents if each.strip()]


def jsonl_documents(path: Path) -> Iterator[str]:
    """The documents of a .jsonl without blank ones; ValueError names the file and line of a bad record."""
    # Not splitlines(): JSON strings may hold U+2028 and other line ends of Unicode as they are.
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path}, line {number}: expected {{"text": "..."}} with text that UTF-8 can hold, found '
                             f"{line[:60]!r} ({type(error).__name__}: {error}); repair or drop the line") from error
        if text.strip():
            yield text
