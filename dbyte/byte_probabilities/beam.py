"""The next byte after each beginning of a text by a beam of coverings: the approximation of the literature.

A state is some tokens, and the bytes after them, with which the next token begins. If these bytes are a token
themselves, the state that follows it joins the beam. Then all states read the next byte, and those with less than
epsilon of the beam's probability are dropped, as are all but the K likeliest (Vieira et al., arXiv 2412.03719; BLD,
arXiv 2604.07466, with K = 10 and epsilon = 0.01). If none is left, the beam is healed: of the likeliest state, whose
bytes can be split into tokens in another way, one state is made. All sequences of tokens count, also those that are no
tokenizer's encoding.

Shape letters: V token ids in sorted order, P places of the text, S = 257 symbols.
"""

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dbyte.byte_probabilities.token_model import TokenTree, TreeReader
from dbyte.byte_probabilities.vocabulary import SortedVocabulary


class State(NamedTuple):
    """Some tokens, a node of the tree of tokens, and the bytes after them; states sort by probability."""

    log_prob: float  # with these bytes
    of_node: float  # without them
    node: int


class Beam:
    """Reads one text byte by byte; `healed` counts how often no state was left."""

    def __init__(self, reader: TreeReader, vocabulary: SortedVocabulary, *, bos_token_id: int, K: int, epsilon: float):
        """reader: has read nothing. K: states that are kept, at least 1; epsilon in (0, 1); else ValueError."""
        if K < 1:
            raise ValueError(f"a beam keeps at least one state, found K = {K}: take 3 or more")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon is a share of the beam, in (0, 1), found {epsilon}: take 0.01 or less")
        self.reader, self.vocabulary = reader, vocabulary
        self.K, self.log_epsilon = K, math.log(epsilon)
        self.tree = TokenTree(bos_token_id)
        self.prob_V: dict[int, Tensor] = {}  # of the nodes of states: what the next token is
        self.text, self.healed = b"", 0
        self.states = [State(0.0, 0.0, 0)]  # the likeliest first
        self._ask()

    @torch.inference_mode()
    def log_probs(self, data: bytes) -> Tensor:
        """Read bytes; the log-probabilities of what follows, before and after each of them (fp32 [P, S]).

        Symbol 256 ends the text. Raises ValueError for a byte that no token has.
        """
        rows = []
        for byte in [*data, None]:
            log_KS = torch.stack([self._sums(state) for state in self.states])  # of the text so far and what follows
            rows.append(log_KS.logsumexp(0).log_softmax(0).float())
            if byte is not None:
                self._read(byte, log_KS[:, byte].tolist())
        return torch.stack(rows)

    def _left(self, state: State) -> bytes:
        """The bytes after a state's tokens."""
        return self.text[self.tree.place[state.node] :]

    def _sums(self, state: State) -> Tensor:
        """The log-probabilities of a state's tokens and a next one that has its bytes and each symbol: fp64 [S]."""
        path = [self.vocabulary.node(self._left(state))]
        return self.vocabulary.sums(self.prob_V[state.node][:, None], [path], "bytes")[0].cpu().log() + state.of_node

    def _read(self, byte: int, log_prob_K: Sequence[float]) -> None:
        """Move each state by a byte, after which it has such a probability, drop some, and add those that follow."""
        self.text += bytes([byte])
        moved = sorted((state._replace(log_prob=log_prob) for state, log_prob in
                        zip(self.states, log_prob_K, strict=True) if log_prob > -math.inf), reverse=True)
        if moved:
            least = _log_sum(moved) + self.log_epsilon
            self.states = [state for state in moved if state.log_prob > least][: self.K] or moved[: self.K]
        else:
            self._heal()
        least = _log_sum(self.states) + self.log_epsilon
        for state in list(self.states):
            node = self.vocabulary.node(self._left(state))
            for place in range(node.low, node.longer):
                if node.longer == node.high or self._log_prob(state, place, place + 1) > least:
                    self.states.append(self._after(state, place))
        self.states.sort(reverse=True)
        self._ask()

    def _log_prob(self, state: State, low: int, high: int) -> float:
        """The log-probability of a state's node and one of these tokens, by sorted places."""
        mass = self.prob_V[state.node][low:high].sum().item()
        return state.of_node + math.log(max(mass, sys.float_info.min))  # fp32 has no number for the least

    def _after(self, state: State, place: int) -> State:
        """The state after one more token."""
        token = self.vocabulary.id_V[place].item()
        log_prob = self._log_prob(state, place, place + 1)
        return State(log_prob, log_prob, self.tree.add(state.node, token, len(self.vocabulary.texts[place])))

    def _ask(self) -> None:
        """Let the model read new nodes; forget what it said of nodes that no state is at."""
        for nodes, log_VT in self.reader.log_probs(self.tree):
            for column, node in enumerate(nodes):
                self.prob_V[node] = log_VT[self.vocabulary.id_V, column].exp()
        self.prob_V = {state.node: self.prob_V[state.node] for state in self.states}

    def _heal(self) -> None:
        """Make the one state that splits its bytes otherwise, from the likeliest state that can."""
        for state in self.states:
            if places := self._split(self._left(state)):
                break
        else:
            raise ValueError(f"no token has the byte 0x{self.text[-1]:02X} (byte {len(self.text) - 1}): remove it from "
                             "the text")
        self.healed += 1
        for place in places:
            state = self._after(state, place)
            self.states = [state]
            self._ask()
        node = self.vocabulary.node(self._left(state))
        self.states = [state._replace(log_prob=self._log_prob(state, node.low, node.high))]

    def _split(self, data: bytes) -> list[int] | None:
        """Some bytes as tokens (sorted places), the first as long as possible, and the beginning of one more."""
        for first in range(len(data) - 1, 0, -1):
            pieces = [data[:first], b""]
            for byte in data[first:]:
                if self.vocabulary.node(pieces[-1] + bytes([byte])) is None:
                    pieces.append(b"")
                pieces[-1] += bytes([byte])
            *nodes, rest = map(self.vocabulary.node, pieces)
            if rest and all(node and node.low < node.longer for node in nodes):
                return [node.low for node in nodes]
        return None


def _log_sum(states: Sequence[State]) -> float:
    return torch.tensor([state.log_prob for state in states]).logsumexp(0).item()
