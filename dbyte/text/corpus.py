"""Corpora by name: documents that are deduplicated, split by document, ordered by a seed, and hashed.

    world                          the built-in world, endless: max_bytes says how much
    world_full                     the world with everything that the columns of MiniBench need, endless
    echoes, lookups                repeated pairs of words, and lists of letters: they teach to look back, endless
    one_person                     the world told of one person, so that no name comes as a surprise, endless
    pydocs                         documentation strings of the standard library and of installed packages: real prose
    file:PATH                      a .txt, a .jsonl ({"text": ...} a line) or a folder of them
    hub:NAME[:CONFIG][@REVISION]   a dataset of the Hugging Face hub, or a local folder in its layout, streamed:
                                   max_bytes says how much (the paper, arXiv 2602.01007, trains on FineWeb)

One rule splits every corpus: a document is held out if the SHA-256 of its text, with white space collapsed, leaves one
of a few remainders modulo 100. It depends on nothing else, so the splits never overlap, whatever the corpus, seed or
size. Of an endless corpus the first max_bytes of the split are read and then ordered; any other corpus is ordered
first, and then its first max_bytes are taken.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from dbyte.text.files import file_documents
from dbyte.text.hub import streamed, texts_of
from dbyte.text.pydocs import load_pydocs
from dbyte_tasks.world.full import WORLDS

CHOICES = "world, world_full, echoes, lookups, one_person, pydocs, file:PATH, hub:NAME"
SPLITS = ("train", "heldout")
HELDOUT_PERCENT = 3


@dataclass(frozen=True)
class Corpus:
    """The documents of one split of a corpus, in the order of its seed."""

    name: str
    split: str
    documents: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
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
    """Load one split of a corpus: complete documents, up to `max_bytes` UTF-8 bytes (None: all of a finite corpus).

    The seed orders the documents. A larger max_bytes of a finite corpus gives the same documents and more after them.
    Raises ValueError for an unknown name, a bad argument, or damaged or empty input, FileNotFoundError for a missing
    path, and ConnectionError where the hub cannot be reached.
    """
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes must be positive or None, found {max_bytes}")
    scheme, _, place = name.partition(":")
    if name in WORLDS or (scheme == "hub" and place):
        if max_bytes is None:
            raise ValueError(f"corpus {name!r} is too large to read to its end: say how much to read, e.g. "
                             "max_bytes=16_000_000")
        stream = (chain.from_iterable(texts_of(streamed(place), place)) if scheme == "hub"
                  else WORLDS[name](seed=seed, max_bytes=sys.maxsize))
        texts = tuple(in_order(up_to(of_split(stream, split), max_bytes=max_bytes, name=name), seed=seed))
    elif name == "pydocs" or (scheme == "file" and place):
        stream = load_pydocs() if name == "pydocs" else file_documents(place)
        texts = tuple(up_to(in_order(of_split(stream, split), seed=seed), max_bytes=max_bytes, name=name))
    else:
        raise ValueError(f"unknown corpus {name!r}: expected one of {CHOICES}")
    return Corpus(name=name, split=split, documents=texts)


def fingerprint(text: str) -> bytes:
    """SHA-256 of a text with its white space collapsed: equal for texts that count as the same document."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def of_split(texts: Iterable[str], split: str) -> Iterator[str]:
    """The documents of one split, chosen by their fingerprint: not blank, and the first of those with equal ones."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
    seen = set()
    for text in texts:
        mark = fingerprint(text)
        held_out = int.from_bytes(mark, "big") % 100 < HELDOUT_PERCENT
        if held_out == (split == "heldout") and mark not in seen and text.strip():
            seen.add(mark)
            yield text


def in_order(texts: Iterable[str], *, seed: int) -> list[str]:
    """The texts ordered by a hash of seed and text, so the order in which they came does not matter."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed} ".encode() + text.encode()).digest())


def up_to(texts: Iterable[str], *, max_bytes: int | None, name: str) -> Iterator[str]:
    """The first documents whose bytes together fit into max_bytes (None: all); ValueError if not even one fits."""
    total = 0
    for text in texts:
        before = total
        total += len(text.encode())
        if max_bytes is not None and total > max_bytes:
            if before == 0:
                raise ValueError(f"max_bytes={max_bytes} is less than the first document of corpus {name!r} ({total})")
            return
        yield text
