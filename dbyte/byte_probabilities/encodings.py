"""The tokenizer's own encodings of all beginnings of a text, as one tree of tokens.

A beginning may end anywhere, also within a word or a character. At nearly every place the tree grows by one node, the
last token of that beginning's encoding; what encodings have in common is there once. Within a character one cannot know
yet how the text will be split into words, so there each kind of character that may come of it gives an encoding.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate
from unicodedata import category

import torch
from tokenizers import Tokenizer
from torch import Tensor

from dbyte.byte_probabilities.merges import Merges
from dbyte.text.exact import byte_of_character
from dbyte.text.spans import TokenBytes

WORDS_BACK = 2  # an encoding is made again from so many words before its end: no tokenizer here looks further ahead
KINDS = "LMNZ"  # letters, marks, numbers, white space: the kinds of characters that splitting into words tells apart
CONTRACTED = "sdmtlvreSDMTLVRE"  # letters of 's, 'd, 'm, 't, 'll, 've and 're, which are words of their own
BYTES_BACK = 96  # of the text before a token, to find its last word
NO_UTF8 = "\ufffd"  # stands for a byte that is no UTF-8
Character = tuple[str, bytes]
LETTER_OF = {byte: letter for letter, byte in byte_of_character().items()}


@dataclass
class TokenTree:
    """Tokens as a tree: node 0 is BOS, and node n stands for the tokens on the way to it.

    token: ids. parent: a node before n, -1 for the root. place: how many bytes of the text the tokens are. depth: how
    many tokens come before. All are lists by node.
    """

    token: list[int]
    parent: list[int] = field(default_factory=lambda: [-1])
    place: list[int] = field(default_factory=lambda: [0])
    depth: list[int] = field(default_factory=lambda: [0])
    _child: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.token)

    def add(self, parent: int, token: int, size: int, *, again: bool = False) -> int:
        """The node of a token of `size` bytes after a node; it is made if it is not there, or `again` even if it is."""
        if again:
            self._child.pop((parent, token), None)
        node = self._child.setdefault((parent, token), len(self))
        if node == len(self):
            self.token.append(token)
            self.parent.append(parent)
            self.place.append(self.place[parent] + size)
            self.depth.append(self.depth[parent] + 1)
        return node

    def tokens(self, node: int) -> list[int]:
        """The tokens on the way to a node, BOS first."""
        found = []
        while node >= 0:
            found.append(self.token[node])
            node = self.parent[node]
        return found[::-1]


class Encodings:
    """Encodings of the beginnings of texts by one tokenizer."""

    def __init__(self, tokens: TokenBytes, *, size: int):
        """tokens: with a tokenizer, else ValueError. size: token ids of the model."""
        self.tokens = tokens
        # bytes are taken as they are: a text has been normalised before
        specification = json.loads(tokens.tokenizer().to_str()) | {"normalizer": None}
        self.backend = Tokenizer.from_str(json.dumps(specification))
        self.backend.encode_special_tokens = True
        self.merges = Merges(self.backend, size=size)
        begins = [beginnings(text) for text in tokens.token_bytes] + [()] * (size - len(tokens))
        number = {each: at for at, each in enumerate(dict.fromkeys(begins))}
        self.beginnings_B = list(number)
        self.beginning_V = torch.tensor([number[each] for each in begins])
        self._splits_after = lru_cache(maxsize=65536)(self._splits_after)
        self.single = {token[0] for token in tokens.token_bytes if len(token) == 1}
        self._encode_text = lru_cache(maxsize=65536)(
            lambda text: tuple(self.backend.encode(text, add_special_tokens=False).ids))

    def tree(self, data: bytes) -> TokenTree:
        """The encodings of all beginnings of `data`: text after the tokenizer's normaliser, cut at any byte.

        A byte that is no UTF-8 is taken for a sign of its own. Raises ValueError for a byte that no token has.
        """
        if foreign := set(data) - self.single:
            at = min(data.index(byte) for byte in foreign)
            raise ValueError(f"the text holds the byte 0x{data[at]:02X} at byte {at}, which {self.tokens.name} has no "
                             "token for: remove it from the text")
        tree = TokenTree([self.tokens.bos_token_id])
        characters, _ = split_characters(data)
        node = 0
        node_at = {0: 0}  # where tokens of the whole text end
        for token in self._encode(characters):
            node = self._add(tree, node, token)
            node_at[tree.place[node]] = node
        place_C = [0, *accumulate(len(spelled) for _, spelled in characters)]
        starts = [place_C[start] for start, _ in self._words(characters) if place_C[start] in node_at] or [0]
        word = 0
        for end in range(1, len(data) + 1):
            while word + 1 < len(starts) and starts[word + 1] < end:
                word += 1
            start = starts[max(word - WORDS_BACK, 0)]
            for encoding in self._beginnings(data[start:end]):
                node = node_at[start]
                for token in encoding:
                    node = self._add(tree, node, token)
        return tree

    def may_follow(self, before: bytes, token: int) -> Tensor:
        """Whether each token may be the next one in an encoding, after a token that ends these bytes (bool [V]).

        It may if the text is split into words between the two; within a word, merges decide.
        """
        allowed_V = self.merges.may_follow(token)
        characters, cut = split_characters(before[-BYTES_BACK:].lstrip(bytes(range(0x80, 0xC0))))
        if cut or not characters:
            return allowed_V
        start, end = self._words(characters)[-1]
        word = "".join(character for character, _ in characters[start:end])
        return allowed_V | self._splits_after(word)[self.beginning_V]

    def _splits_after(self, word: str) -> Tensor:
        """Whether words are split between a text's last word so far and each beginning of a token (bool [B])."""
        def splits(beginning: str) -> bool:
            return any(start == len(word) for start, _ in self._places(word + beginning))

        return torch.tensor([any(map(splits, each)) for each in self.beginnings_B])

    def _add(self, tree: TokenTree, node: int, token: int) -> int:
        return tree.add(node, token, len(self.tokens.token_bytes[token]))

    def _beginnings(self, data: bytes) -> Iterator[tuple[int, ...]]:
        """The encodings of some bytes, several where they end within a character."""
        characters, cut = split_characters(data)
        if not cut:
            yield self._encode(characters)
            return
        for completed in completions(cut):
            words = self._words([*characters, (completed, cut)])
            start = next(start for start, end in words if end > len(characters))
            yield self._encode(characters[:start]) + self._encode_word([*characters[start:], (completed, cut)])

    def _words(self, characters: list[Character]) -> list[tuple[int, int]]:
        """Where the words begin and end into which the tokenizer splits some characters."""
        return self._places("".join(character for character, _ in characters))

    def _places(self, text: str) -> list[tuple[int, int]]:
        return [place for _, place in self.backend.pre_tokenizer.pre_tokenize_str(text)]

    def _encode(self, characters: list[Character]) -> tuple[int, ...]:
        if all(character != NO_UTF8 for character, _ in characters):
            return self._encode_text("".join(character for character, _ in characters))
        return sum((self._encode_word(characters[start:end]) for start, end in self._words(characters)), ())

    def _encode_word(self, characters: list[Character]) -> tuple[int, ...]:
        letters = "".join(LETTER_OF[byte] for _, spelled in characters for byte in spelled)
        return tuple(token.id for token in self.backend.model.tokenize(letters))


