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
from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain, pairwise
from typing import NamedTuple
from unicodedata import category

import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from dbyte.byte_probabilities.merges import Merges
from dbyte.byte_probabilities.token_model import TokenTree
from dbyte.byte_probabilities.vocabulary import SortedVocabulary
from dbyte.text.exact import private_backend
from dbyte.text.spans import TokenBytes

WORDS_BACK = 2  # words before the last one; where they begin is certain, since no tokenizer here looks further ahead
CONTRACTED = "sdmtlvreSDMTLVRE\u017f"  # letters of 's, 'd, 'm, 't, 'll, 've and 're, which are words of their own
STEM = re.compile("'[lvrLVR]?$")  # what may begin one
MORE = ("\u07ca", "\U0010ffff", "1", "\u3000\n", "l", "e")  # of each kind one that merges hardly ever join to a token
ESCAPE = "surrogateescape"
NO_UTF8 = re.compile("[\udc80-\udcff]")  # what it makes of a byte that is no UTF-8
LETTER_OF = bytes_to_unicode()


class Way(NamedTuple):
    """How the last words before a place are split, if the text goes on in a certain way."""

    starts: tuple[int, ...]  # where words begin in the sight of these words, or with a cut character
    word: bytes | None  # what there is of a word that goes on; None: the text is split here


class Look(NamedTuple):
    """What splitting into words sees of a token, and of what has to follow if the token cuts a character."""

    seen: str
    goes_on: tuple[str, ...]  # what of MORE its word may go on with, so that the token stays as it is
    joins: bool  # whether merges make it; else it is a token only as a word by itself


