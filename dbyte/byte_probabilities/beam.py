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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dbyte.byte_probabilities.token_model import TokenTree, TreeReader
from dbyte.text.sorted_vocabulary import SortedVocabulary


@dataclass(frozen=True)
class State:
    """A node of the tree of tokens, its log-probability, and that of the node with the bytes after it."""

    node: int
    of_node: float
    log_prob: float


class Beam:
    """Reads one text byte by byte; `healed` counts how often no state was left."""

    def __init__(self, reader: TreeReader, vocabulary: SortedVocabulary, *, bos_token_id: int, K: int, epsilon: float):
        """reader: has read nothing. K: states that are kept, at least 1; epsilon in (0, 1); else ValueError."""
        if K < 1:
            raise ValueError(f"a beam keeps at least one state, found K = {K}: take 3 or more")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon is a share of the beam, in (0, 1), found {epsilon}: take 0.01 or less")
        self.reader = reader
        self.vocabulary = vocabulary
        self.K = K
        self.log_epsilon = math.log(epsilon)
        self.tree = TokenTree(bos_token_id)
        self.prob_V: dict[int, Tensor] = {}  # of the nodes of states: what the next token is
        self.text = b""
        self.states = [State(0, 0.0, 0.0)]
        self.healed = 0
        self._ask()

    @torch.inference_mode()
    def log_probs(self, data: bytes) -> Tensor:
        """Read bytes; the log-probabilities of what follows, before and after each of them (fp32 [P, S]).

        Symbol 256 ends the text. Raises ValueError for a byte that no token has.
        """
        rows = [self._next()]
        for byte in data:
            self._read(byte)
            rows.append(self._next())
        return torch.stack(rows)

    def _left(self, state: State) -> bytes:
        """The bytes after a state's tokens."""
        return self.text[self.tree.place[state.node] :]

    def _sums(self, state: State) -> Tensor:
        """The probability that a state's next token has these bytes and goes on with each symbol: fp64 [S]."""
        node = self.vocabulary.node(self._left(state))
        return self.vocabulary.sums(self.prob_V[state.node][:, None], [[node]], "bytes")[0].cpu()

    def _next(self) -> Tensor:
        """The distribution of the next symbol."""
        peak = max(state.of_node for state in self.states)
        mass_S = sum(math.exp(state.of_node - peak) * self._sums(state) for state in self.states)
        return (mass_S / mass_S.sum()).log().float()

    def _read(self, byte: int) -> None:
        before = sorted(self.states, key=lambda state: -state.log_prob)
        moved = [replace(state, log_prob=state.of_node + math.log(mass)) for state in before
                 if (mass := self._sums(state)[byte].item())]
        self.text += bytes([byte])
        if moved:
            total = _log_sum(moved)
            kept = [state for state in moved if state.log_prob - total > self.log_epsilon] or moved
            self.states = sorted(kept, key=lambda state: -state.log_prob)[: self.K]
        else:
            self._heal(before)
        least = _log_sum(self.states) + self.log_epsilon
        for state in list(self.states):
            node = self.vocabulary.node(self._left(state))
            for place in range(node.low, node.longer):
                if node.longer == node.high or self._log_prob(state, place, place + 1) > least:
                    self.states.append(self._after(state, place))
        self._ask()

    def _log_prob(self, state: State, low: int, high: int) -> float:
        """The log-probability of a state's node and one of these tokens, by sorted places."""
        mass = self.prob_V[state.node][low:high].sum().item()
        return state.of_node + math.log(max(mass, sys.float_info.min))  # fp64 has no number for the least

    def _after(self, state: State, place: int) -> State:
        """The state after one more token."""
        token = self.vocabulary.id_V[place].item()
        log_prob = self._log_prob(state, place, place + 1)
        return State(self.tree.add(state.node, token, len(self.vocabulary.texts[place])), log_prob, log_prob)

    def _ask(self) -> None:
        """Let the model read new nodes; forget what it said of nodes that no state is at."""
        for nodes, log_VT in self.reader.log_probs(self.tree):
            for column, node in enumerate(nodes):
                self.prob_V[node] = log_VT[self.vocabulary.id_V, column].double().exp()
        self.prob_V = {state.node: self.prob_V[state.node] for state in self.states}

    def _heal(self, states: Sequence[State]) -> None:
        """Make the one state that splits its bytes otherwise, from the likeliest state that can."""
        for state in states:
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
        self.states = [replace(state, log_prob=self._log_prob(state, node.low, node.high))]

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
