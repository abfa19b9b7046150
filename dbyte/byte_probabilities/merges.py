"""Which token may follow which in a text's own encoding, by the merges of a byte-level BPE.

A BPE cuts no text into the tokens "t" and "he" if it has a merge that joins bytes across that cut before they are
joined otherwise. Whether it would is decided by two tokens alone: let x be a part at the end of the left token, and y
one at the beginning of the right one, as their own merges build them up. The merge of x and y is made, and the pair is
no encoding, if it comes before x is merged within the left token, and not after y is merged within the right one (of
equal merges the leftmost is made first). The tokens of a word are its encoding if each pair of them is one. Where a
text is split into words, `encodings.py` knows.

Shape letters: V token ids, P pairs of a token and a part at its beginning.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from tokenizers import Tokenizer
from torch import Tensor

NEVER = 2**62  # the rank of a merge that is not made
BEGINNING, END = 0, 1  # of the two parts that a merge makes a token of


class Merges:
    """The merges of a BPE: part, part and their rank; the earlier merge has the lower rank."""

    def __init__(self, backend: Tokenizer, *, size: int):
        """backend: a tokenizer whose model is a BPE; size: V."""
        model = json.loads(backend.to_str())["model"]
        id_of = model["vocab"]
        rank_of = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
        self.size = size
        self.last = {}  # of a token that merges make: its two last parts, and their rank
        for text, token in id_of.items():
            if last := _last_merge(text, rank_of):
                self.last[token] = (*map(id_of.get, last), rank_of[last])
        self.made = {token for text, token in id_of.items() if len(text) == 1 or token in self.last}
        self.with_left = defaultdict(list)  # of x: (y, rank), the earliest first
        for (left, right), rank in rank_of.items():
            self.with_left[id_of[left]].append((id_of[right], rank))
        begins = [(token, *part) for token in range(size) for part in self._parts(token, BEGINNING)]
        self.token_P, self.part_P, self.merged_P = torch.tensor(begins).T

    def _parts(self, token: int, side: int) -> Iterator[tuple[int, int]]:
        """The parts at one side of a token, itself first, and the rank of the merge by which each becomes longer."""
        yield token, NEVER
        while token in self.last:
            *parts, rank = self.last[token]
            token = parts[side]
            yield token, rank

    @lru_cache(maxsize=512)  # noqa: B019  one object a tokenizer; V bytes each
    def may_follow(self, token: int) -> Tensor:
        """Whether a token may be the next one after this one (bool [V]); ids without merges always may."""
        joined = {}  # of each part y: the first merge that joins it to this token
        for x, merged_at in self._parts(token, END):
            for y, rank in self.with_left[x]:
                if rank >= merged_at:
                    break
                joined[y] = min(rank, joined.get(y, NEVER))
        joined_V = torch.full((self.size,), NEVER)
        joined_V[list(joined)] = torch.tensor(list(joined.values()), dtype=torch.long)
        joined_P = joined_V[self.part_P]
        allowed_V = torch.ones(self.size, dtype=torch.bool)
        allowed_V[self.token_P[(joined_P < NEVER) & (joined_P <= self.merged_P)]] = False
        return allowed_V


def _last_merge(text: str, rank_of: dict[tuple[str, str], int]) -> tuple[str, str] | None:
    """The two parts whose merge makes one token of a text; None if merges do not make one of it."""
    parts = list(text)
    while len(parts) > 2:
        rank, at = min((rank_of.get(pair, NEVER), at) for at, pair in enumerate(pairwise(parts)))
        if rank == NEVER:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(parts) if tuple(parts) in rank_of else None