class EncodingTree(TokenTree):
    """Encodings of the beginnings of a text.

    seen: by place, the sight of the last words and what there is of a cut character. ways: by node, to split these
    words.
    """

    def __init__(self, tokens: TokenBytes, data: bytes):
        super().__init__(tokens.bos_token_id)
        self.data, self.tokens_of = data, tokens.token_bytes
        self.utf8 = not NO_UTF8.search(split_characters(data)[0])
        self.seen: dict[int, tuple[str, bytes]] = {}
        self.ways: dict[int, list[Way]] = defaultdict(list)
        self._after: dict[tuple[int, int], int] = {}

    def grow(self, node: int, encoding: Iterable[int]) -> int:
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
        self.tokens, self.vocabulary = tokens, vocabulary
        self.backend = private_backend(tokens.tokenizer())
        self.backend.normalizer = None  # a text has been normalised before, and bytes are taken as they are
        self.apart = private_backend(self.backend)  # splits a word that is a token as merges do
        self.apart.model.ignore_merges = False
        self.merges = Merges(self.backend, size=len(vocabulary))
        added = {token.content: number for number, token in self.backend.get_added_tokens_decoder().items()
                 if vocabulary.text_of[number]}
        self.added = {content.encode(): number for content, number in added.items()}
        longest_first = "|".join(sorted(map(re.escape, added), key=len, reverse=True))
        self.around_added = re.compile(f"({longest_first or '(?!)'})")
        self.ends_V = torch.tensor([not text for text in vocabulary.text_of])  # what ends the text before it
        self.ends_V[list(added.values())] = True
        alone = set(range(len(vocabulary))) - self.merges.made if self.backend.model.ignore_merges else ()
        self.alone = {text: token for token in alone if (text := vocabulary.text_of[token])}

    def tree(self, data: bytes) -> EncodingTree:
        """The encodings of all beginnings of `data`: text after the tokenizer's normaliser, cut at any byte.

        Raises ValueError for a byte that no token has.
        """
        self.tokens.check_bytes(data)
        tree = EncodingTree(self.tokens, data)
        node, node_at, fixed = 0, {0: 0}, [0]
        for word in self._words(split_characters(data)[0]):
            node = tree.grow(node, self._encode(word))
            node_at[tree.place[node]] = node
            if word in self.added:
                fixed.append(tree.place[node])
        begins = list(node_at)[:-1] or [0]
        for place in range(len(data) + 1):
            start = max(begins[max(bisect_left(begins, place) - 1 - WORDS_BACK, 0)],
                        fixed[bisect_right(fixed, place) - 1])
            self._grow(tree, node_at[start], place)
        return tree

    def may_follow(self, tree: EncodingTree, node: int) -> Tensor:
        """Whether each token may be the next one after a node (bool [V])."""
        seen, cut = tree.seen[tree.place[node]]
        looks, number_V = self._looks(cut)
        merges_V = self.merges.may_follow(tree.token[node])
        allowed_V = torch.zeros(len(self.vocabulary), dtype=torch.bool)
        for way in tree.ways[node]:
            no_B = torch.zeros(len(looks), dtype=torch.bool)
            follows_V = self._followers(seen, cut).get((way.starts, way.word is None), no_B)[number_V]
            if way.word is not None:
                follows_V[self._made_whole(seen, cut, way.word)] = False
                follows_V &= merges_V
            elif way.starts == self._starts(seen):  # as where the text ends
                follows_V |= self.ends_V
            allowed_V |= follows_V if tree.utf8 else follows_V | merges_V & (number_V == 0)
        for content in self.added:  # other tokens that would spell the rest of an added one
            for size in range(1, len(content)):
                if tree.data.endswith(content[:size], 0, tree.place[node]) and (
                        rest := self.vocabulary.node(content[size:])):
                    allowed_V[self.vocabulary.id_V[rest.low : rest.high]] = False
        return allowed_V

    def _made_whole(self, seen: str, cut: bytes, word: bytes) -> list[int]:
        """The tokens with which a word would be a token that no merges make, if it could not go on after it."""
        looks, number_V = self._looks(cut)
        nodes = [self.vocabulary.node(text[len(word) :]) for text in self.alone if text.startswith(word)]
        found = [self.vocabulary.id_V[node.low].item() for node in nodes if node and node.low < node.longer]
        return [token for token in found for look in looks[number_V[token]]
                if all(len(seen + look.seen) in self._starts(seen + look.seen + more) for more in MORE)]

    def _grow(self, tree: EncodingTree, node: int, place: int) -> None:
        """Add the ways to split the words between a node and a place, whatever comes next, and the encoding of each."""
        text, cut = split_characters(tree.data[tree.place[node] : place])
        seen, places = sight(text)
        found = {tuple(start for start in self._starts(seen + last + more) if start < len(seen) + bool(cut))
                 for last in completions(cut) for more in follow_ups(seen + last)}
        certain = max(set.intersection(*map(set, found)), default=0)
        tree.seen[place] = seen[certain:], cut
        for starts in found:
            ends = [*(places[start] for start in starts), len(text)]
            *words, word = [text[start:end].encode(errors=ESCAPE) for start, end in pairwise(ends)] or [b""]
            before = tree.grow(node, chain.from_iterable(map(self._encode, words)))
            starts = tuple(start - certain for start in starts if start >= certain)
            if not cut:
                tree.ways[tree.grow(before, self._encode(word))].append(Way(starts, None))
            if begun := word + cut:
                tree.ways[tree.grow(before, self._encode(begun, goes_on=True))].append(Way(starts, begun))

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
            number_V[token] = number_of.setdefault(tuple(dict.fromkeys(self._look(token, cut))), len(number_of))
        return list(number_of), number_V

    def _look(self, token: int, cut: bytes) -> Iterator[Look]:
        """The looks of one token: one for each kind of character that may come of a cut one."""
        data, joins = self.vocabulary.text_of[token], token in self.merges.made
        if self.ends_V[token] or not (joins or data in self.alone):
            return

        def stays(more: bytes) -> bool:
            return self._encode(data + more, goes_on=True)[0] == token

        def completed(begun: bytes) -> Iterator[bytes]:
            """What completes all characters after `begun`, so that the token stays."""
            text, rest = split_characters(cut + data + begun)
            for alike in () if NO_UTF8.search(text) else completions(rest).values():
                ends = [begun + each.encode()[len(rest) :] for each in alike]
                if (end := next(filter(stays, ends), None)) is not None:
                    yield end
                elif rest and not begun:  # a token that reaches into the next character may keep them apart
                    for node in filter(None, map(self.vocabulary.node, ends)):
                        yield from chain.from_iterable(map(completed, self.vocabulary.texts[node.longer : node.high]))

        for more in completed(b""):
            seen, _ = sight((cut + data + more).decode())
            goes_on = [each for each in follow_ups("'" + seen)[1:] if stays(more + each.encode())]
            yield Look(seen, tuple(goes_on), joins)

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _encode(self, word: bytes, *, goes_on: bool = False) -> list[int]:
        """The tokens of a word, or, as merges make them, of what there is of one that goes on."""
        if word in self.added and not goes_on:
            return [self.added[word]]
        model = (self.apart if goes_on else self.backend).model
        return [token.id for token in model.tokenize("".join(map(LETTER_OF.get, word)))]

    def _words(self, text: str) -> Iterator[bytes]:
        """The words into which the tokenizer splits some characters."""
        for number, part in enumerate(self.around_added.split(text)):
            places = [(0, len(part))] if number % 2 else self._places(NO_UTF8.sub("\ufffd", part))
            yield from (part[start:end].encode(errors=ESCAPE) for start, end in places)

    @lru_cache(maxsize=65536)  # noqa: B019  one object a tokenizer
    def _starts(self, seen: str) -> tuple[int, ...]:
        return tuple(start for start, _ in self._places(seen))

    def _places(self, text: str) -> list[tuple[int, int]]:
        return [place for _, place in self.backend.pre_tokenizer.pre_tokenize_str(text)]


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
    points = range(0x110000)  # which is the order of their bytes
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
