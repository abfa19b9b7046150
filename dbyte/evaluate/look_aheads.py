"""MBP's look-ahead for many bytes of given texts at once; `dbyte/decode/lookahead.py` is the reference.

Where the guess of the next byte is the byte that comes, the router has judged the pair already. Every other guess is
tried behind its byte. The stack that the router reads has kept its states where decisions begin and noted what follows:
by its notes a state goes on without a product, tries guesses as it passes and goes on as if it had not. Rounds over the
same texts ask again and again: what was tried once is remembered.

Shape letters: T nodes of the bytes' trees, P bytes that are asked about, S guesses to be tried, B rows that go on by
steps, C states and Q notes that are kept, X numbers of a state, Y of a note, D width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from dbyte.evaluate.shared_context import SharedTexts
from dbyte.model.blocks import Stack
from dbyte.model.router import BYTES, THRESHOLD, Router, boundary_prob
from dbyte.model.student import ByteStudent, is_special
from dbyte.native import stack as fused_stack
from dbyte.native.linear import read_map
from dbyte.text.spans import EOS


def can_try(student: ByteStudent, *, compiled: bool) -> bool:
    """Whether guesses can be tried in passing: in compiled code alone."""
    return compiled and fused_stack.can_fuse(router_stack(student))


class LookAheads:
    """Whether chunks end at bytes of these texts, were guesses to follow."""

    def __init__(self, texts: SharedTexts, prob_T: Tensor):
        """texts: of which `router_stack` has kept its states before decisions begin, and noted what they are about.

        prob_T: the router's for the bytes that do follow, as of `SharedTexts.boundary_prob`.
        """
        self.texts = texts
        stack, self.embedding = _reads(texts.student)
        self.stack = fused_stack.stack_step(stack, compiled=True)
        self.kept = texts.kept[stack]
        self.number_T, self.note_T = np.full((2, len(texts.tree)), -1)
        self.number_T[self.kept.node_C] = np.arange(len(self.kept.node_C))
        self.note_T[self.kept.node_Q] = np.arange(len(self.kept.node_Q))
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
        whole, guess_S = self.texts.tree, torch.from_numpy(guess_S)
        tree, node_T = whole.above(np.unique(node_S), self.number_T >= 0)
        behind_T = (tree.parent_T < 0) & (whole.parent_T[node_T] >= 0)
        origin_T = np.where(behind_T, self.number_T[whole.parent_T[node_T]], -1)
        tried_SD = self.stack.read_tries(
            tree, self.note_T[node_T], np.searchsorted(node_T, node_S), self.embedding(guess_S),
            kept_CX=self.kept.states_CX, origin_T=origin_T, noted_QY=self.kept.notes_QY)
        return self.judge(node_S, guess_S, tried_SD)

    def judge(self, node_S: np.ndarray, guess_S: Tensor, tried_SD: Tensor) -> Tensor:
        """The decision for nodes, behind which the router's stack has tried the guesses: bool [S]."""
        router = self.texts.student.router
        if isinstance(router, Router):
            key_SD = read_map(router.key, tried_SD, compiled=True)
            prob_S = boundary_prob(self.texts.query_TD[node_S], key_SD)
        else:
            prob_S = router.before(tried_SD)
        return (prob_S >= THRESHOLD) | is_special(self.texts.byte_T[node_S]) | (guess_S == EOS)

    def step_from(self, node_B: np.ndarray) -> "Tries":
        """Go on by steps behind these nodes, before decisions begin; -1: before a text's first byte."""
        number_B = np.where(node_B >= 0, self.number_T[node_B], -1)
        return Tries(self, fused_stack.of_rows(self.kept.states_CX, torch.from_numpy(number_B)))


class Tries:
    """The same byte by byte, for B rows that shrink."""

    def __init__(self, look_aheads: LookAheads, states_BX: Tensor):
        self.look_aheads, self.states_BX = look_aheads, states_BX

    def take_in(self, node_B: np.ndarray) -> None:
        """Take in the next byte of each row, of these nodes."""
        self._go_on(node_B, np.zeros(0, dtype=int), torch.zeros(0, dtype=torch.long))

    def decide(self, node_B: np.ndarray, next_B: np.ndarray, guess_B: np.ndarray) -> Tensor:
        """Take in the next bytes, of these nodes; whether chunks end there, were guesses to follow: bool [B].

        next_B: the nodes that do follow.
        """
        known = self.look_aheads
        row_S = np.flatnonzero(known.texts.tree.symbol_T[next_B] != guess_B)
        guess_S, ends_B = torch.from_numpy(guess_B[row_S]), torch.from_numpy(known.routed_T[next_B])
        tried_SD = self._go_on(node_B, row_S, guess_S)
        if len(row_S):
            ends_B[torch.from_numpy(row_S)] = known.judge(node_B[row_S], guess_S, tried_SD)
        return ends_B

    def _go_on(self, node_B: np.ndarray, row_S: np.ndarray, guess_S: Tensor) -> Tensor:
        known = self.look_aheads
        return known.stack.step_noted(known.note_T[node_B], row_S, known.embedding(guess_S), states_BX=self.states_BX,
                                      noted_QY=known.kept.notes_QY)


def router_stack(student: ByteStudent) -> Stack:
    """The stack whose states the router compares."""
    return _reads(student)[0]


def _reads(student: ByteStudent) -> tuple[Stack, nn.Embedding]:
    """The same, and what that reads of bytes."""
    part = student if isinstance(student.router, Router) else student.router
    return (student.encoder if part is student else part.stack), part.byte_embedding
