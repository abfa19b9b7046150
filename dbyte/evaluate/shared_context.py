"""Texts that begin alike, read by a student once as far as they do: the choices of an item share its context.

The texts of a batch are a tree of bytes (`text/tree.py`), their chunks a tree of the bytes that end them. What a flag
says of a byte depends on the byte behind it, so flags lie between a byte and each of its children; and since the
decoder sees a chunk from the byte that ends it, it reads a byte once for each child too: here the decoder's output for
a byte is where that byte's own logits are, not where those of the next one are.

Shape letters: N texts, L bytes of the longest (BOS is one), T nodes of the bytes' trees, K nodes of the chunks' trees,
D byte width, E core width, C states and Q notes that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.model.blocks import Stack
from dbyte.model.chunking import CONFIDENCE_FLOOR
from dbyte.model.router import THRESHOLD, Router, boundary_prob
from dbyte.model.student import ByteStudent, is_special
from dbyte.model.trees import read_core, read_stack
from dbyte.native.linear import read_map
from dbyte.native.stack import stack_step
from dbyte.text.prefix_tree import Tree
from dbyte.text.spans import BOS, EOS


@dataclass
class Kept:
    """What a stack keeps of texts: its states [C, *] behind nodes, and notes [Q, *] of nodes, see `fused_stack.py`."""

    node_C: np.ndarray
    node_Q: np.ndarray
    states_CX: Tensor | None = None
    notes_QY: Tensor | None = None


class SharedTexts:
    """Texts behind BOS as trees, and what a student's parts say of their nodes.

    node_NL: the node of each byte, BOS first, -1 behind a text's end; length_N: how many they are. query_TD: those of
    an integrated router, once it was asked for probabilities.
    """

    def __init__(self, student: ByteStudent, texts: Sequence[bytes], *, compiled: bool = False):
        self.student, self.compiled, device = student, compiled, student.device
        self.tree = Tree.of([bytes([BOS]) + text for text in texts], apart=True)
        self.node_NL = self.tree.node_NL
        self.length_N = (self.node_NL >= 0).sum(1)
        self.byte_T = torch.from_numpy(self.tree.symbol_T).to(device)
        self.before_T = torch.from_numpy(self.tree.parent_T).clamp(min=0).to(device)  # a root has nothing before it
        self.kept: dict[Stack, Kept] = {}

    def keep(self, stack: Stack, node_C: np.ndarray, node_Q: np.ndarray) -> None:
        """Have a stack that will read the texts keep its states behind nodes, and notes of nodes; compiled alone."""
        self.kept[stack] = Kept(node_C, node_Q)

    def encode(self, wanted: np.ndarray | None = None) -> Tensor:
        """The encoder's states [T, D]; wanted: numbers of the only nodes whose states are asked for."""
        return self.read(self.student.encoder, self.student.byte_embedding(self.byte_T), self.tree, wanted)

    def boundary_prob(self, encoded_TD: Tensor) -> Tensor:
        """The router's probability (fp32 [T]) that a chunk ends at the byte before each node, were that node next."""
        router = self.student.router
        if isinstance(router, Router):
            self.query_TD = read_map(router.query, encoded_TD, compiled=self.compiled)
            key_TD = read_map(router.key, encoded_TD, compiled=self.compiled)
            prob_T = boundary_prob(self.query_TD[self.before_T], key_TD)
        else:
            prob_T = router.before(self.read(router.stack, router.byte_embedding(self.byte_T), self.tree, None))
        return prob_T.masked_fill(is_special(self.byte_T[self.before_T]) | (self.byte_T == EOS), 1.0)

    def flags(self, prob_T: Tensor) -> np.ndarray:
        """Whether a chunk ends at each byte of each text, by the router: bool [N, L]; at a text's last byte it does."""
        ends_T = (prob_T >= THRESHOLD).cpu().numpy()
        flag_NL = np.zeros(self.node_NL.shape, dtype=bool)
        flag_NL[:, :-1] = ends_T[self.node_NL[:, 1:]]  # behind an end whatever node -1 says
        return flag_NL & (self.node_NL >= 0) | (np.arange(flag_NL.shape[1]) == self.length_N[:, None] - 1)

    def chunk_embeddings(self, encoded_TD: Tensor, chunks: Tree) -> Tensor:
        """What the core reads of chunks, whose symbols are the nodes that end them: [K, E]."""
        ends_K = torch.from_numpy(chunks.symbol_T).to(encoded_TD.device)
        return self.student.encoder_projection(encoded_TD[ends_K]).to(encoded_TD.dtype)

    def run_core(self, encoded_TD: Tensor, chunks: Tree) -> Tensor:
        """The core's states [K, E] of chunks."""
        chunk_KE = self.chunk_embeddings(encoded_TD, chunks)
        return read_core(self.student.core, chunk_KE, chunks, compiled=self.compiled)

    def decode(
        self, core_KE: Tensor, encoded_TD: Tensor, chunks: Tree, flag_NL: np.ndarray, prob_T: Tensor, wanted: np.ndarray
    ) -> Tensor:
        """The decoder's output [T, D] that each node's logits come from, for nodes that are no root and are wanted.

        chunks: of each text up to the byte before its last; flag_NL as of `flags`.
        """
        student, device = self.student, encoded_TD.device
        if student.config.smoothing:
            core_KE = self.smoothed(core_KE, chunks, prob_T, self.node_NL, flag_NL)
        visible_T = np.zeros(len(self.tree), dtype=np.int64)
        count_NL = flag_NL.cumsum(1)
        behind_NL = self.node_NL[:, 1:] >= 0  # the nodes that are no root
        visible_NL = np.take_along_axis(chunks.node_NL, np.minimum(count_NL, chunks.node_NL.shape[1]) - 1, axis=1)
        visible_T[self.node_NL[:, 1:][behind_NL]] = visible_NL[:, :-1][behind_NL]
        up_KD = student.decoder_projection(core_KE)
        around_TD = F.linear(encoded_TD, student.around_core())
        up_TD = up_KD[torch.from_numpy(visible_T).to(device)] + around_TD[self.before_T]
        return self.read(student.decoder, up_TD.to(encoded_TD.dtype), self.tree.without_roots(), wanted)

    def read(self, stack: Stack, hidden_TD: Tensor, tree: Tree, wanted: np.ndarray | None = None) -> Tensor:
        """A stack's outputs at the nodes of a tree [T, D]; wanted: numbers of the only nodes that are asked for."""
        wanted_T = None
        if wanted is not None:
            wanted_T = torch.zeros(len(tree), dtype=torch.bool)
            wanted_T[torch.from_numpy(wanted)] = True
        if stack in self.kept:
            kept = self.kept[stack]
            output_TD, kept.states_CX, kept.notes_QY = stack_step(stack, compiled=True).read_keeping(
                hidden_TD, tree, kept.node_C, wanted_T, node_Q=kept.node_Q)
            return output_TD
        return read_stack(stack, hidden_TD, tree, wanted_T=wanted_T, compiled=self.compiled)

    def smoothed(
        self, core_KE: Tensor, chunks: Tree, prob_T: Tensor, node_NL: np.ndarray, flag_NL: np.ndarray
    ) -> Tensor:
        """`chunking.smooth` of the core's states, for a student with smoothing; flag_NL: where chunks end.

        node_NL: some rows of this batch, those that flag_NL and chunks are about.
        """
        opened_K = np.zeros(len(chunks), dtype=np.int64)  # the node behind the boundary before each chunk
        for nodes_L, row_L, closed_L in zip(node_NL, chunks.node_NL, flag_NL, strict=True):
            ends = np.flatnonzero(closed_L)[: int((row_L >= 0).sum())]
            opened_K[row_L[1 : len(ends)]] = nodes_L[ends[:-1] + 1]
        confidence_K = prob_T[torch.from_numpy(opened_K).to(prob_T.device)]
        return _smoothed(core_KE, chunks, confidence_K.clamp(CONFIDENCE_FLOOR, 1 - CONFIDENCE_FLOOR))


def _smoothed(core_KE: Tensor, chunks: Tree, confidence_K: Tensor) -> Tensor:
    """`chunking.smooth` over trees, depth by depth: s = c z + (1 - c) s of the parent."""
    smoothed_KE, depth_K = core_KE.clone(), torch.from_numpy(chunks.depth_T)
    parent_K = torch.from_numpy(chunks.parent_T).to(core_KE.device)
    for depth in range(1, int(depth_K.max()) + 1):
        here = (depth_K == depth).nonzero()[:, 0].to(core_KE.device)
        weight_R1 = confidence_K[here, None].to(core_KE.dtype)
        smoothed_KE[here] = torch.lerp(smoothed_KE[parent_K[here]], core_KE[here], weight_R1)
    return smoothed_KE
