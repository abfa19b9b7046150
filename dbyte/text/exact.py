"""Which tokenizers are byte-exact, and the bytes of their tokens: what a tokenizer's specification says.

A tokenizer is byte-exact if the joined bytes of its tokens are the text's bytes, for every text. A byte-level BPE is,
unless a part of it drops, adds or changes text; `why_not_exact` looks at each part of its tokenizer.json and names the
first that may. Canonical normalisers (NFC, NFD) are accepted, since they do not change what a text says.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# UTF-8 uses neither C0, C1 (overlong forms) nor F5..FF, which leaves 254 and 255 free for BOS and EOS.
UTF8_BYTES = (*range(0x00, 0xC0), *range(0xC2, 0xF5))
CANONICAL_NORMALISERS = frozenset({"NFC", "NFD"})
EXACT_PRE_TOKENIZERS = frozenset({"ByteLevel", "Split", "Digits", "Punctuation"})


def why_not_exact(specification: dict) -> str | None:
    """Why a tokenizer with this tokenizer.json cannot be byte-exact, or None if it can."""
    return next(_reasons(specification), None)


def _reasons(specification: dict) -> Iterator[str]:
    model = specification["model"]
    if model["type"] != "BPE":
        yield f"its model is {model['type']}, not BPE"
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            yield f"its BPE has {key} {model[key]!r}"
    steps = flattened(specification["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds.count("ByteLevel") != 1 or kinds[-1] != "ByteLevel":
        yield f"its pre-tokenizer has {kinds.count('ByteLevel')} ByteLevel steps, not one at its end (it is {kinds})"
    if foreign := set(kinds) - EXACT_PRE_TOKENIZERS:
        yield f"its pre-tokenizer holds {sorted(foreign)}, which may drop or change text"
    if any(step.get("add_prefix_space") for step in steps):
        yield "it puts a space in front of the text (add_prefix_space=True)"
    if any(step.get("behavior") == "Removed" and not step.get("invert") for step in steps):
        yield "its pre-tokenizer removes what it splits at"
    decoders = [step["type"] for step in flattened(specification["decoder"], "decoders")]
    if decoders != ["ByteLevel"]:
        yield f"its decoder is {decoders or 'missing'}, not ByteLevel"
    normalisers = [step["type"] for step in flattened(specification["normalizer"], "normalizers")]
    if lossy := [kind for kind in normalisers if kind not in CANONICAL_NORMALISERS]:
        yield f"its normaliser changes the text ({', '.join(lossy)})"
    for token in specification["added_tokens"]:
        if not token["special"] and (token["lstrip"] or token["rstrip"]):  # special ones never match in text
            yield f"its added token {token['content']!r} swallows the spaces next to it (lstrip or rstrip)"


def flattened(step: dict | None, children: str) -> list[dict]:
    """The steps of a component of a tokenizer.json, nested Sequences opened; `children` is a Sequence's key."""
    if step is None or children not in step:
        return [step] if step else []
    return [leaf for child in step[children] for leaf in flattened(child, children)]


def byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte map: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


def byte_strings(tokenizer: "PreTrainedTokenizerBase", specification: dict) -> list[bytes]:
    """The bytes of every token id of a byte-exact tokenizer, empty for special tokens and unused ids."""
    added = {token["id"]: token for token in specification["added_tokens"]}
    vocabulary = specification["model"]["vocab"]
    normaliser = tokenizer.backend_tokenizer.normalizer
    table = [b""] * max(len(tokenizer), 1 + max(vocabulary.values()), 1 + max(added, default=0))
    byte_of = byte_of_character()
    for token, token_id in vocabulary.items():
        # A token outside the byte map cannot come out of the byte level; its id is unused.
        if token_id not in added and all(character in byte_of for character in token):
            table[token_id] = bytes(byte_of[character] for character in token)
    for token_id, token in added.items():
        if not token["special"]:
            normalises = token["normalized"] and normaliser is not None
            content = normaliser.normalize_str(token["content"]) if normalises else token["content"]
            table[token_id] = content.encode()
    return table


def document_tokens(tokenizer: "PreTrainedTokenizerBase", name: str) -> tuple[int, int]:
    """The ids that the bytes BOS and EOS stand for; ValueError where the tokenizer has no EOS.

    A tokenizer without BOS opens documents with <|endoftext|>, or with its EOS if it has no such token.
    """
    eos_token_id = tokenizer.eos_token_id
    if eos_token_id is None:
        raise ValueError(f"{name} has no EOS token, so no byte can close a document; set tokenizer.eos_token")
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id, eos_token_id
    specials = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return specials.get("<|endoftext|>", eos_token_id), eos_token_id


def private_backend(backend: "Tokenizer") -> "Tokenizer":
    """A copy that nobody else can reconfigure: no truncation, no padding, special tokens are split like any text."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def tokenizer_name(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What error messages call a tokenizer: its name or path, if it has one, and its class."""
    path = getattr(tokenizer, "name_or_path", "")
    return f"tokenizer {path!r} ({type(tokenizer).__name__})" if path else f"tokenizer {type(tokenizer).__name__}"
