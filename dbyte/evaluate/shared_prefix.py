"""Texts that begin alike: a student reads their common beginning once, such as the context of an item's choices.

The texts of a batch are a tree of bytes (`dbyte/text/prefix_tree.py`), and their chunks a tree of the bytes that end
them. What the decoder reads at a byte is the byte and the newest chunk, so it has a third tree, of such pairs. Whether
a chunk ends at a byte may depend on the byte after it (the router's decision does), so a flag belongs to a text and not
to a node.

Shape letters: N texts, R rows to read (a text may be in several), L bytes of the longest text (BOS is one), T nodes of
the tree of bytes, K nodes of the tree of chunks, U nodes of the decoder's tree, D byte width, E core width.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dbyte.decode.engine import Engine
from dbyte.model.chunking import CONFIDENCE_FLOOR
from dbyte.model.entropy_router import EntropyRouter
from dbyte.model.router import THRESHOLD, Router, boundary_prob
from dbyte.text.prefix_tree import Tree
from dbyte.text.spans import BOS, is_special


class SharedTexts:
    """Texts after BOS as trees, and what a student's parts say of their nodes.

    node_NL: the node of each byte, BOS first, -1 after a text's end. length_N: bytes of each text, with BOS.
    """

    def __init__(self, texts: Sequence[bytes], *, engine: Engine, starts: Sequence[int] | None = None):
        """engine: computes the parts of the student that reads. starts: as of `Request`, None: all is given."""
        self.texts = [bytes([BOS]) + text for text in texts]
        self.known = [1 + start for start in (map(len, texts) if starts is None else starts)]  # BOS is known, too
        self.engine = engine
        self.student = engine.student
        self.tree = Tree.of(self.texts, apart=True)
        self.node_NL = self.tree.node_NL
        self.length_N = (self.node_NL >= 0).sum(1)
        self.byte_T = torch.from_numpy(self.tree.symbol_T).to(self.student.device)
        self.before_T = torch.from_numpy(self.tree.parent_T).clamp(min=0).to(self.student.device)  # 0 for a root

    # -- encoder and router -------------------------------------------------------------------------------------------

    @cached_property
    def encoded_TD(self) -> Tensor:
        """The encoder's states of all nodes."""
        return self.engine.read_stack(self.student.encoder, self.student.byte_embedding(self.byte_T), self.tree)

    @cached_property
    def prob_T(self) -> Tensor:
        """The router's probability (fp32) that a chunk ends at the byte before each node, if that node comes next."""
        router = self.student.router
        if isinstance(router, Router):
            query_TD = self.engine.map(router.query)(self.encoded_TD)
            key_TD = self.engine.map(router.key)(self.encoded_TD)
            prob_T = boundary_prob(query_TD[self.before_T], key_TD)
            if router.suffixes is not None:
                prob_T = router.suffixes(prob_T, self.suffix_T[self.before_T], self.suffix_T)
        else:
            read_TD = self.engine.read_stack(router.stack, router.byte_embedding(self.byte_T), self.tree)
            prob_T = (router.prob_after(read_TD)[self.before_T] if isinstance(router, EntropyRouter)
                      else router.prob_before(read_TD))
        return prob_T.masked_fill(is_special(self.byte_T[self.before_T]) | is_special(self.byte_T), 1.0)

    def flags(self) -> np.ndarray:
        """Whether a chunk ends at each byte of each text, by the router: bool [N, L]; at a text's last byte it does.

        With a prior chunks are split into tokens, and what is decided of a context depends on it alone.
        """
        ends_T = (self.prob_T >= THRESHOLD).cpu().numpy()
        flag_NL = np.zeros(self.node_NL.shape, dtype=bool)
        flag_NL[:, :-1] = ends_T[self.node_NL[:, 1:]]  # past a text's end this is garbage, masked on the next line
        flag_NL = flag_NL & (self.node_NL >= 0) | (np.arange(flag_NL.shape[1]) == self.length_N[:, None] - 1)
        prior = self.student.token_prior
        return flag_NL if prior is None else prior.split_rows(flag_NL, self.texts, self.known)

    # -- core ---------------------------------------------------------------------------------------------------------

    def chunk_embeddings(self, encoded_TD: Tensor, chunks: Tree) -> Tensor:
        """What the core reads of chunks, whose symbols are the nodes that end them: [K, E]."""
        ends_K = torch.from_numpy(chunks.symbol_T).to(encoded_TD.device)
        return self.student.project_chunks(encoded_TD[ends_K], lambda: self.suffix_T[ends_K])

    @cached_property
    def suffix_T(self) -> Tensor:
        """The longest token that ends at each node (int64); it depends on the bytes up to the node alone."""
        node_NL = torch.from_numpy(self.tree.leaves()).to(self.byte_T.device)
        suffix_NL = self.student.suffix_table.find(self.byte_T[node_NL])  # past a row's end this is garbage
        suffix_T = torch.empty_like(self.byte_T)
        suffix_T[node_NL[node_NL >= 0]] = suffix_NL[node_NL >= 0]
        return suffix_T

    def run_core(self, encoded_TD: Tensor, chunks: Tree) -> Tensor:
        """The core's states [K, E] of chunks."""
        return self.engine.read_core(self.chunk_embeddings(encoded_TD, chunks), chunks)

    # -- decoder ------------------------------------------------------------------------------------------------------

    def decode(
        self, row_R: np.ndarray, flag_RL: np.ndarray
    ) -> tuple[np.ndarray, int, Callable[[np.ndarray], Tensor]]:
        """Read core and decoder along given flags.

        Args:
            row_R: which text each row reads. flag_RL: whether a chunk ends at each byte (the last one's is ignored).
        Returns:
            The decoder's node before each byte (int64 [R, L], -1 at BOS and after a text's end), how many nodes it has,
            and a function from nodes to the byte head's logits of what follows them [nodes, X].
        Raises:
            ValueError: if the core has too few positions for a row's chunks.
        """
        node_RL = self.node_NL[row_R]
        read_RL = np.arange(node_RL.shape[1]) < self.length_N[row_R, None] - 1  # nothing follows the last byte
        closed_RL = flag_RL & read_RL
        chunks = Tree.of([node_L[closed_L].tolist() for node_L, closed_L in zip(node_RL, closed_RL, strict=True)])
        said_KE = core_KE = self.run_core(self.encoded_TD, chunks)
        if self.student.config.smoothing:
            core_KE = self._smoothed(core_KE, chunks, node_RL, closed_RL)
        newest_RL = np.maximum(closed_RL.cumsum(1), 1) - 1  # BOS is always a chunk
        pair_RL = node_RL * len(chunks) + np.take_along_axis(chunks.node_NL, newest_RL, axis=1)
        tree = Tree.of([pair_L[read_L].tolist() for pair_L, read_L in zip(pair_RL, read_RL, strict=True)], apart=True)
        before_RL = np.full_like(node_RL, -1)
        before_RL[:, 1:][read_RL[:, :-1]] = tree.node_NL[tree.node_NL >= 0]
        node_U, chunk_U = np.divmod(tree.symbol_T, len(chunks))
        around_TD = self.encoded_TD @ self.student.around_core().T
        up_UD = self.student.decoder_projection(core_KE)[self._on_device(chunk_U)] + around_TD[self._on_device(node_U)]
        decoded_UD = self.engine.read_stack(self.student.decoder, up_UD.to(self.encoded_TD.dtype), tree)

        def logits(asked_P: np.ndarray) -> Tensor:
            prior_PK = self._prior(said_KE, chunks, node_U[asked_P], chunk_U[asked_P])
            return self.student.byte_logits(decoded_UD[self._on_device(asked_P)], prior_PK)

        return before_RL, len(tree), logits

    def _on_device(self, number_X: np.ndarray) -> Tensor:
        return torch.from_numpy(number_X).to(self.byte_T.device)

    def _prior(self, core_KE: Tensor, chunks: Tree, node_P: np.ndarray, chunk_P: np.ndarray) -> Tensor | None:
        """What the token head says of the byte after a node, where a chunk is the newest: [P, X]."""
        if self.student.token_prior is None:
            return None
        order_P = np.argsort(chunk_P, kind="stable")
        chunk_C, first_C = np.unique(chunk_P[order_P], return_index=True)
        vocabulary = self.student.token_prior.vocabulary
        asked = [[vocabulary.node(self._bytes_between(chunks.symbol_T[chunk], node)) for node in node_X]
                 for chunk, node_X in zip(chunk_C, np.split(node_P[order_P], first_C[1:]), strict=True)]
        prior_PK = self.student.token_prior.after(core_KE[self._on_device(chunk_C)], self.student.token_head, asked)
        return prior_PK[self._on_device(np.argsort(order_P))]

    def _bytes_between(self, before: int, node: int) -> bytes:
        """The bytes of the nodes after one, down to another below it."""
        text = bytearray()
        while node != before:
            text.append(self.tree.symbol_T[node])
            node = self.tree.parent_T[node]
        return bytes(reversed(text))

    def _smoothed(self, core_KE: Tensor, chunks: Tree, node_RL: np.ndarray, closed_RL: np.ndarray) -> Tensor:
        """`chunking.smooth` of the core's states, depth by depth: s = c z + (1 - c) s of the parent.

        c is the router's probability of the boundary before a chunk, so it stands at the node after that boundary.
        """
        opened_K = np.zeros(len(chunks), dtype=np.int64)
        for node_L, chunk_L, closed_L in zip(node_RL, chunks.node_NL, closed_RL, strict=True):
            ends = np.flatnonzero(closed_L)
            opened_K[chunk_L[1 : len(ends)]] = node_L[ends[:-1] + 1]
        confidence_K = self.prob_T[torch.from_numpy(opened_K).to(core_KE.device)]
        confidence_K = confidence_K.clamp(CONFIDENCE_FLOOR, 1 - CONFIDENCE_FLOOR)
        smoothed_KE = core_KE.clone()
        depth_K = torch.from_numpy(chunks.depth_T)
        parent_K = torch.from_numpy(chunks.parent_T).to(core_KE.device)
        for depth in range(1, int(depth_K.max()) + 1):
            here = (depth_K == depth).nonzero()[:, 0].to(core_KE.device)
            weight_H1 = confidence_K[here, None].to(core_KE.dtype)
            smoothed_KE[here] = torch.lerp(smoothed_KE[parent_K[here]], core_KE[here], weight_H1)
        return smoothed_KE
