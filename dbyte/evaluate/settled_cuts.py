"""A decoder's own cuts of given texts, found for all bytes at once: a guess is read in parallel until it agrees.

Whether a chunk ends at a byte of a continuation is decided by the decoder from what is before it (`own_cuts.py`), so
byte by byte is one way to find the cuts of a given text. Another: guess them all, read the text along the guess in
parallel, see what the decoder would have decided at each byte, and take that for the next guess. Up to the first byte
where it differs from the guess it is what reading byte by byte decides, so each round settles at least one byte more;
a guess that nothing differs from is the decoder's own cuts, and there are no others. The router's cuts are the first
guess, and for a trained student nearly the last.

What is before the decisions is read by core and decoder in the first round alone, where their states can be kept
(`contexts_once.py`); from there texts are read on by the byte (`read_on.py`) once a round has settled few or
no round is left. Texts that begin alike share what they have in common, as in `shared_context.py`; only here what the
decoder reads is known from the bytes and cuts so far, so it has trees of its own.

Shape letters: N texts, L bytes of the longest (BOS is one), T nodes of the bytes' trees, K nodes of the chunks' trees,
U nodes of the decoder's trees, P pairs of a text and a byte of it that is asked for, W nodes before such bytes, D byte
width, E core width, X symbols of a head.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.evaluate.contexts_once import Contexts, can_keep_contexts
from dbyte.evaluate.look_aheads import LookAheads, can_try, router_stack
from dbyte.evaluate.read_on import Left, Read, law, read_on
from dbyte.evaluate.scoring import Request
from dbyte.evaluate.shared_context import SharedTexts
from dbyte.model.student import BYTES, ByteStudent, is_special
from dbyte.model.trees import read_stack
from dbyte.text.prefix_tree import Tree
from dbyte.text.spans import BOS

ROUNDS = 12  # then few texts are left, whose cuts deviate again and again
WORTH_A_ROUND = 0.15  # the share that the round before settled; with less, reading on by the byte is quicker


def can_settle(student: ByteStudent, *, compiled: bool = False) -> bool:
    """Whether a student's decisions can be had for all bytes at once."""
    return student.second_head is None or can_try(student, compiled=compiled)


@torch.inference_mode()
def settle(
    student: ByteStudent, requests: Sequence[Request], *, compiled: bool = False, rounds: int = ROUNDS,
    worth: float = WORTH_A_ROUND
) -> list[Read | None]:
    """Read requests at once; None for one that is left to `walk`.

    It does not fit the core, or its cuts have not settled and contexts cannot be kept. rounds: the most. worth: where
    contexts are kept, stop after a round that settled a smaller share, and read the rest on by the byte.
    """
    texts = _Texts(student, requests, compiled=compiled)
    found: list[Read | None] = [None] * len(requests)
    rows = texts.fitting(list(range(len(requests))))
    first = rows
    if not rounds and texts.contexts is not None and rows:
        texts.read(rows, contexts_alone=True)
    for _ in range(rounds):
        if not rows:
            break
        for row, settled in zip(rows, texts.read(rows), strict=True):
            found[row] = settled
        left = [row for row in rows if found[row] is None]
        if texts.contexts is not None and len(rows) - len(left) < worth * len(rows):
            break
        rows = texts.fitting(left)
    if texts.contexts is not None:
        rows = texts.fitting_by_the_byte([row for row in first if found[row] is None])
        for row, read in zip(rows, read_on(student, texts.left(), rows), strict=True):
            found[row] = read
    return found


