"""Tokens and bytes: which bytes a token stands for, and where in a text each token ends.

A token of a byte-level BPE stands for a fixed byte string. The bytes of a text are the joined bytes of its tokens, so a
token ends where the running sum of their lengths says. These ends are the teacher's chunk boundaries (the paper, arXiv
2602.01007, section 4.1). This is exact for every text.
Deviation: the authors' code uses character offsets, which give all tokens of one split character the same place and so
lose tokens; offsets are never used here.

The target text is the text after the tokenizer's own normaliser. None and the canonical normalisers (NFC, NFD) are
accepted; any other is an error, since it changes what the text says (see exact.py). Special tokens that are written out
in a text are plain text; added tokens that are not special stay the teacher's tokens.

Shapes: L bytes, M tokens, V vocabulary.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from dbyte.text.exact import (
    UTF8_BYTES,
    byte_strings,
    document_tokens,
    private_backend,
    tokenizer_name,
    why_not_exact,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BOS, EOS = 254, 255  # bytes that UTF-8 never uses
RESERVED = (0xC0, 0xC1, *range(0xF5, 0x100))  # all of those: BOS, EOS, and room for a chat template (chat.py)
TEXTS_PER_CALL = 256


def is_special(byte_ids: torch.Tensor) -> torch.Tensor:
    """True for RESERVED bytes, each of which stands for a token that is not text."""
    return (byte_ids >= RESERVED[2]) | ((byte_ids | 1) == RESERVED[1])


def listed(data: bytes) -> str:
    """Bytes in hexadecimal, at most nine of them and the number of the rest: "0x04, 0xF1"."""
    return ", ".join(f"0x{byte:02X}" for byte in data[:9]) + (f" and {len(data) - 9} more" if len(data) > 9 else "")


def utf8(text: str) -> bytes:
    """The bytes of a text; ValueError that says where it holds a lone surrogate, which UTF-8 cannot encode."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                         f"{error.start}, which UTF-8 cannot encode; clean it, e.g. with "
                         'text.encode("utf-8", "replace").decode()') from error


@dataclass(frozen=True)
class Aligned:
    """A text as tokens and as bytes.

    token_ids: int64 [M]; byte_ids: int64 [L], 0..253; boundary: bool [L], True at the last byte of each token.
    """

    token_ids: torch.Tensor
    byte_ids: torch.Tensor
    boundary: torch.Tensor

    def __post_init__(self) -> None:
        assert self.byte_ids.shape == self.boundary.shape, (self.byte_ids.shape, self.boundary.shape)
        # Counted by numpy: documents are many and short, and a tensor's sum costs as much as tokenising some words.
        assert np.count_nonzero(self.boundary.numpy()) == len(self.token_ids), "one boundary a token"


