"""The tokenizer's own encodings of all beginnings of a text, as one tree of tokens.

A beginning x may end anywhere, also within a word or a character. Tokens are valid there if they are what the encoding
of some text begins with: x and whatever may come after it. Where the text ends, only its own encoding is valid. A
tokenizer first splits a text into words, and where it splits depends on what comes next: of two spaces it leaves the
second to a word, of four digits the last one. So the text before a place is looked at together with each kind of text
that may follow (MORE), and each way to split its last words has tokens of its own; nearly everywhere there is one.

Splitting into words sees few kinds of characters (`sight`), so what it does with a token after some words is asked once
for all tokens that look alike. (The kinds are those of the three families' patterns: one that tells capitals from small
letters would need more.) Within a word, merges decide (`merges.py`). An added token that stands for text is a word that
ends the text before it, and nothing else may spell it.

A byte that is no UTF-8 is a lone surrogate in a str here (PEP 383), and a sign for the tokenizer. No tokenizer is given
such bytes; in data that have some, whatever begins with such bytes may follow as merges let it.
"""

import re
import sys
from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple
from unicodedata import category

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dbyte.byte_probabilities.merges import Merges
from dbyte.byte_probabilities.token_model import TokenTree
from dbyte.text.exact import private_backend
from dbyte.text.sorted_vocabulary import SortedVocabulary
from dbyte.text.spans import TokenBytes

WORDS_BACK = 2  # words before the last one; where they begin is certain, since no tokenizer here looks further ahead
CONTRACTED = "sdmtlvreSDMTLVRE\u017f"  # letters of 's, 'd, 'm, 't, 'll, 've and 're, which are words of their own
STEM = re.compile("'[lvrLVR]?$")  # what may begin one
MORE = ("\u07ca", "\U0010ffff", "1", "\u3000\n", "l", "e")  # of each kind one that merges hardly ever join to a token
ESCAPE = "surrogateescape"
NO_UTF8 = re.compile("[\udc80-\udcff]")  # what it makes of a byte that is no UTF-8
SIGN = "\ufffd"  # what the tokenizer is shown of such a byte
LETTER_OF = bytes_to_unicode()


class Way(NamedTuple):
    """How the last words before a place are split, if the text goes on in a certain way."""

    seen: str  # the sight of these words
    cut: bytes  # what there is of a character that is not complete
    starts: tuple[int, ...]  # where words begin in `seen`, or with the cut character
    word: bytes | None = None  # what there is of a word that goes on; None: the text is split here
    spelling: tuple[bytes, ...] = ()  # bytes that would spell an added token
    utf8: bool = True  # the whole text is


class Look(NamedTuple):
    """What splitting into words sees of a token, a character that it cuts made complete."""

    seen: str
    goes_on: tuple[str, ...]  # what of MORE its word may go on with, so that the token stays as it is
    joins: bool  # whether merges make it; else it is a token only as a word by itself


class EncodingTree(TokenTree):
    """Encodings as a tree, and the ways to split the text before each node."""

    def __init__(self, tokens: TokenBytes):
        super().__init__(tokens.bos_token_id)
        self.tokens_of = tokens.token_bytes
        self.ways: dict[int, set[Way]] = defaultdict(set)
        self._after: dict[tuple[int, int], int] = {}

    def grow(self, node: int, encoding: Sequence[int]) -> int:
        """Add the tokens of an encoding after a node, but those that are there; the last one's node."""
        for token in encoding:
            if (node, token) not in self._after:
                self._after[node, token] = self.add(node, token, len(self.tokens_of[token]))
            node = self._after[node, token]
        return node


