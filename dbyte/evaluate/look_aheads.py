"""MBP's look-ahead for many bytes of given texts at once; `dbyte/decode/lookahead.py` is the reference.

Where the guess of the next byte is the byte that comes, the router has judged the pair already. Every other guess is
tried behind its byte: the stack that the router reads, which kept its states where decisions begin, goes over what
follows once more, tries guesses as it passes and goes on as if it had not. Rounds over the same texts ask again and
again: what was tried once is remembered.

Shape letters: T nodes of the bytes' trees, P bytes that are asked about, S guesses to be tried, B rows
that go on by steps, C states that are kept, X numbers of a state, D width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.evaluate.shared_context import SharedTexts
from dbyte.model import fused_stack
from dbyte.model.blocks import Stack
from dbyte.model.fused_map import read_map
from dbyte.model.mamba2 import Mamba2State
from dbyte.model.router import BYTES, THRESHOLD, Router, boundary_prob
from dbyte.model.student import ByteStudent, is_special
from dbyte.text.spans import EOS


def can_try(student: ByteStudent, *, compiled: bool) -> bool:
    """Whether guesses can be tried in passing: in compiled code alone."""
    return compiled and fused_stack.can_fuse(router_stack(student))


class LookAheads:
    """Whether chunks end at bytes of these texts, were guesses to follow."""

    def __init__(self, texts: SharedTexts, prob_T: Tensor):
        """texts: of which `router_stack` has kept its states before decisions begin.

        prob_T: the router's for the bytes that do follow, as of `SharedTexts.boundary_prob`.
        """
        self.texts = texts
        stack, self.embedding = _reads(texts.student)
        self.stack = fused_stack.stack_step(stack, compiled=True)
        node_C, self.kept_CX = texts.kept[stack]
        self.number_T = np.full(len(texts.tree), -1)
        self.number_T[node_C] = np.arange(len(node_C))
        self.routed_T = (prob_T >= THRESHOLD).cpu().numpy()
        self.known: dict[int, bool] = {}  # (node, guess) as one number

    def decide(self, node_P: np.ndarray, next_P: np.ndarray, guess_P: np.ndarray) -> np.ndarray:
        """Whether a chunk ends at these nodes (bool [P]); next_P: the nodes that follow."""
        ends_P, key_P = self.routed_T[next_P], node_P * BYTES + guess_P
        other_P = self.texts.tree.symbol_T[next_P] != guess_P
        new = np.unique(key_P[other_P])  # ascending, as the nodes are
        new = new[[key not in self.known for key in new.tolist()]] if len(new) else new
        if len(new):
            self.known.update(zip(new.tolist(), self._try(*np.divmod(new, BYTES)).tolist(), strict=True))
        ends_P[other_P] = [self.known[key] for key in key_P[other_P].tolist()]
        return ends_P

    def _try(self, node_S: np.ndarray, guess_S: np.ndarray) -> Tensor:
        """The decision for each node (ascending) and guess: bool [S]."""
        whole, byte_S, guess_S = self.texts.tree, self.texts.byte_T[node_S], torch.from_numpy(guess_S)
        tree, node_T = whole.above(np.unique(node_S), self.number_T >= 0)
        behind_T = (tree.parent_T < 0) & (whole.parent_T[node_T] >= 0)
        origin_T = np.where(behind_T, self.number_T[whole.parent_T[node_T]], -1)
        tried_SD = self.stack.read_tries(
            self.embedding(torch.from_numpy(tree.symbol_T)), tree, np.searchsorted(node_T, node_S),
            self.embedding(guess_S), kept_CX=self.kept_CX, origin_T=origin_T)
        return self.judge(node_S, byte_S, guess_S, tried_SD)

    def judge(self, node_S: np.ndarray, byte_S: Tensor, guess_S: Tensor, tried_SD: Tensor) -> Tensor:
        """The decision for nodes and their bytes, behind which the router's stack has tried the guesses: bool [S]."""
        router = self.texts.student.router
        if isinstance(router, Router):
            key_SD = read_map(router.key, tried_SD, compiled=True)
            prob_S = boundary_prob(self.texts.query_TD[node_S], key_SD)
        else:
            prob_S = router.before(tried_SD)
        return (prob_S >= THRESHOLD) | is_special(byte_S) | (guess_S == EOS)

    def step_from(self, node_B: np.ndarray) -> "Tries":
        """Go on by steps behind these nodes, before decisions begin; -1: before a text's first byte."""
        number_B = np.where(node_B >= 0, self.number_T[node_B], -1)
        return Tries(self, self.stack.go_on(self.kept_CX, torch.from_numpy(number_B)))


class Tries:
    """The same byte by byte, for B rows that shrink."""

    def __init__(self, look_aheads: LookAheads, states: list[Mamba2State]):
        self.look_aheads, self.states = look_aheads, states

    def take_in(self, byte_B: Tensor) -> None:
        """Take in the next byte of each row."""
        self.look_aheads.stack.step(self.look_aheads.embedding(byte_B), self.states)

    def decide(self, node_B: np.ndarray, byte_B: Tensor, guess_B: Tensor) -> Tensor:
        """Take in the next bytes, of these nodes; whether chunks end there, were guesses to follow: bool [B]."""
        embedding = self.look_aheads.embedding
        tried_BD = self.look_aheads.stack.step_and_try(embedding(byte_B), embedding(guess_B), self.states)
        return self.look_aheads.judge(node_B, byte_B, guess_B, tried_BD)


def router_stack(student: ByteStudent) -> Stack:
    """The stack whose states the router compares."""
    return _reads(student)[0]


def _reads(student: ByteStudent) -> tuple[Stack, nn.Embedding]:
    """The same, and what that reads of bytes."""
    part = student if isinstance(student.router, Router) else student.router
    return (student.encoder if part is student else part.stack), part.byte_embedding