class _Texts:
    """A batch of texts; flag_NL is the guess of where their chunks end, bool [N, L]."""

    def __init__(self, student: ByteStudent, requests: Sequence[Request], *, compiled: bool):
        shared = SharedTexts(student, [request.text for request in requests], compiled=compiled)
        self.student, self.shared, self.node_NL = student, shared, shared.node_NL
        place_L, start_N1 = np.arange(self.node_NL.shape[1]), np.array([[request.start] for request in requests])
        if student.second_head is not None:
            behind_NL = (place_L >= start_N1) & (place_L < shared.length_N[:, None] - 1)  # where guesses are tried
            shared.keep(router_stack(student), np.unique(self.node_NL[:, :-1][place_L[1:] == start_N1]),
                        np.unique(self.node_NL[behind_NL]))
        self.encoded_TD = shared.encode()
        self.prob_T = shared.boundary_prob(self.encoded_TD)
        self.around_TD = F.linear(self.encoded_TD, student.around_core())
        self.byte_NL = shared.tree.symbol_T[self.node_NL]
        # byte i of a text is byte i + 1 of its row, and the context's last byte is where decisions begin; BOS is none
        self.read_NL = place_L < shared.length_N[:, None] - 1  # by core and decoder: nothing is behind the last byte
        self.scored_NL = (place_L > start_N1) & (self.node_NL >= 0)
        self.decided_NL = (place_L >= start_N1) & (place_L > 0) & self.read_NL
        self.flag_NL = shared.flags(self.prob_T) & self.read_NL
        self.look_aheads = None if student.second_head is None else LookAheads(shared, self.prob_T)
        self.start_N = start_N1[:, 0]
        self.contexts = (Contexts(student, self.start_N, len(place_L))
                         if can_keep_contexts(student, compiled=compiled) else None)

    def fitting(self, rows: list[int]) -> list[int]:
        """Those for the chunks of whose guess the core has positions."""
        fits_N = self.flag_NL[rows].sum(1) <= self.student.core.config.max_position_embeddings
        return [row for row, fits in zip(rows, fits_N.tolist(), strict=True) if fits]

    def fitting_by_the_byte(self, rows: list[int]) -> list[int]:
        """Those for which the core has positions whatever their cuts behind the context."""
        most_N = self.contexts.depth_N + 1 + self.shared.length_N - self.start_N
        return [row for row in rows if most_N[row] <= self.student.core.config.max_position_embeddings]

    def left(self) -> Left:
        """What reading on by the byte takes up."""
        ends_N = self.flag_NL[np.arange(len(self.start_N)), self.start_N] & (self.start_N > 0)
        return Left(self.shared, self.encoded_TD, self.around_TD, self.start_N, ends_N, self.contexts,
                    self.look_aheads)

    def read(self, rows: list[int], *, contexts_alone: bool = False) -> list[Read | None]:
        """Read along the guess and put the decoder's decisions in its place; None where they differ from it.

        contexts_alone: read what is kept and decide about the contexts' last bytes, no more; all are None.
        """
        scored_NL, decided_NL, byte_NL = self.scored_NL[rows], self.decided_NL[rows], self.byte_NL[rows]
        if self.contexts is not None and not self.contexts.first:
            decided_NL = decided_NL & scored_NL  # the first round knew all that a context's last byte depends on
        if contexts_alone:
            decided_NL, scored_NL = decided_NL & ~scored_NL, np.zeros_like(scored_NL)
        asked_NL = scored_NL | decided_NL
        before_NL, decoded_UD = self._decode(rows, asked_NL, contexts_alone=contexts_alone)
        if self.contexts is not None:
            self.contexts.first = False
        node_W, place_P = np.unique(before_NL[asked_NL], return_inverse=True)
        decoded_WD = decoded_UD[torch.from_numpy(node_W).to(decoded_UD.device)]
        place_NL = np.zeros_like(before_NL)
        place_NL[asked_NL] = place_P
        flag_NL, decide = self.flag_NL[rows], self._likelier_flags if self.look_aheads is None else self._looked_ahead
        flag_NL[decided_NL] = decide(rows, decoded_WD, place_NL[decided_NL], decided_NL)
        agrees_N = (flag_NL == self.flag_NL[rows]).all(1) & (not contexts_alone)
        self.flag_NL[rows] = flag_NL
        scored_NL &= agrees_N[:, None]
        nats_NL, right_NL = np.zeros(before_NL.shape), np.ones(before_NL.shape, dtype=bool)
        nats_NL[scored_NL], right_NL[scored_NL] = _law(
            self.student, decoded_WD, place_NL[scored_NL], byte_NL[scored_NL])
        return [Read(nats, right, tuple(flag_L[decided_L].tolist())) if agrees else None
                for nats, right, flag_L, decided_L, agrees in
                zip(nats_NL.sum(1).tolist(), right_NL.all(1).tolist(), flag_NL, decided_NL & scored_NL, agrees_N,
                    strict=True)]

    def _likelier_flags(
        self, rows: list[int], decoded_WD: Tensor, place_P: np.ndarray, decided_NL: np.ndarray
    ) -> np.ndarray:
        """JBP's decisions whether chunks end at bytes: the likelier flag of the byte that came."""
        logits_WX = self.student.byte_head(decoded_WD)
        place_P, byte_P = (torch.from_numpy(number_P).to(logits_WX.device)
                           for number_P in (place_P, self.byte_NL[rows][decided_NL]))
        flagged_P = logits_WX[place_P, byte_P + BYTES] >= logits_WX[place_P, byte_P]
        return (flagged_P | is_special(byte_P)).cpu().numpy()

    def _looked_ahead(
        self, rows: list[int], decoded_WD: Tensor, place_P: np.ndarray, decided_NL: np.ndarray
    ) -> np.ndarray:
        """MBP's decisions whether chunks end at bytes: the router's beside a guess of the second head before them."""
        logits_WX = self.student.second_head(decoded_WD)
        logits_WX[:, BOS] = float("-inf")
        guess_P = logits_WX.argmax(1).cpu().numpy()[place_P]
        next_NL = np.roll(self.node_NL[rows], -1, axis=1)  # no decision is about a text's last byte
        return self.look_aheads.decide(self.node_NL[rows][decided_NL], next_NL[decided_NL], guess_P)

    def _decode(
        self, rows: list[int], asked_NL: np.ndarray, *, contexts_alone: bool
    ) -> tuple[np.ndarray, Tensor]:
        """The decoder's node before each byte [N, L], -1 where there is none, and its outputs [U, D] at those asked."""
        node_NL, flag_NL, read_NL = (some_NL[rows] for some_NL in (self.node_NL, self.flag_NL, self.read_NL))
        if self.contexts is not None:
            flag_NL, read_NL = self.contexts.left(rows, flag_NL, read_NL, alone=contexts_alone)
        chunks = Tree.of([nodes_L[flag_L].tolist() for nodes_L, flag_L in zip(node_NL, flag_NL, strict=True)])
        core_KE = self._run_core(rows, chunks, flag_NL)
        visible_NL = np.take_along_axis(chunks.node_NL, np.maximum(flag_NL.cumsum(1) - 1, 0), axis=1)
        symbol_NL = node_NL * len(chunks) + visible_NL  # what the decoder reads: a byte and the chunk that it sees
        tree = Tree.of([symbol_L[read_L].tolist() for symbol_L, read_L in zip(symbol_NL, read_NL, strict=True)],
                       apart=True)
        node_U, chunk_U = (torch.from_numpy(number_U).to(core_KE.device)
                           for number_U in np.divmod(tree.symbol_T, len(chunks)))
        up_UD = self.student.decoder_projection(core_KE)[chunk_U] + self.around_TD[node_U]
        before_NL, (row_P, place_P) = np.full_like(node_NL, -1), read_NL.nonzero()
        before_NL[row_P, place_P + 1] = tree.node_NL[tree.node_NL >= 0]
        return before_NL, self._run_decoder(rows, up_UD.to(self.encoded_TD.dtype), tree, before_NL, asked_NL)

    def _run_core(self, rows: list[int], chunks: Tree, flag_NL: np.ndarray) -> Tensor:
        """The core's states [K, E] of these texts' chunks, smoothed where the student does."""
        if self.contexts is not None:
            chunk_KE = self.shared.chunk_embeddings(self.encoded_TD, chunks)
            return self.contexts.run_core(rows, chunk_KE, chunks, flag_NL)
        core_KE = self.shared.run_core(self.encoded_TD, chunks)
        if self.student.config.smoothing:
            core_KE = self.shared.smoothed(core_KE, chunks, self.prob_T, self.node_NL[rows], flag_NL)
        return core_KE

    def _run_decoder(
        self, rows: list[int], up_UD: Tensor, tree: Tree, before_NL: np.ndarray, asked_NL: np.ndarray
    ) -> Tensor:
        """The decoder's outputs [U, D] at the nodes before bytes that are asked for."""
        wanted_U = torch.zeros(len(tree), dtype=torch.bool)
        wanted_U[torch.from_numpy(before_NL[asked_NL])] = True
        if self.contexts is not None:
            return self.contexts.run_decoder(rows, up_UD, tree, before_NL, wanted_U)
        return read_stack(self.student.decoder, up_UD, tree, wanted_T=wanted_U, compiled=self.shared.compiled)


def _law(
    student: ByteStudent, decoded_WD: Tensor, place_P: np.ndarray, byte_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """log p(byte) of pairs, JBP's flags added up, and whether the likeliest symbol has the byte."""
    used, place_P = np.unique(place_P, return_inverse=True)  # nodes of texts that agree: the head runs for no others
    logits_WX = student.byte_head(decoded_WD[torch.from_numpy(used).to(decoded_WD.device)])
    return law(logits_WX.float().cpu().numpy(), place_P, byte_P)
