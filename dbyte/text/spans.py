"""Tokens against bytes: which bytes a token stands for, and where in a text each token ends.

A token of a byte-level BPE stands for a fixed byte string, so the bytes of a text are the joined bytes of its
tokens and a token ends where the running sum of their lengths says (DESIGN idea "text -> rows"; the paper,
arXiv 2602.01007, section 4.1, calls these ends the teacher's chunk boundaries). This is exact for every text.
Deviation: the authors' code goes through character offsets, which give all tokens of one split character the
same place and so lose tokens; offsets are never used here.

The target text is the text after the tokenizer's own normaliser. None and the canonical normalisers (NFC, NFD)
are accepted; a normaliser that changes what the text says is refused. Special tokens that are written out in a
text are plain text; added tokens that are not special stay the teacher's tokens.

Shapes: L bytes, M tokens, V vocabulary.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

BOS, EOS = 254, 255

# UTF-8 uses neither C0, C1 (overlong forms) nor F5..FF, which is what leaves 254 and 255 free.
UTF8_BYTES = (*range(0x00, 0xC0), *range(0xC2, 0xF5))
CANONICAL_NORMALISERS = frozenset({"NFC", "NFD"})
EXACT_PRE_TOKENIZERS = frozenset({"ByteLevel", "Split", "Digits", "Punctuation"})
TEXTS_PER_CALL = 256


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
    """The byte string of every token id of a byte-level BPE, and the aligner that rests on it.

    token_bytes: V byte strings by id, empty for special tokens and unused ids;
    bos_token_id, eos_token_id: the teacher's tokens that the bytes BOS and EOS stand for.
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
        """Build the table from a transformers tokenizer; ValueError names one that cannot be byte-exact, and why."""
        name = tokenizer_name(tokenizer)
        refusal = "it has no fast backend" if getattr(tokenizer, "backend_tokenizer", None) is None else None
        specification = None if refusal else json.loads(tokenizer.backend_tokenizer.to_str())
        refusal = refusal or why_not_exact(specification)
        if refusal:
            raise ValueError(
                f"{name} is not byte-exact: {refusal}. Use a teacher with a byte-level BPE tokenizer, as the Llama 3, "
                "Qwen and OLMo 2 families have."
            )
        bos_token_id, eos_token_id = document_tokens(tokenizer, name)
        table = cls(
            token_bytes=tuple(byte_strings(tokenizer, specification)),
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            name=name,
            backend=private_backend(tokenizer.backend_tokenizer),
        )
        # Special tokens are plain text: the one thing that the specification alone cannot promise.
        table.align_batch([probe for token in specification["added_tokens"] for probe in probes(token["content"])])
        return table

    def __len__(self) -> int:
        return len(self.token_bytes)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes of each token: int64 [V]."""
        return np.fromiter(map(len, self.token_bytes), dtype=np.int64, count=len(self.token_bytes))

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each token starts in `flat`, and the end of the last: int64 [V + 1]."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.lengths)])

    @cached_property
    def flat(self) -> np.ndarray:
        """The bytes of all tokens, one after the other: uint8."""
        return np.frombuffer(b"".join(self.token_bytes), dtype=np.uint8)

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no bytes: special tokens and unused ids."""
        return tuple(np.flatnonzero(self.lengths == 0).tolist())

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the table and of what BOS and EOS stand for."""
        digest = hashlib.sha256(f"token_bytes 1 {self.bos_token_id} {self.eos_token_id}".encode())
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.flat.tobytes())
        return digest.hexdigest()

    def normalise(self, text: str) -> str:
        """The target text: `text` after the tokenizer's own normaliser; ValueError for a lone surrogate."""
        if not isinstance(text, str):
            raise ValueError(f"expected a str, found {type(text).__name__}; decode bytes as UTF-8 first")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which "
                'UTF-8 cannot encode; clean it, e.g. with text.encode("utf-8", "replace").decode()'
            ) from error
        normaliser = self._require_backend().normalizer
        # ASCII is in every canonical form, and others are refused.
        return text if normaliser is None or text.isascii() else normaliser.normalize_str(text)

    def align(self, text: str) -> Aligned:
        """Tokenise `text`, without BOS or EOS, and mark the last byte of every token.

        The joined bytes of the tokens are checked against `normalise(text)`. Raises ValueError for a lone surrogate,
        or where the tokenizer turns out to drop or change bytes of this text.
        """
        return self.align_batch([text])[0]

    def align_batch(self, texts: Sequence[str]) -> list[Aligned]:
        """`align` of every text, in order, tokenised in the backend's parallel batches."""
        starts = range(0, len(texts), TEXTS_PER_CALL)
        return [aligned for start in starts for aligned in self._align_some(texts[start:start + TEXTS_PER_CALL])]

    def _align_some(self, texts: Sequence[str]) -> Iterator[Aligned]:
        # Normalised before encoding: added tokens cut the text first, and normalising the pieces alone could
        # differ where a combining mark follows one. A piece of normalised text is normalised already.
        texts, targets = zip(*map(self._target, texts), strict=True)
        encodings = self._encoder.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        # All texts of the call go through one set of array operations: most texts are short.
        byte_ids_L, boundary_L, token_ids_M = self._spans(ids, targets)
        byte_counts, token_counts = list(map(len, targets)), list(map(len, ids))
        yield from map(Aligned, token_ids_M.split(token_counts), byte_ids_L.split(byte_counts),
                       boundary_L.split(byte_counts))

    @cached_property
    def _encoder(self) -> "Tokenizer":
        """The backend for text that is normalised: without its normaliser, where added tokens do not need it."""
        from tokenizers import Tokenizer

        backend = self._require_backend()
        added = [token.content for token in backend.get_added_tokens_decoder().values()]
        if backend.normalizer is None or any(self.normalise(content) != content for content in added):
            return backend
        encoder = Tokenizer.from_str(backend.to_str())
        encoder.normalizer = None
        encoder.encode_special_tokens = backend.encode_special_tokens
        return encoder

    def _target(self, text: str) -> tuple[str, bytes]:
        target = self.normalise(text)
        return target, target.encode()

    def _spans(self, ids: list[list[int]], targets: list[bytes]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        token_ids_M = np.fromiter(chain.from_iterable(ids), dtype=np.int64, count=sum(map(len, ids)))
        lengths_M = self.lengths[token_ids_M]
        ends_M = np.cumsum(lengths_M)
        target_L = np.frombuffer(b"".join(targets), dtype=np.uint8)
        ends_by_text = np.concatenate([[0], ends_M])[np.cumsum([len(each) for each in ids])]
        same_edges = np.array_equal(ends_by_text, np.cumsum([len(target) for target in targets]))
        if not same_edges or not np.array_equal(self._join(token_ids_M, lengths_M, ends_M), target_L):
            raise ValueError(self._mismatch(ids, targets))
        assert lengths_M.all(), f"{self.name} tokenised text with a token that stands for none"
        boundary_L = np.zeros(len(target_L), dtype=bool)
        boundary_L[ends_M - 1] = True
        return torch.from_numpy(target_L.astype(np.int64)), torch.from_numpy(boundary_L), torch.from_numpy(token_ids_M)

    def _join(self, token_ids_M: np.ndarray, lengths_M: np.ndarray, ends_M: np.ndarray) -> np.ndarray:
        # Byte i of a token lies at its offset + i: one shift a token, repeated over its bytes, added to 0, 1, 2 ..
        shift_M = self.offsets[token_ids_M] - (ends_M - lengths_M)
        return self.flat[np.repeat(shift_M, lengths_M) + np.arange(lengths_M.sum())]

    def _mismatch(self, ids: list[list[int]], targets: list[bytes]) -> str:
        joined, target = next(
            (joined, target)
            for joined, target in zip(map(self.decode, ids), targets, strict=True)
            if joined != target
        )
        at = len(os.path.commonprefix([joined, target]))
        return (
            f"{self.name} is not byte-exact for this text: from byte {at} its tokens join to {joined[at:at + 16]!r}, "
            f"the text has {target[at:at + 16]!r}; use a teacher with another tokenizer, or drop the text"
        )

    def decode(self, token_ids: Iterable[int]) -> bytes:
        """The bytes that a sequence of token ids stands for; ValueError for an id outside the table."""
        ids = [int(token_id) for token_id in token_ids]
        wrong = [token_id for token_id in ids if not 0 <= token_id < len(self)]
        if wrong:
            raise ValueError(f"token id {wrong[0]} is outside 0..{len(self) - 1}, the ids of {self.name}")
        return b"".join(self.token_bytes[token_id] for token_id in ids)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """The table without its tokenizer: flat uint8, offsets int64 [V + 1], bos and eos int64 [1]."""
        return {
            "flat": torch.from_numpy(self.flat.copy()),
            "offsets": torch.from_numpy(self.offsets.copy()),
            "bos": torch.tensor([self.bos_token_id]),
            "eos": torch.tensor([self.eos_token_id]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> "TokenBytes":
        """The table that `to_tensors` gave: it decodes, but cannot align; ValueError for anything else."""
        if set(tensors) != {"flat", "offsets", "bos", "eos"}:
            raise ValueError(f"expected the tensors flat, offsets, bos, eos; found {sorted(tensors)}")
        flat, offsets = tensors["flat"].cpu().numpy().tobytes(), tensors["offsets"].tolist()
        if not offsets or offsets[0] != 0 or offsets[-1] != len(flat) or offsets != sorted(offsets):
            raise ValueError(f"the offsets do not rise from 0 to the {len(flat)} bytes of flat; save the table again")
        pieces = tuple(flat[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True))
        return cls(token_bytes=pieces, bos_token_id=int(tensors["bos"]), eos_token_id=int(tensors["eos"]))

    def _require_backend(self) -> "Tokenizer":
        if self.backend is None:
            raise ValueError(
                "this table was loaded without its tokenizer, so it can decode but not align or normalise; "
                "build it with TokenBytes.from_tokenizer(tokenizer)"
            )
        return self.backend


def tokenizer_name(tokenizer: "PreTrainedTokenizerBase") -> str:
    """How an error calls a tokenizer: its name or path where it has one, and its class."""
    path, kind = getattr(tokenizer, "name_or_path", ""), type(tokenizer).__name__
    return f"tokenizer {path!r} ({kind})" if path else f"tokenizer {kind}"


def byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte map: printable Latin-1 stands for itself, the other bytes for U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def why_not_exact(specification: dict) -> str | None:
    """Why a tokenizer.json cannot be byte-exact, or None if it can."""
    model = specification["model"]
    steps = flattened(specification["pre_tokenizer"], "pretokenizers")
    return (
        why_not_exact_model(model)
        or why_not_exact_steps(steps, flattened(specification["decoder"], "decoders"))
        or why_not_exact_normaliser(flattened(specification["normalizer"], "normalizers"))
        or why_not_exact_alphabet(model["vocab"])
        or why_not_exact_added(specification["added_tokens"])
    )


def why_not_exact_model(model: dict) -> str | None:
    """A reason in the model: another kind than BPE, or a BPE that marks or drops pieces."""
    if model["type"] != "BPE":
        return f"its model is {model['type']}, not BPE"
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            return f"its BPE has {key} {model[key]!r}"
    return None


def why_not_exact_steps(steps: list[dict], decoders: list[dict]) -> str | None:
    """A reason in the pre-tokenizer or decoder: no byte level, a space put in front, text thrown away."""
    kinds = [step["type"] for step in steps]
    if kinds.count("ByteLevel") != 1:
        return f"its pre-tokenizer has {kinds.count('ByteLevel')} ByteLevel steps, not one (it is {kinds or 'empty'})"
    if kinds[-1] != "ByteLevel":
        return f"its pre-tokenizer does not end with ByteLevel (it is {kinds})"
    foreign = set(kinds) - EXACT_PRE_TOKENIZERS
    if foreign:
        return f"its pre-tokenizer holds {sorted(foreign)}, which may drop or change text"
    if any(step.get("add_prefix_space") for step in steps):
        return "it puts a space in front of the text (add_prefix_space=True)"
    if any(step.get("behavior") == "Removed" and not step.get("invert") for step in steps):
        return "its pre-tokenizer removes what it splits at"
    if [decoder["type"] for decoder in decoders] != ["ByteLevel"]:
        return f"its decoder is {[decoder['type'] for decoder in decoders] or 'missing'}, not ByteLevel"
    return None


def why_not_exact_normaliser(normalisers: list[dict]) -> str | None:
    """A reason in the normaliser: anything but canonical equivalence."""
    lossy = [step["type"] for step in normalisers if step["type"] not in CANONICAL_NORMALISERS]
    return f"its normaliser changes the text ({', '.join(lossy)})" if lossy else None


def why_not_exact_alphabet(vocabulary: dict[str, int]) -> str | None:
    """A reason in the vocabulary: a byte of UTF-8 that no token stands for, or a token outside the byte map."""
    byte_of = byte_of_character()
    present = {byte_of[token] for token in vocabulary if token in byte_of}
    missing = [byte for byte in UTF8_BYTES if byte not in present]
    if missing:
        listed = ", ".join(f"0x{byte:02X}" for byte in missing[:4])
        return f"its vocabulary lacks {len(missing)} of the {len(UTF8_BYTES)} bytes of UTF-8 ({listed}, ...)"
    return None


def why_not_exact_added(added_tokens: list[dict]) -> str | None:
    """A reason in the added tokens: one that swallows the spaces beside it (special ones never match)."""
    for token in added_tokens:
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            return f"its added token {token['content']!r} swallows the spaces beside it (lstrip or rstrip)"
    return None


def flattened(step: dict | None, children: str) -> list[dict]:
    """The steps of a tokenizer.json component, nested Sequences opened."""
    if step is None:
        return []
    return [leaf for child in step[children] for leaf in flattened(child, children)] if children in step else [step]


def byte_strings(tokenizer: "PreTrainedTokenizerBase", specification: dict) -> list[bytes]:
    """The bytes of every token id, empty for special tokens and unused ids."""
    added = {token["id"]: token for token in specification["added_tokens"]}
    vocabulary = specification["model"]["vocab"]
    normaliser = tokenizer.backend_tokenizer.normalizer
    table = [b""] * max(len(tokenizer), 1 + max(vocabulary.values()), 1 + max(added, default=0))
    byte_of = byte_of_character()
    for token, token_id in vocabulary.items():
        # A token outside the byte map cannot come out of the byte level; it is an unused id.
        if token_id not in added and all(character in byte_of for character in token):
            table[token_id] = bytes(byte_of[character] for character in token)
    for token_id, token in added.items():
        if not token["special"]:
            normalises = token["normalized"] and normaliser is not None
            table[token_id] = (normaliser.normalize_str(token["content"]) if normalises else token["content"]).encode()
    return table


def document_tokens(tokenizer: "PreTrainedTokenizerBase", name: str) -> tuple[int, int]:
    """The ids that BOS and EOS stand for; a tokenizer without BOS opens documents with <|endoftext|> or its EOS."""
    eos_token_id = tokenizer.eos_token_id
    if eos_token_id is None:
        raise ValueError(f"{name} has no EOS token, so no byte can close a document; set tokenizer.eos_token")
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id, eos_token_id
    specials = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return specials.get("<|endoftext|>", eos_token_id), eos_token_id


def private_backend(backend: "Tokenizer") -> "Tokenizer":
    """A copy that nobody else can switch: no truncation, no padding, special tokens split like any text."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def probes(content: str) -> tuple[str, str, str]:
    """Texts in which an added token is written out: alone, inside a word, between spaces."""
    return content, f"a{content}b", f" {content} \n{content}"