def split_characters(data: bytes) -> tuple[list[Character], bytes]:
    """Bytes as characters with their bytes, and what is left of one that is cut at the end."""
    characters = []
    while data:
        try:
            valid, error = data, None
            text = data.decode()
        except UnicodeDecodeError as found:
            valid, error = data[: found.start], found
            text = valid.decode()
        characters += [(character, character.encode()) for character in text]
        if error is None or error.reason == "unexpected end of data":
            return characters, data[len(valid) :]
        characters.append((NO_UTF8, data[error.start : error.start + 1]))
        data = data[error.start + 1 :]
    return characters, b""


def beginnings(token: bytes) -> tuple[str, ...]:
    """What splitting into words may see of a token's beginning; nothing if it begins within a character."""
    characters, cut = split_characters(token)
    starts = [_like(character) for character, _ in characters[:1]]
    if cut and not starts:
        starts = list(map(_like, completions(cut)))
    if NO_UTF8 in starts:
        return ()
    second = "".join(_like(character) for character, _ in characters[1:2])
    longer = [start + (second or "x") for start in starts if start.isspace() or second and start in CONTRACTED]
    return tuple(starts + longer) if not second else tuple(longer or starts)


@cache
def _like(character: str) -> str:
    """One character for all of its kind."""
    if character in CONTRACTED + NO_UTF8 + " \t\r\n'":
        return character
    return {"L": "x", "M": "\u0301", "N": "1", "Z": "\u3000", "C": "\0"}.get(category(character)[0], "!")


@cache
def completions(cut: bytes) -> str:
    """One character of each kind that begins with the bytes of a cut one, as far as there is one."""
    size = 2 + (cut[0] >= 0xE0) + (cut[0] >= 0xF0)
    missing = size - len(cut)
    value = int.from_bytes(bytes([cut[0] & (0x7F >> size)]))
    for byte in cut[1:]:
        value = value << 6 | byte & 0x3F
    found = {}
    for point in range(value << 6 * missing, (value + 1) << 6 * missing):
        if point < 0x110000 and chr(point).encode(errors="surrogatepass").startswith(cut):
            kind = category(chr(point))[0]
            found.setdefault(kind if kind in KINDS else "", chr(point))
    return "".join(found.values())