class Encodings:
    """Encodings of the beginnings of texts by one tokenizer."""

    def __init__(self, tokens: TokenBytes, vocabulary: SortedVocabulary):
        """tokens: with a tokenizer, else ValueError. vocabulary: all ids of the model."""
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.backend = private_backend(tokens.tokenizer())
        self.backend.normalizer = None  # a text has been normalised before, and bytes are taken as they are
        self.apart = private_backend(self.backend)  # splits a word that is a token as merges do
        self.apart.model.ignore_merges = False
        self.merges = Merges(self.backend, size=len(vocabulary))
        self.added = {token.content: number for number, token in self.backend.get_added_tokens_decoder().items()
                      if vocabulary.text_of[number]}
        longest_first = "|".join(sorted(map(re.escape, self.added), key=len, reverse=True))
        self.around_added = re.compile(f"({longest_first or '(?!)'})")
        self.spelled = [(each[:size], each[size:]) for each in map(str.encode, self.added)
                        for size in range(1, len(each))]
        self.ends_V = torch.tensor([not text for text in vocabulary.text_of])  # what ends the text before it
        self.ends_V[list(self.added.values())] = True
        alone = set(range(len(vocabulary))) - self.merges.made if self.backend.model.ignore_merges else ()
        self.alone = {text: token for token in alone if (text := vocabulary.text_of[token])}

    def tree(self, data: bytes) -> EncodingTree:
        """The encodings of all beginnings of `data`: text after the tokenizer's normaliser, cut at any byte.

        Raises ValueError for a byte that no token has.
        """
        self.tokens.check_bytes(data)
        tree = EncodingTree(self.tokens)
        text, _ = split_characters(data)
        node, node_at, fixed = 0, {0: 0}, [0]
        for word in self._words(text):
            node = tree.grow(node, self._encode(word))
            node_at[tree.place[node]] = node
            if word in self.added:
                fixed.append(tree.place[node])
        begins = list(node_at)[:-1] or [0]
        utf8 = not NO_UTF8.search(text)
        for place in range(len(data) + 1):
            start = max(begins[max(bisect_left(begins, place) - 1 - WORDS_BACK, 0)],
                        fixed[bisect_right(fixed, place) - 1])
            spelling = tuple(rest for begun, rest in self.spelled if data.endswith(begun, 0, place))
            for way, encoding in self._ways(data[start:place]):
                node = tree.grow(node_at[start], encoding)
                tree.ways[node].add(way._replace(spelling=spelling, utf8=utf8))
        return tree

    def may_follow(self, token: int, ways: Iterable[Way]) -> Tensor:
        """Whether each token may be the next one after this one, after which the text is split so (bool [V])."""
        allowed_V = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        for way in ways:
            looks, number_V = self._looks(way.cut)
            no_B = torch.zeros(len(looks), dtype=torch.bool)
            follows_V = self._followers(way.seen, way.cut).get((way.starts, way.word is None), no_B)[number_V]
            if way.word is not None:
                follows_V[self._made_whole(way)] = False
                follows_V &= self.merges.may_follow(token)
            elif way.starts == self._starts(way.seen):  # as where the text ends
                follows_V |= self.ends_V
            if not way.utf8:
                follows_V |= self.merges.may_follow(token) & (number_V == 0)
            for node in filter(None, map(self.vocabulary.node, way.spelling)):
                follows_V[self.vocabulary.id_V[node.low : node.high]] = False
            allowed_V |= follows_V
        return allowed_V

    def _made_whole(self, way: Way) -> list[int]:
        """The tokens with which a way's word would be a token that no merges make, if it could not go on after it."""
        looks, number_V = self._looks(way.cut)
        ends = [text[len(way.word) :] for text in self.alone if text.startswith(way.word) and text != way.word]
        found = [self.vocabulary.id_V[node.low].item() for node in map(self.vocabulary.node, ends)
                 if node and node.low < node.longer]
        return [token for token in found for look in looks[number_V[token]]
                if all(len(way.seen + look.seen) in self._starts(way.seen + look.seen + more) for more in MORE)]

    def _ways(self, data: bytes) -> Iterator[tuple[Way, list[int]]]:
        """The ways to split some words, whatever comes next, and the encoding of each."""
        text, cut = split_characters(data)
        seen, places = sight(text)
        found = {tuple(start for start in self._starts(seen + last + more) if start < len(seen) + bool(cut))
                 for last in completions(cut) for more in follow_ups(seen + last)}
        certain = max(set.intersection(*map(set, found)), default=0)
        for starts in found:
            ends = [*(places[start] for start in starts), len(text)]
            *words, word = [text[start:end] for start, end in pairwise(ends)] or [""]
            before = sum(map(self._encode, words), [])
            way = Way(seen[certain:], cut, tuple(start - certain for start in starts if start >= certain))
            begun = word.encode(errors=ESCAPE) + cut
            if not cut:
                yield way, before + self._encode(word)
            if begun:
                yield way._replace(word=begun), before + self._merged(begun)

    @lru_cache(maxsize=4096)  # noqa: B019  one object a tokenizer
    def _followers(self, seen: str, cut: bytes) -> dict[tuple[tuple[int, ...], bool], Tensor]:
        """Which looks may follow these words (bool [B]), by where words begin in them and whether the text is split."""
        looks, _ = self._looks(cut)
        found = defaultdict(lambda: torch.zeros(len(looks), dtype=torch.bool))
        place = len(seen) + bool(cut)
        for number, look in ((number, look) for number, alike in enumerate(looks) for look in alike):
            end = len(seen + look.seen)
            for more in follow_ups(seen + look.seen):
                starts = self._starts(seen + look.seen + more)
                within = [start for start in starts if place <= start < end]
                split = within == [place] and not cut
                if (split or look.joins and not within) and (not more or end in starts or more in look.goes_on):
                    found[tuple(start for start in starts if start < place), split][number] = True
        return dict(found)

    @lru_cache(maxsize=64)  # noqa: B019  one object a tokenizer
    def _looks(self, cut: bytes) -> tuple[list[tuple[Look, ...]], Tensor]:
        """All looks of tokens after a cut character's bytes, and the number of each token's (int32 [V]).

        Number 0 is of those that no text has there.
        """
        number_of = {(): 0}
        number_V = torch.zeros(len(self.vocabulary), dtype=torch.int32)
        texts = self.vocabulary.texts
        places = range(bisect_left(texts, b"\x80"), bisect_left(texts, b"\xc0")) if cut else range(len(texts))
        for token in self.vocabulary.id_V[places.start : places.stop].tolist():
            number_V[token] = number_of.setdefault(tuple(self._look(token, cut)), len(number_of))
        return list(number_of), number_V

    def _look(self, token: int, cut: bytes) -> Iterator[Look]:
        """The looks of one token: one for each kind of character that may come of a cut one."""
        data = self.vocabulary.text_of[token]
        text, rest = split_characters(cut + data)
        if NO_UTF8.search(text) or self.ends_V[token] or not (token in self.merges.made or data in self.alone):
            return

        def stays(more: bytes) -> bool:
            return self._merged(data + more)[0] == token

        def completes(character: str) -> bool:  # also by a token that reaches into the next character, whatever that is
            more = character.encode()[len(rest) :]
            node = self.vocabulary.node(more)
            return any(map(stays, [more, *(self.vocabulary.texts[node.low : node.high] if node else ())]))

        for alike in completions(rest).values():
            last = next((each for each in alike if not rest or completes(each)), None)
            if last is not None:
                seen, _ = sight(text + last)
                goes_on = [more for more in follow_ups("'" + seen)[1:] if stays((last + more).encode()[len(rest) :])]
                yield Look(seen, tuple(goes_on), token in self.merges.made)

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _encode(self, word: str) -> list[int]:
        if word in self.added:
            return [self.added[word]]
        return _tokens(self.backend, word.encode(errors=ESCAPE))

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _merged(self, data: bytes) -> list[int]:
        return _tokens(self.apart, data)

    def _words(self, text: str) -> Iterator[str]:
        """The words into which the tokenizer splits some characters."""
        for number, part in enumerate(self.around_added.split(text)):
            if number % 2:
                yield part
            else:
                yield from (part[start:end] for start, end in self._places(NO_UTF8.sub(SIGN, part)))

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _starts(self, seen: str) -> tuple[int, ...]:
        return tuple(start for start, _ in self._places(seen))

    def _places(self, text: str) -> list[tuple[int, int]]:
        return [place for _, place in self.backend.pre_tokenizer.pre_tokenize_str(text)] if text else []


