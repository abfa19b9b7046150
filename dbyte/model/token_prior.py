"""What the token head says of the next byte: a prior that the decoder corrects, for Stage 2 with few bytes.

Stage 1 ends with a student that is a model of bytes already: within a chunk, the head's probabilities of all tokens
that begin with the chunk's bytes so far add up to a distribution over the next byte and whether the chunk ends there
(`dbyte/byte_probabilities/within_token.py`, which is exact along tokens). With decoding "prior" the byte head's logits
are added to the logarithm of that, and begin at zero: step 2.1 starts from what Stage 1 knows.

Chunks of the router are nearly always tokens, and two rules are for the others. A chunk is closed before the byte with
which no token goes on, whatever the router says; as the router does, this knows one byte of look-ahead. And any byte
may end a chunk, or may not, with a probability of at least FLAGS / 2 of its own.

The paper's decoder begins from nothing, and drops the vocabulary; this one reads the token head once for each chunk, as
a token model does, so it is an option that is off: docs/deviations.md.

Shape letters: T positions of the core, V tokens, E core width, R nodes asked for, B rows, L bytes, M chunks, X bytes of
rows or of a tree, K2 = 512 joint symbols (byte + 256 if the chunk ends there).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dbyte.model.chunking import Chunks
from dbyte.model.router import THRESHOLD
from dbyte.text.sorted_vocabulary import BYTES, JOINT, Node, SortedVocabulary

FLAGS = 0.02  # of a byte's probability, divided evenly between its flags
FLOOR = 1e-3  # of all probability, divided evenly between the symbols
AT_ONCE = 512  # positions whose probabilities of all tokens are in memory together


class TokenPrior:
    """Log-probabilities of the joint symbols, by the tokens of a vocabulary; nothing takes a gradient."""

    def __init__(self, vocabulary: SortedVocabulary):
        """vocabulary: of the token head."""
        self.vocabulary = vocabulary

    @torch.no_grad()
    def probabilities(self, logits_TV: Tensor) -> Tensor:
        """The probability of each token (at least fp32, [T, V]) in the order of their bytes."""
        precision = torch.promote_types(logits_TV.dtype, torch.float32)
        return logits_TV.softmax(-1, dtype=precision)[:, self.vocabulary.id_V.to(logits_TV.device)]

    @torch.no_grad()
    def log_probs(self, prob_TV: Tensor, asked: Sequence[Sequence[Node | None]]) -> Tensor:
        """Log-probabilities of what follows ([R, K2], of prob_TV's type), position after position.

        prob_TV: as of `probabilities`. asked: after each position, nodes of the vocabulary that a chunk's bytes so far
        have led to; None, where no token begins with them, is followed by anything.
        """
        known_R = torch.tensor([node is not None for nodes in asked for node in nodes], device=prob_TV.device)
        sums_NS = self.vocabulary.sums(prob_TV.T.contiguous(), [list(filter(None, nodes)) for nodes in asked], "joint")
        total_N1 = sums_NS.sum(1, keepdim=True)
        prob_RS = sums_NS.new_full((len(known_R), JOINT), 1 / JOINT)
        prob_RS[known_R] = torch.where(total_N1 > 0, sums_NS / total_N1, 1 / JOINT)
        either_RS = prob_RS.view(-1, 2, BYTES).mean(1).repeat(1, 2)
        prob_RS = (1 - FLOOR) * torch.lerp(prob_RS, either_RS, FLAGS) + FLOOR / JOINT
        return prob_RS.log().to(prob_TV.dtype)

    @torch.no_grad()
    def after(
        self, core_TE: Tensor, token_head: Callable[[Tensor], Tensor], asked: Sequence[Sequence[Node | None]]
    ) -> Tensor:
        """`log_probs` after the core's states; memory beyond the result is O(AT_ONCE * V)."""
        parts = [self.log_probs(self.probabilities(token_head(states_TE)), asked[start : start + AT_ONCE])
                 for start, states_TE in zip(range(0, len(core_TE), AT_ONCE), core_TE.split(AT_ONCE), strict=True)]
        return torch.cat(parts)

    @torch.no_grad()
    def along(
        self, core_BME: Tensor, token_head: Callable[[Tensor], Tensor], byte_ids_BL: Tensor, chunks: Chunks
    ) -> Tensor:
        """The prior (at least fp32, [B, L, K2]) at each byte, of what follows it; 0 before a row's first chunk."""
        asked = []
        places = []  # of the bytes: numbers in a table of B * L
        for row, (ids_L, ends_M, mask_M) in enumerate(zip(byte_ids_BL.tolist(), chunks.position_BM.tolist(),
                                                          chunks.mask_BM.tolist(), strict=True)):
            text = bytes(ids_L)
            ends = [end for end, real in zip(ends_M, mask_M, strict=True) if real]
            for end, until in zip(ends, [*ends[1:], len(text)], strict=True):
                path = self.vocabulary.path(text[end + 1 : until])
                asked.append(path + [None] * (until - end - len(path)))
                places += range(row * len(text) + end, row * len(text) + until)
        precision = torch.promote_types(core_BME.dtype, torch.float32)
        prior_XK = core_BME.new_zeros(byte_ids_BL.numel(), JOINT, dtype=precision)
        if asked:
            place_R = torch.tensor(places, device=core_BME.device)
            prior_XK[place_R] = self.after(core_BME[chunks.mask_BM], token_head, asked).to(precision)
        return prior_XK.view(*byte_ids_BL.shape, JOINT)

    def close_chunks(self, prob_BL: Tensor, byte_ids_BL: Tensor) -> Tensor:
        """`within_tokens` of rows, whose probabilities stand at the byte that a chunk ends with."""
        L = prob_BL.shape[1]
        before = [place - 1 if place % L else -1 for place in range(prob_BL.numel())]
        return self.within_tokens(prob_BL.roll(1).flatten(), byte_ids_BL.flatten(), before).view_as(prob_BL).roll(-1)

    def within_tokens(self, prob_X: Tensor, byte_X: Tensor, before_X: Sequence[int]) -> Tensor:
        """A router's probabilities that a chunk ends before each byte, of which no chunk grows beyond all tokens.

        before_X: the place of the byte before each, -1 for a first one; it is a smaller place. Where no token goes on
        with a byte, the probability is at least THRESHOLD.
        """
        closed_X = (prob_X >= THRESHOLD).tolist()
        node_X: list[Node | None] = []
        child = self.vocabulary.child
        root = self.vocabulary.node(b"")
        forced = []
        for place, (byte, before) in enumerate(zip(byte_X.tolist(), before_X, strict=True)):
            node = None if before < 0 or closed_X[place] else child(node_X[before], byte)
            if node is None:
                if before >= 0 and not closed_X[place]:
                    forced.append(place)
                node = child(root, byte)
            node_X.append(node)
        forced_X = torch.zeros_like(prob_X, dtype=torch.bool)
        forced_X[forced] = True
        return torch.where(forced_X, prob_X.clamp(min=THRESHOLD), prob_X)
