"""Corpora behind one name: documents that are deduplicated, split by document, ordered by a seed, and hashed.

    world                          the built-in world, endless: max_bytes says how much
    world_full                     the same with what all columns of MiniBench need
    echoes, lookups                pairs of words said again, and lists of letters: to learn to look back, endless too
    pydocs                         documentation strings of the standard library and of installed packages: real prose
    file:PATH                      a .txt, a .jsonl ({"text": ...} a line) or a folder of them
    hub:NAME[:CONFIG][@REVISION]   a dataset of the Hugging Face hub, or a local folder in its layout, streamed:
                                   max_bytes says how much (the paper, arXiv 2602.01007, trains on FineWeb)

One rule splits every corpus: a document is held out iff the SHA-256 of its text, white space collapsed, falls on one of
a few residues of a hundred. It depends on nothing else, so the splits never overlap, whatever the corpus, seed or size.
Of a stream that has no end the first max_bytes of the split are read and then ordered; all else is ordered, then cut.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from dbyte.tasks.world.full import WORLDS

CHOICES = "world, world_full, echoes, lookups, pydocs, file:PATH, hub:NAME"
SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 3


@dataclass(frozen=True)
class Corpus:
    """The documents of one split of a corpus, in the order of its seed."""

    name: str
    split: str
    documents: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, found {self.split!r}")
        if not self.documents:
            raise ValueError(f"the {self.split} split of corpus {self.name!r} is empty: give more text (about "
                             f"{HELDOUT_PERCENT} % of the documents are held out)")

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(len(text.encode()) for text in self.documents)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the documents in their order."""
        digest = hashlib.sha256(b"corpus 1")
        for text in self.documents:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


def load_corpus(name: str, *, split: str = "train", seed: int = 0, max_bytes: int | None = None) -> Corpus:
    """Load one split of a corpus, whole documents up to `max_bytes` UTF-8 bytes (None: all; refused for endless ones).

    The seed orders the documents; of a finite corpus a larger max_bytes gives the same documents and more after them.
    Raises ValueError for an unknown name, a bad argument, damaged or empty input; FileNotFoundError for a missing path;
    ConnectionError where the hub cannot be reached.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes must be positive or None, found {max_bytes}")
    scheme, _, place = name.partition(":")
    if name in WORLDS or (scheme == "hub" and place):
        if max_bytes is None:
            raise ValueError(f"corpus {name!r} has no end in reach: say how much to read, e.g. max_bytes=16_000_000")
        stream = hub_stream(place) if scheme == "hub" else WORLDS[name](seed=seed, max_bytes=sys.maxsize)
        texts = tuple(in_order(up_to(of_split(stream, split), max_bytes=max_bytes, name=name), seed=seed))
    elif name == "pydocs" or (scheme == "file" and place):
        stream = pydocs_stream() if name == "pydocs" else file_stream(place)
        texts = tuple(up_to(in_order(of_split(stream, split), seed=seed), max_bytes=max_bytes, name=name))
    else:
        raise ValueError(f"unknown corpus {name!r}: expected one of {CHOICES}")
    return Corpus(name=name, split=split, documents=texts)


def check_files(names: Iterable[str]) -> None:
    """Raise as `load_corpus` would where one of these corpora has no file to read, without reading any."""
    from dbyte.text.files import readable_files

    for name in names:
        scheme, _, place = name.partition(":")
        if scheme == "file" and place:
            readable_files(place)


def pydocs_stream() -> Iterable[str]:
    """The documentation strings of this installation."""
    from dbyte.text.pydocs import load_pydocs

    return load_pydocs()


def file_stream(place: str) -> Iterator[str]:
    """The documents of a file or folder."""
    from dbyte.text.files import file_documents

    return file_documents(place)


def hub_stream(place: str) -> Iterator[str]:
    """The documents of a dataset of the hub."""
    from dbyte.text.hub import hub_documents

    return hub_documents(place)


def fingerprint(text: str) -> bytes:
    """SHA-256 of a text with its white space collapsed: equal for texts that count as the same document."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def of_split(texts: Iterable[str], split: str) -> Iterator[str]:
    """The documents of one split: not blank, the first of those that are the same, held out by their fingerprint."""
    seen = set()
    for text in texts:
        mark = fingerprint(text)
        held_out = int.from_bytes(mark, "big") % 100 < HELDOUT_PERCENT
        if held_out == (split == "heldout") and mark not in seen and text.strip():
            seen.add(mark)
            yield text


def in_order(texts: Iterable[str], *, seed: int) -> list[str]:
    """The texts in the order of a hash of seed and text, whatever order they came in."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed} ".encode() + text.encode()).digest())


def up_to(texts: Iterable[str], *, max_bytes: int | None, name: str) -> Iterator[str]:
    """Whole documents while they fit into max_bytes together; ValueError if not even the first does."""
    total = 0
    for text in texts:
        before, total = total, total + len(text.encode())
        if max_bytes is not None and total > max_bytes:
            if before == 0:
                raise ValueError(f"max_bytes={max_bytes} is less than the first document of corpus {name!r} ({total})")
            return
        yield text