def _tokens(backend: Tokenizer, data: bytes) -> list[int]:
    """What the model of a tokenizer makes of one word."""
    return [token.id for token in backend.model.tokenize("".join(map(LETTER_OF.get, data)))]


def split_characters(data: bytes) -> tuple[str, bytes]:
    """Bytes as characters, and what is left of one that is cut at the end."""
    decoder = getincrementaldecoder("utf-8")(ESCAPE)
    text = decoder.decode(data)
    cut, _ = decoder.getstate()
    if b"\xed\xa0" <= cut < b"\xee":  # of a surrogate, which UTF-8 has not: the decoder sees it one byte later
        return text + cut.decode(errors=ESCAPE), b""
    return text, cut


@cache
def completions(cut: bytes) -> dict[str, list[str]]:
    """The characters that begin with the bytes of a cut one, by their kind; without such bytes, no character."""
    def begins(point: int) -> bytes:
        return chr(point).encode(errors="surrogatepass")[: len(cut)]

    if not cut:
        return {"": [""]}
    points = range(sys.maxunicode + 1)  # which is the order of their bytes
    found = defaultdict(list)
    for character in map(chr, points[bisect_left(points, cut, key=begins) : bisect_right(points, cut, key=begins)]):
        if category(character) != "Cs":  # a surrogate
            found[_like(character)].append(character)
    return dict(found)


def follow_ups(seen: str) -> Sequence[str]:
    """What comes next, where splitting into words depends on it: after white space, and in a contraction."""
    return ("", *MORE) if seen[-1:].isspace() or STEM.search(seen) else ("",)


def sight(text: str) -> tuple[str, list[int]]:
    """What splitting into words sees of some characters, and which of them these are; then their number.

    Of letters it sees that there are some, and those of a contraction; of equal others, but digits, the first and the
    last.
    """
    seen, places = "", []
    for place, like in enumerate(map(_like, text)):
        if like in CONTRACTED and not STEM.search("'" + seen):
            like = "x"
        if like == "x" and seen.endswith("x"):
            continue
        if like != "1" and seen.endswith(like * 2):
            places[-1] = place
            continue
        seen += like
        places.append(place)
    return seen, [*places, len(text)]


def _like(character: str) -> str:
    """One character for all of its kind."""
    if character in CONTRACTED + " \r\n'":
        return character
    if character.isspace() and not "\x1c" <= character <= "\x1f":  # which regular expressions do not count
        return "\u3000"
    return {"L": "x", "N": "1"}.get(category(character)[0], "!")
