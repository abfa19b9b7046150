"""What the token head says of the next byte: a prior that the decoder corrects, for Stage 2 with few bytes.

Stage 1 ends with a student that is a model of bytes already: within a chunk, the head's probabilities of all tokens
that begin with the chunk's bytes so far add up to a distribution over the next byte and whether the chunk ends there
(`dbyte/byte_probabilities/within_token.py`, which is exact along tokens). With decoding "prior" the byte head's logits
are added to the logarithm of that, and begin at zero: step 2.1 starts from what Stage 1 knows.

Chunks of the router are nearly always tokens, and two rules are for the others. A chunk of given text that is no token
is split into tokens, as when Stage 1 is scored along the router's boundaries. And any byte may end a chunk, or may not,
with a probability of at least FLAGS / 2 of the byte's own.

The paper's decoder begins from nothing, and drops the vocabulary: so this is an option that is off, docs/deviations.md.

Shape letters: T positions of the core, V tokens, E core width, R nodes asked for, B rows, L bytes, M chunks, K2 = 512
joint symbols (byte + 256 if the chunk ends there).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dbyte.model.chunking import Chunks
from dbyte.text.sorted_vocabulary import BYTES, JOINT, Node, SortedVocabulary
from dbyte.text.token_pieces import TokenPieces

FLAGS = 0.02  # of a byte's probability, divided evenly between its flags
FLOOR = 1e-3  # of all probability, divided evenly between the symbols
AT_ONCE = 512  # positions whose probabilities of all tokens are in memory together


class TokenPrior:
    """Log-probabilities of the joint symbols, by the tokens of a vocabulary; nothing takes a gradient."""

    def __init__(self, vocabulary: SortedVocabulary, pieces: TokenPieces):
        """vocabulary: of the token head. pieces: splits chunks into its tokens."""
        self.vocabulary = vocabulary
        self.pieces = pieces
        self.longest = max(map(len, vocabulary.texts))  # bytes of a token

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
        for row, (ids_L, flag_L) in enumerate(zip(byte_ids_BL.tolist(), chunks.boundary_BL.tolist(), strict=True)):
            text = bytes(ids_L)
            ends = [place for place, flag in enumerate(flag_L) if flag]
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

    def split_rows(self, flag_BL: np.ndarray, texts: Sequence[bytes], known_B: Sequence[int]) -> np.ndarray:
        """Whether a chunk ends at each byte of texts (bool [B, L]) by `token_ends`, given a router's flags."""
        split_BL = np.zeros_like(flag_BL)
        for split_L, flag_L, text, known in zip(split_BL, flag_BL, texts, known_B, strict=True):
            ends = np.flatnonzero(flag_L[: len(text)]) + 1
            split_L[[end - 1 for end in self.token_ends(text, ends.tolist(), known=known)]] = True
        return split_BL

    def token_ends(self, text: bytes, ends: Sequence[int], *, known: int) -> list[int]:
        """Where chunks that are tokens end in a text (one past their last bytes), if a router would end some at `ends`.

        ends: ascending. known: so many bytes are read before those after them are known, as a prompt is, and what is
        decided of them depends on them alone. The chunk that they end in is split only if no token begins with it; if
        the bytes that follow make no token of it, it ends there.
        """
        found: list[int] = []
        begin = 0
        for end in ends:
            if end < known or begin >= known:
                found += self.pieces.ends(text, begin, end)
            else:
                begin = self._open(text, begin, known, found)
                if end == known or text[begin:end] in self.pieces.id_of:
                    found.append(end)
                else:
                    found += [known, *self.pieces.ends(text, known, end)]
            begin = end
        if begin < known:
            self._open(text, begin, known, found)
        return found

    def _open(self, text: bytes, begin: int, known: int, found: list[int]) -> int:
        """Where the last chunk of what is known begins, `begin` or later; the ends of chunks before it go to found."""
        if self.vocabulary.node(text[begin:known]) is not None:
            return begin
        closed = self.pieces.ends(text, begin, known)[:-1]
        found += closed
        return max(closed, default=begin)
