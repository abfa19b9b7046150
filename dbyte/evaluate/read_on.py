"""Texts whose cuts did not settle, read on byte by byte from where their contexts end; compiled alone.

By then the encoder has read all of their bytes, which depend on no cut, and core and decoder have read the contexts
(`contexts_once.py`). What is left is sequential: the decoder, a head or two, and the core where a chunk ends. With MBP
a guess is tried behind each byte too, by steps of the stack that the router reads (`look_aheads.py`).

Shape letters: N texts, L bytes of the longest (BOS is one), T nodes of the bytes' trees, B rows that are read together,
R of them that close a chunk, D byte width, W places in logits, P pairs of a place and a byte, X symbols of a head, K
bytes, F flags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from dbyte.evaluate.contexts_once import Contexts
from dbyte.evaluate.look_aheads import LookAheads
from dbyte.evaluate.shared_context import SharedTexts
from dbyte.model.student import BYTES, ByteStudent, is_special
from dbyte.native.core import FusedCore
from dbyte.native.linear import step_map
from dbyte.native.stack import stack_step
from dbyte.text.spans import BOS

ROWS = 128  # whose states are still near when their next bytes come


@dataclass(frozen=True)
class Read:
    """What a student says of a continuation along its own cuts.

    nats: its log-probability. greedy: whether each byte is the likeliest one. ended_L: whether a chunk ends at each
    byte but the last, on whose cut no score depends. by_the_byte: whether it was read so, not by rounds.
    """

    nats: float
    greedy: bool
    ended_L: tuple[bool, ...]
    by_the_byte: bool = False


@dataclass(frozen=True)
class Left:
    """What rounds leave of N texts for reading on.

    encoded_TD, around_TD: the encoder's states, and what they bring to the decoder past the core. start_N: the place
    of each context's last byte (BOS has 0); ends_N: whether a chunk ends there that the core has not read yet.
    """

    shared: SharedTexts
    encoded_TD: Tensor
    around_TD: Tensor
    start_N: np.ndarray
    ends_N: np.ndarray
    contexts: Contexts
    look_aheads: LookAheads | None


@torch.inference_mode()
def read_on(student: ByteStudent, left: Left, rows: Sequence[int]) -> list[Read]:
    """Read what is behind the contexts of these texts, which fit the core even if every byte ended a chunk."""
    left_N = left.shared.length_N - 1 - left.start_N
    order = sorted(rows, key=lambda row: -left_N[row])  # who is done leaves from the end
    found: dict[int, Read] = {}
    for first in range(0, len(order), ROWS):
        some = order[first : first + ROWS]
        found |= dict(zip(some, _Rows(student, left, some).read(left_N[some]), strict=True))
    return [found[row] for row in rows]


class _Rows:
    """Some of the texts while they are read."""

    def __init__(self, student: ByteStudent, left: Left, rows: list[int]):
        self.student, self.left, self.node_BL = student, left, left.shared.node_NL[rows]
        self.start_B, self.ends_B = left.start_N[rows], left.ends_N[rows]
        most = int((left.shared.length_N - left.start_N)[rows].max())
        self.begun = left.contexts.begin(rows, more=most)
        self.core = FusedCore(student.core, slots=self.begun.keys.shape[2])
        self.decoder = stack_step(student.decoder, compiled=True)
        maps = (student.encoder_projection, student.decoder_projection, student.byte_head)
        self.to_core, self.to_decoder, self.byte_head = (step_map(part, compiled=True) for part in maps)
        self.up_BD = self.to_decoder(self.begun.core_BE)
        self.tries, self.second_head = None, None
        if left.look_aheads is not None:
            before_B = np.where(self.start_B > 0, self.node_BL[np.arange(len(rows)), self.start_B - 1], -1)
            self.tries = left.look_aheads.step_from(before_B)
            self.second_head = step_map(student.second_head, compiled=True)

    def read(self, left_B: np.ndarray) -> list[Read]:
        """left_B: how many bytes of each row are left, one at least, descending."""
        nats_LB, ended_LB = np.zeros((left_B[0], len(left_B))), np.zeros((left_B[0], len(left_B)), dtype=bool)
        right_LB = np.ones_like(ended_LB)
        logits_BX, guess_B = None, None
        for step in range(int(left_B[0])):
            count = int((left_B > step).sum())
            self._narrow(count)
            row_B, place_B = np.arange(count), self.start_B[:count] + step
            node_B, next_B = (self.node_BL[row_B, place_B + ahead] for ahead in (0, 1))
            ends_B = self._ends(step, node_B, next_B, logits_BX, guess_B)
            decoded_BD = self._take_in(node_B, ends_B)
            logits_BX = self.byte_head(decoded_BD)
            if self.tries is not None:
                second_BK = self.second_head(decoded_BD).numpy()
                second_BK[:, BOS] = float("-inf")
                guess_B = second_BK.argmax(1)
            symbol_T = self.left.shared.tree.symbol_T
            nats_LB[step, :count], right_LB[step, :count] = law(logits_BX.numpy(), row_B, symbol_T[next_B])
            ended_LB[step, :count] = ends_B
        return [Read(nats, greedy, tuple(ended_L[1:left]), True) for nats, greedy, ended_L, left in
                zip(nats_LB.sum(0).tolist(), right_LB.all(0).tolist(), ended_LB.T.tolist(), left_B, strict=True)]

    def _narrow(self, count: int) -> None:
        if count == len(self.up_BD):
            return
        self.up_BD = self.up_BD[:count]
        self.begun.narrow(count)
        if self.tries is not None:
            self.tries.states_BX = self.tries.states_BX[:count]

    def _ends(
        self, step: int, node_B: np.ndarray, next_B: np.ndarray, logits_BX: Tensor | None, guess_B: np.ndarray | None
    ) -> Tensor:
        """Whether chunks end at these bytes (bool [B]): by the joint head or a guess before them, which may be more."""
        if step == 0:
            if self.tries is not None:
                self.tries.take_in(node_B)
            return torch.from_numpy(self.ends_B)
        if self.tries is not None:
            return self.tries.decide(node_B, next_B, guess_B[: len(node_B)])
        byte_B = self.left.shared.byte_T[node_B]
        flagged_B, plain_B = (logits_BX[torch.arange(len(byte_B)), byte_B + flag] for flag in (BYTES, 0))
        return (flagged_B >= plain_B) | is_special(byte_B)

    def _take_in(self, node_B: np.ndarray, ends_B: Tensor) -> Tensor:
        """Run the core for chunks that end and the decoder for each byte: its outputs [B, D]."""
        closing_R = ends_B.nonzero()[:, 0]
        if closing := closing_R.tolist():
            slots = [self.begun.length[row] for row in closing]
            core_RE = self.core.step(self.to_core(self.left.encoded_TD[node_B[closing]]), self.begun.keys,
                                     self.begun.values, closing, slots)
            self.up_BD.index_copy_(0, closing_R, self.to_decoder(core_RE))
            for row in closing:
                self.begun.length[row] += 1
        return self.decoder.step(self.left.around_TD[node_B] + self.up_BD, self.begun.decoder_states)


def law(logits_WX: np.ndarray, place_P: np.ndarray, byte_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(byte) of pairs, JBP's flags added up, and whether the likeliest symbol has the byte.

    By numpy: torch would share even a step's logits between its threads, which then keep the cores busy for a while.
    """
    most_W1 = logits_WX.max(1, keepdims=True)
    whole_W = most_W1[:, 0] + np.log(np.exp(logits_WX - most_W1).sum(1, dtype=np.float64))
    said_FP = [logits_WX[place_P, byte_P + flag].astype(np.float64) for flag in range(0, logits_WX.shape[1], BYTES)]
    return reduce(np.logaddexp, said_FP) - whole_W[place_P], logits_WX.argmax(1)[place_P] % BYTES == byte_P
