"""The tokenizer's own encodings of all beginnings of a text, as one tree of tokens.

A beginning may end anywhere, also within a word or a character. At nearly every place the tree grows by one node, the
last token of that beginning's encoding; what encodings have in common is there once. Within a character one cannot know
yet how the text will be split into words, so there each kind of character that may come of it gives an encoding.

A byte that is no UTF-8 is a lone surrogate in a str here (PEP 383), and a sign for the tokenizer.
"""

import re
import sys
from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from unicodedata import category

import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dbyte.byte_probabilities.merges import Merges
from dbyte.byte_probabilities.token_model import TokenTree
from dbyte.byte_probabilities.vocabulary import SortedVocabulary
from dbyte.text.exact import private_backend
from dbyte.text.spans import TokenBytes

WORDS_BACK = 2  # an encoding is made again from so many words before its end: no tokenizer here looks further ahead
CONTRACTED = "sdmtlvreSDMTLVRE"  # letters of 's, 'd, 'm, 't, 'll, 've and 're, which are words of their own
BYTES_BACK = 96  # of the text before a token, to find its last word
ESCAPE = "surrogateescape"
NO_UTF8 = re.compile("[\udc80-\udcff]")  # what it makes of a byte that is no UTF-8
SIGN = "\ufffd"  # what the tokenizer is shown of such a byte
LETTER_OF = bytes_to_unicode()


class Encodings:
    """Encodings of the beginnings of texts by one tokenizer."""

    def __init__(self, tokens: TokenBytes, vocabulary: SortedVocabulary):
        """tokens: with a tokenizer, else ValueError. vocabulary: all ids of the model."""
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.backend = private_backend(tokens.tokenizer())
        self.backend.normalizer = None  # a text has been normalised before, and bytes are taken as they are
        self.merges = Merges(self.backend, size=len(vocabulary))
        begins = list(map(beginnings, vocabulary.text_of))
        self.number_of = {each: number for number, each in enumerate(dict.fromkeys(begins))}
        self.number_V = torch.tensor(list(map(self.number_of.get, begins)))

    def tree(self, data: bytes) -> TokenTree:
        """The encodings of all beginnings of `data`: text after the tokenizer's normaliser, cut at any byte.

        Raises ValueError for a byte that no token has.
        """
        self.tokens.check_bytes(data)
        tree = TokenTree(self.tokens.bos_token_id)
        after = {}  # (node, token): the node that follows
        text, _ = split_characters(data)
        self._grow(tree, after, 0, self._encode(text))
        node_at = {place: node for node, place in enumerate(tree.place)}  # where tokens of the whole text end
        begins = [len(text[:start].encode(errors=ESCAPE)) for start, _ in self._words(text)]
        starts = [start for start in begins if start in node_at] or [0]
        for end in range(1, len(data) + 1):
            start = starts[max(bisect_left(starts, end) - 1 - WORDS_BACK, 0)]
            for encoding in self._encode_beginning(data[start:end]):
                self._grow(tree, after, node_at[start], encoding)
        return tree

    def may_follow(self, before: bytes, token: int) -> Tensor:
        """Whether each token may be the next one in an encoding, after a token that ends these bytes (bool [V]).

        It may if the text is split into words between the two; within a word, merges decide.
        """
        allowed_V = self.merges.may_follow(token)
        text, cut = split_characters(before[-BYTES_BACK:].lstrip(bytes(range(0x80, 0xC0))))
        if cut or not text:
            return allowed_V
        start, end = self._words(text)[-1]
        return allowed_V | self._splits_after(text[start:end])[self.number_V]

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _splits_after(self, word: str) -> Tensor:
        """Whether words are split between a text's last word so far and each beginning of a token (bool [B])."""
        return torch.tensor([any(start == len(word) for each in beginning for start, _ in self._words(word + each))
                             for beginning in self.number_of])

    def _grow(self, tree: TokenTree, after: dict[tuple[int, int], int], node: int, encoding: Sequence[int]) -> None:
        """Add the tokens of an encoding after a node, but those that are there."""
        for token in encoding:
            if (node, token) not in after:
                after[node, token] = tree.add(node, token, len(self.tokens.token_bytes[token]))
            node = after[node, token]

    def _encode_beginning(self, data: bytes) -> Iterator[list[int]]:
        """The encodings of some bytes, several where they end within a character."""
        text, cut = split_characters(data)
        if not cut:
            yield self._encode(text)
            return
        for completed in completions(cut):
            start = next(start for start, end in self._words(text + completed) if end > len(text))
            yield self._encode(text[:start]) + self._encode_word(text[start:], cut)

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _encode(self, text: str) -> list[int]:
        if not NO_UTF8.search(text):
            return self.backend.encode(text, add_special_tokens=False).ids
        return sum((self._encode_word(text[start:end]) for start, end in self._words(text)), [])

    def _encode_word(self, word: str, cut: bytes = b"") -> list[int]:
        letters = "".join(map(LETTER_OF.get, word.encode(errors=ESCAPE) + cut))
        return [token.id for token in self.backend.model.tokenize(letters)]

    def _words(self, text: str) -> list[tuple[int, int]]:
        """Where the words begin and end into which the tokenizer splits some characters."""
        return [place for _, place in self.backend.pre_tokenizer.pre_tokenize_str(NO_UTF8.sub(SIGN, text))]


def split_characters(data: bytes) -> tuple[str, bytes]:
    """Bytes as characters, and what is left of one that is cut at the end."""
    decoder = getincrementaldecoder("utf-8")(ESCAPE)
    text = decoder.decode(data)
    cut, _ = decoder.getstate()
    if b"\xed\xa0" <= cut < b"\xee":  # of a surrogate, which UTF-8 has not: the decoder sees it one byte later
        return text + cut.decode(errors=ESCAPE), b""
    return text, cut


@cache
def completions(cut: bytes) -> str:
    """One character of each of Unicode's kinds (letters, marks, ...) that begins with the bytes of a cut one."""
    def begins(point: int) -> bytes:
        return chr(point).encode(errors="surrogatepass")[: len(cut)]

    points = range(sys.maxunicode + 1)  # which is the order of their bytes
    found = {}
    for character in map(chr, points[bisect_left(points, cut, key=begins) : bisect_right(points, cut, key=begins)]):
        found.setdefault(category(character)[0], character)
    return "".join(found.values())


def beginnings(token: bytes) -> tuple[str, ...]:
    """What splitting into words may see of a token's beginning; nothing if it begins within a character.

    Of a second character it sees something after white space, and in a contraction.
    """
    text, cut = split_characters(token)
    if not token or NO_UTF8.match(text):
        return ()
    text = NO_UTF8.sub(SIGN, text)
    starts = [_like(character) for character in text[:1] or completions(cut)]
    if text[1:]:
        sees_second = starts[0].isspace() or starts[0] in CONTRACTED
        return (starts[0] + _like(text[1]) if sees_second else starts[0],)
    return (*starts, *(start + "x" for start in starts if start.isspace()))


@cache
def _like(character: str) -> str:
    """One character for all of its kind."""
    if character in CONTRACTED + SIGN + " \t\r\n'":
        return character
    return {"L": "x", "M": "\u0301", "N": "1", "Z": "\u3000", "C": "\0"}.get(category(character)[0], "!")