@dataclass(frozen=True)
class TokenBytes:
    """The byte string of every token id of a byte-level BPE, and the aligner built on it.

    token_bytes: V byte strings by id, empty for special tokens and unused ids.
    bos_token_id, eos_token_id: the teacher's tokens that the bytes BOS and EOS stand for.
    backend: the tokenizer; without one the table decodes, but neither aligns nor normalises.
    """

    token_bytes: tuple[bytes, ...] = field(repr=False)
    bos_token_id: int
    eos_token_id: int
    name: str = field(default="token bytes", compare=False)
    backend: "Tokenizer | None" = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for label, token_id in (("bos_token_id", self.bos_token_id), ("eos_token_id", self.eos_token_id)):
            if not 0 <= token_id < len(self.token_bytes):
                raise ValueError(f"{self.name}: {label} {token_id} is not an id of {len(self.token_bytes)} tokens")

    @classmethod
    def from_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase") -> "TokenBytes":
        """Build the table from a transformers tokenizer; ValueError, with the reason, if it cannot be byte-exact."""
        name = tokenizer_name(tokenizer)
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            refusal = "it has no fast backend"
        else:
            specification = json.loads(tokenizer.backend_tokenizer.to_str())
            refusal = why_not_exact(specification)
        if refusal:
            raise ValueError(f"{name} is not byte-exact: {refusal}. Use a teacher with a byte-level BPE tokenizer, as "
                             "the Llama 3, Qwen and OLMo 2 families have.")
        bos_token_id, eos_token_id = document_tokens(tokenizer, name)
        table = cls(tuple(byte_strings(tokenizer, specification)), bos_token_id, eos_token_id, name=name,
                    backend=private_backend(tokenizer.backend_tokenizer))
        # That special tokens are plain text is the one thing that the specification alone cannot promise. So each is
        # aligned as it may be written out: alone, inside a word, between spaces.
        added = [token["content"] for token in specification["added_tokens"]]
        forms = [form.format(content) for content in added for form in ("{}", "a{}b", " {0} \n{0}")]
        table.align_batch(list(filter(table.can_spell, forms)))
        if table.missing_bytes:
            # one text from one place, without the tokenizer's path: so Python shows it once
            warnings.warn(f"the tokenizer has no token for {listed(table.missing_bytes)}: a text with such a byte is "
                          "refused, and left out of training", stacklevel=1)
        return table

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes of each token: int64 [V]."""
        return np.fromiter(map(len, self.token_bytes), dtype=np.int64, count=len(self.token_bytes))

    @cached_property
    def single_bytes(self) -> frozenset[int]:
        """The bytes that are tokens by themselves."""
        return frozenset(token[0] for token in self.token_bytes if len(token) == 1)

    @cached_property
    def missing_bytes(self) -> bytes:
        """The bytes of UTF-8 that the tokenizer has no token for: no text with one of them can be aligned."""
        return bytes(byte for byte in UTF8_BYTES if byte not in self.single_bytes)

    def can_spell(self, text: str) -> bool:
        """Whether the tokenizer has a token for every byte of a text."""
        return not self.missing_bytes or not any(byte in self.missing_bytes for byte in set(text.encode()))

    def check_bytes(self, data: bytes) -> None:
        """Raise ValueError for a byte that the tokenizer has no token for."""
        if foreign := set(data) - self.single_bytes:
            at = min(map(data.index, foreign))
            raise ValueError(f"the text holds the byte 0x{data[at]:02X} at byte {at}, which {self.name} has no token "
                             f"for: remove it from {data[max(at - 30, 0) : at + 10]!r}")

    def spelled(self, texts: Sequence[str]) -> list[str]:
        """The training texts that the tokenizer can spell; prints how many others are left out."""
        kept = [text for text in texts if self.can_spell(text)]
        if len(kept) != len(texts):
            print(f"{len(texts) - len(kept)} of {len(texts)} documents hold a byte that {self.name} has no token for "
                  f"({listed(self.missing_bytes)}); they are left out", flush=True)
        return kept

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the table and of what BOS and EOS stand for."""
        digest = hashlib.sha256(f"token_bytes 1 {self.bos_token_id} {self.eos_token_id}".encode())
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.lengths)])
        digest.update(offsets.astype("<i8").tobytes())
        digest.update(b"".join(self.token_bytes))
        return digest.hexdigest()

    def tokenizer(self) -> "Tokenizer":
        """`backend`; ValueError for a table without one."""
        if self.backend is None:
            raise ValueError("this table has no tokenizer, so it can decode but not align or normalise; build it with "
                             "TokenBytes.from_tokenizer(tokenizer)")
        return self.backend

    def normalise(self, text: str) -> str:
        """The target text: `text` after the tokenizer's own normaliser; ValueError for what no token can spell."""
        if not isinstance(text, str):
            raise ValueError(f"expected a str, found {type(text).__name__}; decode bytes as UTF-8 first")
        data = utf8(text)
        if self.missing_bytes:
            self.check_bytes(data)
        normaliser = self.tokenizer().normalizer
        # ASCII is in every canonical form, and other normalisers are errors.
        return text if normaliser is None or text.isascii() else normaliser.normalize_str(text)

    def align(self, text: str) -> Aligned:
        """Tokenise `text`, without BOS or EOS, and mark the last byte of every token.

        The joined bytes of the tokens are checked against `normalise(text)`. Raises ValueError for a lone surrogate,
        or where the tokenizer turns out to drop or change bytes of this text.
        """
        return self.align_batch([text])[0]

    def align_batch(self, texts: Sequence[str]) -> list[Aligned]:
        """`align` every text, in order, tokenised in the backend's parallel batches."""
        starts = range(0, len(texts), TEXTS_PER_CALL)
        return [aligned for start in starts for aligned in self._align_some(texts[start : start + TEXTS_PER_CALL])]

    def _align_some(self, texts: Sequence[str]) -> Iterator[Aligned]:
        # Normalised before encoding: added tokens split the text first, and normalising the pieces alone could differ
        # where a combining mark follows an added token. Normalising twice changes nothing.
        normalised = [self.normalise(text) for text in texts]
        targets = [text.encode() for text in normalised]
        encodings = self.backend.encode_batch_fast(normalised, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        for text_ids, target in zip(ids, targets, strict=True):
            self._check(text_ids, target)
        # All texts of the call go through one set of array operations: most texts are short.
        token_ids_M = np.fromiter(chain.from_iterable(ids), dtype=np.int64)
        ends_M = np.cumsum(self.lengths[token_ids_M])
        byte_ids_L = np.frombuffer(b"".join(targets), dtype=np.uint8).astype(np.int64)
        boundary_L = np.zeros(len(byte_ids_L), dtype=bool)
        boundary_L[ends_M - 1] = True
        byte_counts = list(map(len, targets))
        token_counts = list(map(len, ids))
        yield from map(Aligned, torch.from_numpy(token_ids_M).split(token_counts),
                       torch.from_numpy(byte_ids_L).split(byte_counts), torch.from_numpy(boundary_L).split(byte_counts))

    def _check(self, token_ids: list[int], target: bytes) -> None:
        """Raise ValueError where the bytes of tokens are not those of their text."""
        joined = b"".join(map(self.token_bytes.__getitem__, token_ids))
        if joined != target:
            at = len(os.path.commonprefix([joined, target]))
            raise ValueError(f"{self.name} is not byte-exact for this text: from byte {at} its tokens join to "
                             f"{joined[at : at + 16]!r}, the text has {target[at : at + 16]!r}; use a teacher with "
                             "another tokenizer, or drop the text")

    def decode(self, token_ids: Iterable[int]) -> bytes:
        """The bytes that a sequence of token ids stands for; ValueError for an id outside the table."""
        ids = [int(token_id) for token_id in token_ids]
        for token_id in ids:
            if not 0 <= token_id < len(self):
                raise ValueError(f"token id {token_id} is outside 0..{len(self) - 1}, the ids of {self.name}")
        return b"".join(self.token_bytes[token_id] for token_id in ids)
