"""The tokens of a vocabulary sorted by their bytes: what begins with the same bytes is one range of them.

A prefix tree needs no nodes then. The tokens that begin with some bytes are neighbours, so a node is a range
[low, high), and one byte more is a range within it. A probability of bytes is a sum of token probabilities over such a
range: only numbers >= 0 are added, so nothing cancels, however small it is.

A token that is text has bytes. All other ids (special tokens, unused and padded ids) end a text, and are counted
together as one symbol.

Shape letters: V token ids, T positions of a token model, X of them that ask for a node, R nodes asked for, S symbols.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

import torch
from torch import Tensor

BYTES = 256
STOP = 256  # of "bytes" and "ends": the text ends; within a token, "ends" alone: the token ends
JOINT = 2 * BYTES  # symbols of JBP (section 4.1.2): a byte, + 256 if it ends its token
JOINT_STOP = JOINT - 1  # the byte EOS, which is a token
FEW = 8  # a node that fewer than one in so many positions ask for
ALPHABETS = {"bytes": BYTES + 1, "ends": BYTES + 1, "joint": JOINT}


@dataclass(frozen=True)
class Node:
    """The tokens that begin with `depth` certain bytes: sorted places low..high - 1, longer ones from `longer`."""

    depth: int
    low: int
    longer: int
    high: int


class SortedVocabulary:
    """Token ids in the order of their bytes, and sums of their probabilities.

    id_V: int64, the ids in this order, those without bytes last. text_of: the bytes of each id.
    """

    def __init__(self, token_bytes: Sequence[bytes], *, size: int | None = None):
        """token_bytes: by id, empty for what is no text. size: ids of the model, None: as many as are given.

        Raises ValueError if no token has bytes, or the model has fewer ids.
        """
        size = len(token_bytes) if size is None else size
        if size < len(token_bytes):
            raise ValueError(f"the model has {size} token ids, its tokenizer {len(token_bytes)}: take the tokenizer "
                             "that belongs to the model")
        self.text_of = [*token_bytes, *[b""] * (size - len(token_bytes))]
        self.texts = sorted(filter(None, token_bytes))
        if not self.texts:
            raise ValueError("no token has bytes: give the bytes of each token id, as TokenBytes.token_bytes has them")
        self.id_V = torch.tensor(sorted(range(size), key=lambda token: (not self.text_of[token], self.text_of[token])))
        self.longest = max(map(len, self.texts))  # bytes of a token
        self._nodes: dict[bytes, Node | None] = {}
        self._ranges: dict[tuple[Node, str], list[tuple[int, int, int]]] = {}

    def __len__(self) -> int:
        return len(self.id_V)

    def node(self, prefix: bytes) -> Node | None:
        """The tokens that begin with these bytes; None if there are none."""
        if prefix not in self._nodes and len(prefix) <= self.longest:
            low = bisect_left(self.texts, prefix)
            high = bisect_right(self.texts, prefix, lo=low, key=lambda text: text[: len(prefix)])
            longer = bisect_right(self.texts, prefix, lo=low, hi=high)
            self._nodes[prefix] = Node(len(prefix), low, longer, high) if low < high else None
        return self._nodes.get(prefix)

    def path(self, text: bytes) -> list[Node]:
        """The nodes of a text's beginnings, from the empty one on, as far as tokens begin so."""
        return list(takewhile(bool, (self.node(text[:size]) for size in range(len(text) + 1))))

    def ranges(self, node: Node, alphabet: str) -> list[tuple[int, int, int]]:
        """The symbols after a node and the sorted places of the tokens that go on with each: (symbol, first, end).

        alphabet: "bytes", the byte after the node's, of the tokens that have one; "ends", that byte, or STOP for a
        token that ends at the node; "joint", that byte, + 256 if the token ends with it. At the root, ids without bytes
        go on with STOP or JOINT_STOP.
        """
        if (node, alphabet) not in self._ranges:
            def symbol(place: int) -> int:
                byte = self.texts[place][node.depth]
                return byte + BYTES * (alphabet == "joint" and len(self.texts[place]) == node.depth + 1)

            found = [(STOP, node.low, node.longer)] if alphabet == "ends" and node.low < node.longer else []
            for each, places in groupby(range(node.longer, node.high), key=symbol):
                first, *rest = places
                found.append((each, first, first + 1 + len(rest)))
            if node.depth == 0 and len(self.texts) < len(self):
                found.append((JOINT_STOP if alphabet == "joint" else STOP, len(self.texts), len(self)))
            self._ranges[node, alphabet] = found
        return self._ranges[node, alphabet]

    def sums(self, prob_VT: Tensor, paths: Sequence[Sequence[Node]], alphabet: str) -> Tensor:
        """What the tokens of each node add up to by symbol: fp64 [R, S], the nodes of all paths one after another.

        prob_VT: numbers >= 0 for all ids in sorted order, at T positions; paths: one for each position.
        """
        asked = defaultdict(list)  # of a node: the positions that ask for it, and their rows of the table
        nodes = [(position, node) for position, path in enumerate(paths) for node in path]
        for row, (position, node) in enumerate(nodes):
            asked[node].append((position, row))
        table_SR = prob_VT.new_zeros(ALPHABETS[alphabet], len(nodes), dtype=torch.float64)
        for node, places in asked.items():
            if ranges := self.ranges(node, alphabet):
                position_X, row_X = torch.tensor(places, device=prob_VT.device).T
                symbol_X1 = torch.tensor([[symbol] for symbol, _, _ in ranges], device=prob_VT.device)
                table_SR.index_put_((symbol_X1, row_X), _sums(prob_VT, position_X, ranges), accumulate=True)
        return table_SR.T


def _sums(prob_VT: Tensor, position_X: Tensor, ranges: Sequence[tuple[int, int, int]]) -> Tensor:
    """The sums over each range at some positions: fp64, a row a range."""
    low, high = ranges[0][1], ranges[-1][2]
    few = FEW * len(position_X) < prob_VT.shape[1]  # to copy many columns takes longer than to add up all
    some_XT = prob_VT[low:high, position_X] if few else prob_VT[low:high]
    # torch adds up columns in blocks, so fp32 is enough for up to V numbers
    sums_XX = torch.stack([some_XT[first - low : end - low].sum(0) for _, first, end in ranges])
    return (sums_XX if few else sums_XX[:, position_X]).double()
