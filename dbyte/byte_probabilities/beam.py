"""The next byte after each beginning of a text by a beam of coverings: the approximation of the literature.

A state is some tokens, and the bytes after them, with which the next token begins. If these bytes are a token
themselves, the state that follows it joins the beam. Then all states read the next byte, and those with less than
epsilon of the beam's probability are dropped, as are all but the K likeliest (Vieira et al., arXiv 2412.03719; BLD,
arXiv 2604.07466, with K = 10 and epsilon = 0.01). If none is left, the beam is healed: of the likeliest state, whose
bytes can be split into tokens in another way, one state is made.

All sequences of tokens count here, also those that are no tokenizer's encoding. If `encodings` are given, these alone
count, and with enough states this is what `coverings.py` says.

Shape letters: V token ids, P places of the text, S = 257 symbols.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dbyte.byte_probabilities.encodings import Encodings, TokenTree
from dbyte.byte_probabilities.token_model import TokenModel
from dbyte.byte_probabilities.vocabulary import SortedVocabulary


@dataclass(frozen=True)
class State:
    """A node of the tree of tokens, its log-probability, and that of the node with the bytes after it."""

    node: int
    of_node: float
    log_prob: float


class Beam:
    """Reads one text byte by byte; `healed` counts how often no state was left."""

    def __init__(
        self, model: TokenModel, vocabulary: SortedVocabulary, *, bos_token_id: int, K: int, epsilon: float,
        encodings: Encodings | None = None,
    ):
        """K: states that are kept, at least 1; epsilon in (0, 1); else ValueError.

        encodings: count the tokenizer's encodings alone; None: all sequences of tokens.
        """
        if K < 1:
            raise ValueError(f"a beam keeps at least one state, found K = {K}: take 3 or more")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon is a share of the beam, in (0, 1), found {epsilon}: take 0.01 or less")
        self.vocabulary = vocabulary
        self.id_V = vocabulary.id_V.to(model.device)
        self.encodings = encodings
        self.K = K
        self.log_epsilon = math.log(epsilon)
        self.tree = TokenTree([bos_token_id])
        self.reader = model.reader()
        self.prob_V: dict[int, Tensor] = {}  # of the nodes of states
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
        path = [self.vocabulary.node(self._left(state))]
        return self.vocabulary.sums(self.prob_V[state.node][self.id_V, None], [path], "bytes")[0].cpu()

    def _next(self) -> Tensor:
        """The distribution of the next symbol."""
        peak = max(state.of_node for state in self.states)
        mass_S = sum(math.exp(state.of_node - peak) * self._sums(state) for state in self.states)
        return (mass_S / mass_S.sum()).log().float()

    def _read(self, byte: int) -> None:
        before = sorted(self.states, key=lambda state: -state.log_prob)
        moved = [State(state.node, state.of_node, state.of_node + math.log(mass)) for state in before
                 if (mass := self._sums(state)[byte].item())]
        if moved:
            total = _log_sum(moved)
            kept = [state for state in moved if state.log_prob - total > self.log_epsilon] or moved
            self.text += bytes([byte])
            self.states = sorted(kept, key=lambda state: -state.log_prob)[: self.K]
        else:
            self._heal(before, byte)
        least = _log_sum(self.states) + self.log_epsilon
        for state in list(self.states):
            node = self.vocabulary.node(self._left(state))
            for token in self.vocabulary.id_V[node.low : node.low + node.ended].tolist():
                self._add(state, token, node.depth, least if node.goes_on else -math.inf)
        self._ask()

    def _add(self, state: State, token: int, size: int, least: float = -math.inf) -> None:
        """Add the state after one more token, if its log-probability is at least this."""
        if prob := self.prob_V[state.node][token].item():
            log_prob = state.of_node + math.log(prob)
            if log_prob > least:
                # a new node also where a healed beam comes back to one that was forgotten
                self.states.append(State(self.tree.add(state.node, token, size, again=True), log_prob, log_prob))

    def _ask(self) -> None:
        """Let the model read new nodes; forget what it said of nodes that no state is at."""
        for nodes, log_VT in self.reader.log_probs(self.tree):
            for column, node in enumerate(nodes):
                prob_V = log_VT[:, column].exp()
                if self.encodings:
                    before = self.text[: self.tree.place[node]]
                    prob_V *= self.encodings.may_follow(before, self.tree.token[node]).to(prob_V.device)
                self.prob_V[node] = prob_V
        self.prob_V = {state.node: self.prob_V[state.node] for state in self.states}

    def _heal(self, states: Sequence[State], byte: int) -> None:
        """Make the one state that splits its bytes and this one otherwise, from the likeliest state that can."""
        for state in states:
            if pieces := self._split(self._left(state) + bytes([byte])):
                break
        else:
            raise ValueError(f"no token has the byte 0x{byte:02X} (byte {len(self.text)}): remove it from the text")
        self.healed += 1
        self.text += bytes([byte])
        self.states = [state]
        for piece in pieces:
            node = self.vocabulary.node(piece)
            self._add(self.states[0], self.vocabulary.id_V[node.low].item(), len(piece))
            self.states = self.states[-1:]
            self._ask()
        state = self.states[0]
        node = self.vocabulary.node(self._left(state))
        mass = self.prob_V[state.node][self.id_V[node.low : node.high]].sum().item()
        self.states = [State(state.node, state.of_node, state.of_node + math.log(max(mass, 1e-300)))]

    def _split(self, data: bytes) -> list[bytes] | None:
        """The tokens of some bytes, the first as long as possible; what is left over is the beginning of a token."""
        for first in range(len(data) - 1, 0, -1):
            pieces = [data[:first]]
            rest = b""
            for byte in data[first:]:
                if self.vocabulary.node(rest + bytes([byte])) is None:
                    pieces.append(rest)
                    rest = b""
                rest += bytes([byte])
            if all((node := self.vocabulary.node(piece)) and node.ended for piece in pieces) \
                    and self.vocabulary.node(rest):
                return pieces
        return None


def _log_sum(states: Sequence[State]) -> float:
    return torch.tensor([state.log_prob for state in states]).logsumexp(0).item()
