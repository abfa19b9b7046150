"""Which token may follow which in a text's own encoding, by the merges of a byte-level BPE.

A BPE cuts no text into the tokens "t" and "he" if it has a merge that joins bytes across that cut before they are
joined otherwise. Whether it would is decided by two tokens alone: let x be a part at the end of the left token, and y
one at the beginning of the right one, as their own merges build them up. The merge of x and y is made, and the pair is
no encoding, if it comes before x is merged within the left token, and not after y is merged within the right one (of
equal merges the leftmost is made first). The tokens of a word are its encoding if each pair of them is one. Where a
text is split into words, `encodings.py` knows.

Shape letter: V token ids.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from functools import lru_cache
from itertools import pairwise

import torch
from tokenizers import Tokenizer
from torch import Tensor

NEVER = 2**62  # the rank of a merge that is not made


class Merges:
    """The merges of a BPE: part, part and their rank; the earlier merge has the lower rank."""

    def __init__(self, backend: Tokenizer, *, size: int):
        """backend: a tokenizer whose model is a BPE; size: V."""
        model = json.loads(backend.to_str())["model"]
        id_of = model["vocab"]
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        self.size = size
        self.rank = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(pairs)}
        made = {(id_of[left], id_of[right]): id_of[left + right] for left, right in pairs}
        self.last = {token: self._last_merge([id_of[letter] for letter in text], made)
                     for text, token in id_of.items() if all(letter in id_of for letter in text)}
        self.with_left = defaultdict(list)  # of x: (rank, y), ascending
        for (left, right), rank in self.rank.items():
            self.with_left[left].append((rank, right))
        self._number_beginnings()

    def _last_merge(self, parts: list[int], made: dict[tuple[int, int], int]) -> tuple[int, int] | None:
        """The two parts whose merge makes a token of these letters; None if merges do not make one token of them."""
        while len(parts) > 2:
            rank, at = min((self.rank.get(pair, NEVER), at) for at, pair in enumerate(pairwise(parts)))
            if rank == NEVER:
                return None
            parts = [*parts[:at], made[parts[at], parts[at + 1]], *parts[at + 2 :]]
        return tuple(parts) if tuple(parts) in self.rank else None

    def _number_beginnings(self) -> None:
        """Number tokens so that those that begin with a part y, as merges build them, follow y without a gap.

        Among them, those that merge y later come later.
        """
        begins = defaultdict(list)  # of y: (rank, token) of the merges of y and what follows that make a token
        for token, parts in self.last.items():
            if parts:
                begins[parts[0]].append((self.rank[parts], token))
        self.first_V = [0] * self.size
        self.end_V = [0] * self.size
        self.ranks = {}  # of y: those ranks
        self.starts = {}  # and where the tokens' numbers begin
        number = 0
        waiting = [(token, False) for token in range(self.size) if not self.last.get(token)]
        while waiting:
            token, done = waiting.pop()
            if done:
                self.end_V[token] = number
                self.starts[token] = [self.first_V[each] for _, each in begins[token]]
                continue
            self.first_V[token] = number
            number += 1
            begins[token].sort()
            self.ranks[token] = [rank for rank, _ in begins[token]]
            waiting.append((token, True))
            waiting += [(each, False) for _, each in reversed(begins[token])]
        self.number_V = torch.tensor(self.first_V)

    @lru_cache(maxsize=4096)  # noqa: B019  one object a tokenizer
    def may_follow(self, token: int) -> Tensor:
        """Whether a token may be the next one after this one (bool [V]); ids without merges always may."""
        allowed_V = torch.ones(self.size, dtype=torch.bool)  # by number
        part, merged_at = token, NEVER
        while True:
            for rank, right in self.with_left[part]:
                if rank >= merged_at:
                    break
                later = bisect_left(self.ranks[right], rank)
                first = self.starts[right][later] if later < len(self.starts[right]) else self.end_V[right]
                allowed_V[self.first_V[right]] = False
                allowed_V[first : self.end_V[right]] = False
            if not self.last.get(part):
                return allowed_V[self.number_V]
            merged_at = self.rank[self.last[part]]
            part = self.last[part][1]
